"""Small models of random weights on disk, in Hugging Face format."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tinker_actors.tokenization.byte_level import byte_symbols

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
"""A `config.json`, without what the engine does not read."""

WORDS = ["<s>", "</s>", "<unk>", "the", "quick", "brown", "fox"]


def arrays_of(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights for a `config.json`, by Hugging Face's names."""
    random = np.random.default_rng(seed)
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    keys = config["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        parts: dict[str, tuple[int, ...]] = {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (heads * head_dim, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, heads * head_dim),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        if config["model_type"] == "qwen3":
            parts |= {"self_attn.q_norm": (head_dim,), "self_attn.k_norm": (head_dim,)}
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in parts.items()}
    return {
        name: (random.standard_normal(shape) * 0.3 + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_model(directory: Path, **changes: Any) -> dict[str, np.ndarray]:
    """A directory with `LLAMA`, changed, its weights in one file and a tokenizer of words; the weights."""
    config = {**LLAMA, **changes}
    arrays = arrays_of(config)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", config)
    save_file(arrays, directory / "model.safetensors")
    write_tokenizer(directory)
    return arrays


def write_json(file: Path, document: Any) -> None:
    file.write_text(json.dumps(document))


def write_tokenizer(directory: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in WORDS[:3]])
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", {"eos_token": "</s>", "bos_token": {"content": "<s>"}})


MERGED = ["th", "the", " t", " the", "in", "ing", "12", "123", "ab", "aB", "!!", "  ", "    "]
HAN = "你好".encode()
RANKS = [*(bytes([byte]) for byte in range(256)), *(text.encode() for text in MERGED), HAN[:2], HAN[:3], HAN]
"""Tokens of a small `tiktoken.model`, each but the bytes made of two before it."""


def write_rank_tokenizer(directory: Path, **settings: Any) -> int:
    """A directory with a tokenizer of `RANKS` of Kimi's kind, and `settings` of it; the first id behind the ranks."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(RANKS)]
    (directory / "tiktoken.model").write_text("".join(lines))
    names = {0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_user|>", 4: "<|im_assistant|>", 9: "<|tool|>"}
    added = {
        str(len(RANKS) + place): {"content": name, "special": name != "<|tool|>"}
        for place, name in names.items()
    }
    own = {"tokenizer_class": "TikTokenTokenizer", "added_tokens_decoder": added}
    named = {"bos_token": "[BOS]", "eos_token": "[EOS]"}
    write_json(directory / "tokenizer_config.json", own | named | settings)
    return len(RANKS)


SPECIALS = ["<|end|>", "<|begin|>", "<|user|>", "<|assistant|>"]


def write_byte_tokenizer(directory: Path, **settings: Any) -> None:
    """A directory with a tokenizer of bytes, `SPECIALS` behind them from id 256 on, and `settings` of it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.BPE(vocab={symbol: byte for byte, symbol in enumerate(byte_symbols())}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    named = {"eos_token": SPECIALS[0], "bos_token": SPECIALS[1]}
    write_json(directory / "tokenizer_config.json", named | settings)
