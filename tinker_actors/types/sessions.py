"""What the service says of itself."""

import msgspec

__all__ = ["ServerCapabilities", "SupportedModel"]


class SupportedModel(msgspec.Struct, kw_only=True):
    """A base model the service offers."""

    model_name: str | None = None
    """Its name."""
    max_context_length: int | None = None
    """Most tokens of an input and its continuation."""
    trainable: bool | None = None
    """Whether it can be fine-tuned."""
    sampleable: bool | None = None
    """Whether it can be sampled from."""


class ServerCapabilities(msgspec.Struct, kw_only=True):
    """What the service offers."""

    supported_models: list[SupportedModel]
    """Its base models."""
