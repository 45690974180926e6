"""Checkpoints: their `tinker://` paths and what saving gives back."""

from typing import Literal, Self

import msgspec

from tinker_actors.errors import TinkerPathError

__all__ = ["CheckpointKind", "CheckpointPath", "SaveWeightsForSamplerResponse", "SaveWeightsResponse"]

CheckpointKind = Literal["weights", "sampler_weights"]
_KINDS: tuple[CheckpointKind, ...] = ("weights", "sampler_weights")


class CheckpointPath(msgspec.Struct, frozen=True):
    """`tinker://<training run>/<kind>/<name>`, taken apart."""

    training_run_id: str
    """The service's id of the model that was saved."""
    kind: CheckpointKind
    """`weights` holds training state, `sampler_weights` only what sampling needs."""
    name: str
    """The checkpoint's name."""

    @classmethod
    def parse(cls, path: str, *, kind: CheckpointKind | None = None) -> Self:
        """`path` taken apart, of the `kind` wanted.

        Raises:
            TinkerPathError: it is malformed or of the other kind.
        """
        is_path = isinstance(path, str) and path.startswith("tinker://")
        parts = path.removeprefix("tinker://").split("/") if is_path else []
        match parts:
            case [run, found, name] if run and name and found in _KINDS:
                if kind is not None and found != kind:
                    raise TinkerPathError(f"a path of kind {kind} is wanted here, got {path!r}")
                return cls(run, found, name)
        raise TinkerPathError(
            f"checkpoint paths read tinker://<training run>/<{'|'.join(_KINDS)}>/<name>, got {path!r}"
        )

    def __str__(self) -> str:
        return f"tinker://{self.training_run_id}/{self.kind}/{self.name}"


class SaveWeightsResponse(msgspec.Struct, kw_only=True):
    """Where training state was saved."""

    path: str
    """`tinker://` path of the checkpoint."""


class SaveWeightsForSamplerResponse(msgspec.Struct, kw_only=True):
    """Where sampler weights were saved."""

    path: str | None = None
    """`tinker://` path; None for an ephemeral save."""
    sampling_session_id: str | None = None
    """The sampling session over an ephemeral save."""
