"""The numpy engine: a decoder-only transformer with LoRA, its exact gradients, AdamW and sampling."""
