"""The server's own records: what a model is, what waits to be executed, what came of it."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from tinker_actors.local.engine.catalog import ModelConfig
from tinker_actors.local.engine.lora import Adapter, new_adapter
from tinker_actors.types import LoraConfig
from tinker_actors.wire.json import output_document, sample_document
from tinker_actors.wire.protobuf import decode_output, decode_sample

__all__ = ["AdapterSpec", "Kind", "ModelSpec", "Result", "Ticket", "as_json", "failure"]

Kind = Literal[
    "create_model",
    "forward",
    "forward_backward",
    "load_weights",
    "optim_step",
    "refused",
    "sample",
    "save_weights",
    "save_weights_external",
    "save_weights_for_sampler",
    "unload_model",
]
"""What a request is for; `refused` stands in the place of an operation that was not accepted."""


class AdapterSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter is made from."""

    base_model: str
    """Name of the base model."""
    rank: int
    """Rank of the adapter."""
    seed: int
    """Seed of the adapter's first values."""
    train_attn: bool
    train_mlp: bool
    train_unembed: bool

    def common(self) -> dict[str, Any]:
        """The fields that every kind of spec has, by name."""
        return {name: getattr(self, name) for name in AdapterSpec.__struct_fields__}

    def make(self, config: ModelConfig) -> Adapter:
        """The adapter before its first step, for a base model of this shape."""
        fields = self.common()
        del fields["base_model"]
        return new_adapter(config, **fields)


class ModelSpec(AdapterSpec, frozen=True, kw_only=True):
    """What a model in training is made from; never changes."""

    source: str | None = None
    """`tinker://` path of the checkpoint it starts from; None starts from the seed."""
    optimizer: bool = False
    """Whether the optimizer's state comes from the checkpoint, too."""
    user_metadata: Mapping[str, Any] = msgspec.field(default_factory=dict)
    base_digest: str = ""
    """Digest of the base model's files as they were; empty if it has none."""

    @classmethod
    def of(
        cls, base_model: str, lora: LoraConfig, seed: int, user_metadata: Mapping[str, Any]
    ) -> "ModelSpec":
        """The spec of a model that starts from its seed."""
        return cls(
            base_model=base_model,
            rank=lora.rank,
            seed=seed,
            train_attn=lora.train_attn,
            train_mlp=lora.train_mlp,
            train_unembed=lora.train_unembed,
            user_metadata=user_metadata,
        )


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted request that waits to be executed."""

    request_id: str
    kind: Kind
    queue: str
    """The model or sampling session whose turn it takes."""
    seq_id: int | None
    """Its place in a model's order; None: any time."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a request came to, as it is stored."""

    form: Literal["output", "sample", "json", "error", "expired"]
    """`output` and `sample` are protobuf, `json` and `error` JSON; `expired` is no longer kept."""
    body: bytes

    def render(self, *, protobuf: bool) -> tuple[str, bytes]:
        """Media type and body for a client that reads protobuf, or does not."""
        if self.form not in ("output", "sample"):
            return "application/json", self.body
        if protobuf:
            return "application/x-protobuf", self.body
        if self.form == "sample":
            return "application/json", as_json(sample_document(decode_sample(self.body)))
        return "application/json", as_json(output_document(decode_output(self.body)))


def failure(message: str, category: Literal["user", "server"]) -> Result:
    """The result of a request that failed while it was executed."""
    return Result(form="error", body=as_json({"error": message, "category": category}))


def as_json(document: Any) -> bytes:
    """A document's bytes."""
    return msgspec.json.encode(document)
