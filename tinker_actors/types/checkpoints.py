"""Checkpoints: their `tinker://` paths and what saving gives back."""

from typing import Literal, Self

import msgspec

from tinker_actors.errors import TinkerPathError, ValidationError
from tinker_actors.types.checks import shown
from tinker_actors.types.console import checkpoint_page, playground_page

__all__ = [
    "CheckpointKind",
    "CheckpointPath",
    "PushedAdapter",
    "SamplingClientKind",
    "SaveWeightsExternalResponse",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsResponse",
]

SamplingClientKind = Literal["snapshot", "inflight"]
"""Which weights a sampler of an unnamed save has: these, or the newest of the model's."""
CheckpointKind = Literal["weights", "sampler_weights", "external_weights"]
_KINDS: tuple[CheckpointKind, ...] = ("weights", "sampler_weights", "external_weights")

_MADE_BY: dict[CheckpointKind, str] = {
    "weights": "save_state",
    "sampler_weights": "save_weights_for_sampler",
    "external_weights": "save_weights_external",
}


class CheckpointPath(msgspec.Struct, frozen=True):
    """`tinker://<training run>/<kind>/<name>`, taken apart."""

    training_run_id: str
    """The service's id of the model that was saved."""
    kind: CheckpointKind
    """`weights` holds training state, `sampler_weights` only what sampling needs, `external_weights` an export."""
    name: str
    """The checkpoint's name."""

    @classmethod
    def parse(cls, path: str, *, kind: CheckpointKind | None = None) -> Self:
        """`path` taken apart, of the `kind` wanted.

        Raises:
            TinkerPathError: it is malformed or of the other kind.
            ValidationError: `kind` is none.
        """
        if kind is not None and not (isinstance(kind, str) and kind in _KINDS):
            raise ValidationError(f"kind must be one of {', '.join(_KINDS)} or None, got {shown(kind)}")
        is_path = isinstance(path, str) and path.startswith("tinker://")
        parts = path.removeprefix("tinker://").split("/") if is_path else []
        match parts:
            case [run, found, name] if run and name and found in _KINDS:
                if kind is not None and found != kind:
                    raise TinkerPathError(
                        f"a path of kind {kind} is wanted here, got {shown(path)}; {_MADE_BY[kind]} makes one"
                    )
                return cls(run, found, name)
        raise TinkerPathError(
            f"checkpoint paths read tinker://<training run>/<{'|'.join(_KINDS)}>/<name>, got {shown(path)}"
        )

    def __str__(self) -> str:
        return f"tinker://{self.training_run_id}/{self.kind}/{self.name}"


class SaveWeightsResponse(msgspec.Struct, kw_only=True):
    """Where training state was saved."""

    path: str
    """`tinker://` path of the checkpoint."""

    def get_console_url(self) -> str:
        """The page about it on the hosted service's console."""
        return _page(self.path)


class SaveWeightsForSamplerResponse(msgspec.Struct, kw_only=True):
    """Where sampler weights were saved."""

    path: str | None = None
    """`tinker://` path; None for an ephemeral save."""
    sampling_session_id: str | None = None
    """The sampling session over an ephemeral save."""

    def get_console_url(self) -> str:
        """The page about it on the hosted service's console.

        Raises:
            ValidationError: the save is ephemeral.
        """
        return _page(self._named())

    def get_playground_url(self) -> str:
        """Where it can be tried out on the hosted service's console.

        Raises:
            ValidationError: the save is ephemeral.
        """
        return playground_page(self._named())

    def _named(self) -> str:
        if self.path is None:
            raise ValidationError("an unnamed save has no page; save the weights under a name")
        return self.path


class SaveWeightsExternalResponse(msgspec.Struct, kw_only=True):
    """Where weights were exported to."""

    path: str
    """`tinker://` path of the export; `RestClient.get_external_weights_urls` says where its files are."""
    size_bytes: int | None = None
    """Of all files, where the service says so."""


class PushedAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """Where on the Hugging Face hub an adapter is."""

    repo_id: str
    """The repository, `owner/name`."""
    revision: str
    """The branch it was added to, or that the pull request is for."""
    public: bool
    """Whether everybody can read it."""
    commit_url: str
    """The page of the commit."""
    pull_request_url: str | None = None
    """The page of the pull request, if one was asked for."""


def _page(path: str) -> str:
    run, kind, name = path.removeprefix("tinker://").split("/", 2)
    return checkpoint_page(run, f"{kind}/{name}")
