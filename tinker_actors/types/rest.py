"""What the service keeps and lists: sessions, training runs, checkpoints, samplers.

Unknown fields of an answer are ignored, optional ones may be missing.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import msgspec

from tinker_actors.errors import ConfigError, TinkerPathError
from tinker_actors.types.checkpoints import CheckpointPath
from tinker_actors.types.optimizers import OptimizerFamily

__all__ = [
    "AccessScope",
    "Checkpoint",
    "CheckpointArchiveUrlResponse",
    "CheckpointType",
    "CheckpointsListResponse",
    "Cursor",
    "ExternalWeightsUrlsResponse",
    "GetSamplerResponse",
    "GetSessionResponse",
    "ListSessionsResponse",
    "ParsedCheckpointTinkerPath",
    "SessionSearchCursor",
    "SessionSearchOwner",
    "SessionSearchRequest",
    "SessionSearchResponse",
    "SessionStatusQuery",
    "SessionSummary",
    "Time",
    "TrainingRun",
    "TrainingRunsResponse",
    "WeightsInfoResponse",
    "WhoamiResponse",
]

AccessScope = Literal["owned", "accessible"]
"""Whose things: the caller's own, or all that the caller may see."""
CheckpointType = Literal["training", "sampler", "external"]

if TYPE_CHECKING:
    Time: TypeAlias = datetime | str
    """An aware time; a text that is no ISO 8601 stays as it came, so that one bad row spoils no list."""
else:  # msgspec takes no union of the two; `_read_times` does
    Time = Any

_TYPES: dict[str, CheckpointType] = {
    "weights": "training",
    "sampler_weights": "sampler",
    "external_weights": "external",
}


def _read_times(record: msgspec.Struct, *fields: str) -> None:
    for name in fields:
        value = getattr(record, name)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime) and value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        msgspec.structs.force_setattr(record, name, value)


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """Where a page stands in its list."""

    offset: int
    """Entries before the page."""
    limit: int
    """Most entries of a page."""
    total_count: int
    """Entries of the list."""

    @property
    def next_offset(self) -> int | None:
        """Where the next page begins; None behind the last one."""
        following = self.offset + self.limit
        return following if self.offset < following < self.total_count else None


# Checkpoints ------------------------------------------------------------------------------------


class ParsedCheckpointTinkerPath(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint's `tinker://` path of any kind, as the REST endpoints want it."""

    tinker_path: str
    """The whole path."""
    training_run_id: str
    """The service's id of the model that was saved."""
    checkpoint_type: CheckpointType
    """What the checkpoint is good for."""
    checkpoint_id: str
    """`<kind>/<name>`."""

    @classmethod
    def from_tinker_path(cls, tinker_path: str) -> Self:
        """`tinker_path` taken apart.

        Raises:
            TinkerPathError: it is malformed.
        """
        path = CheckpointPath.parse(tinker_path)
        return cls(
            tinker_path=tinker_path,
            training_run_id=path.training_run_id,
            checkpoint_type=_TYPES[path.kind],
            checkpoint_id=f"{path.kind}/{path.name}",
        )


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A saved state of a model."""

    checkpoint_id: str
    """`<kind>/<name>` on the hosted service, the bare name on others."""
    checkpoint_type: str
    """"training", "sampler" or "external"."""
    time: Time
    """When it was saved."""
    tinker_path: str
    """Its `tinker://` path."""
    size_bytes: int | None = None
    """Its size."""
    public: bool = False
    """Whether everybody may read it."""
    user_metadata: dict[str, Any] | None = None
    """What was kept with it."""
    expires_at: Time | None = None
    """When it will be deleted; None means never."""

    def __post_init__(self) -> None:
        _read_times(self, "time", "expires_at")

    @property
    def name(self) -> str:
        """The id without its kind."""
        return self.checkpoint_id.rpartition("/")[2]

    @property
    def training_run_id(self) -> str | None:
        """The run it was saved from, as its path tells; None where the path is of another form."""
        try:
            return ParsedCheckpointTinkerPath.from_tinker_path(self.tinker_path).training_run_id
        except TinkerPathError:
            return None


class CheckpointsListResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A page of checkpoints."""

    checkpoints: list[Checkpoint]
    """In the service's order."""
    cursor: Cursor | None = None
    """Where the page stands; None where this is the whole list."""


class CheckpointArchiveUrlResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Where a checkpoint's archive can be fetched, by a plain GET without the API key."""

    url: str
    """A signed URL."""
    expires: Time
    """Until when it works."""

    def __post_init__(self) -> None:
        _read_times(self, "expires")


class ExternalWeightsUrlsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Where the files of exported weights can be fetched, by plain GETs without the API key."""

    urls: dict[str, str]
    """Signed URL by path below the checkpoint."""
    expires: Time
    """Until when they work."""

    def __post_init__(self) -> None:
        _read_times(self, "expires")


class WeightsInfoResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What must be known of a checkpoint to load it."""

    base_model: str
    """What was fine-tuned."""
    is_lora: bool
    """Whether low-rank matrices were trained."""
    lora_rank: int | None = None
    """Their rank."""
    train_unembed: bool | None = None
    """Also at the output embedding."""
    train_mlp: bool | None = None
    """Also in the feed-forward layers."""
    train_attn: bool | None = None
    """Also in the attention layers."""
    optimizer_config: OptimizerFamily = OptimizerFamily()
    """The optimizer."""


# Training runs ----------------------------------------------------------------------------------


class TrainingRun(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is or was in training."""

    training_run_id: str
    """The service's id."""
    base_model: str
    """What is fine-tuned."""
    model_owner: str
    """Whose it is."""
    is_lora: bool
    """Whether low-rank matrices are trained."""
    last_request_time: Time
    """When it was last asked for something."""
    corrupted: bool = False
    """Whether the service gave it up."""
    lora_rank: int | None = None
    """Rank of the matrices."""
    last_checkpoint: Checkpoint | None = None
    """The newest training state saved."""
    last_sampler_checkpoint: Checkpoint | None = None
    """The newest sampler weights saved."""
    user_metadata: dict[str, Any] | None = None
    """What was kept with it."""

    def __post_init__(self) -> None:
        _read_times(self, "last_request_time")


class TrainingRunsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A page of training runs."""

    training_runs: list[TrainingRun]
    """In the service's order."""
    cursor: Cursor
    """Where the page stands."""


# Sessions and samplers --------------------------------------------------------------------------


class ListSessionsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A page of session ids."""

    sessions: list[str]
    """In the service's order."""


class GetSessionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What lives in a session."""

    training_run_ids: list[str]
    """Its models."""
    sampler_ids: list[str]
    """Its sampling sessions."""
    user_metadata: dict[str, Any] | None = None
    """What was kept with it."""
    display_name: str | None = None
    """Its name for people."""


class GetSamplerResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What a sampling session samples from."""

    sampler_id: str
    """The service's id."""
    base_model: str
    """The base model."""
    model_path: str | None = None
    """`tinker://` path of the sampler weights over it."""


class WhoamiResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Who a credential belongs to."""

    user_urn: str
    """The principal."""
    org_urn: str
    """The organization it acts in."""
    email: str | None = None
    """The user's, where a user is behind it."""

    @classmethod
    def from_claims(cls, claims: Mapping[str, Any]) -> Self:
        """Who a JWT is about, as it says itself; its signature is the service's to check.

        Raises:
            ConfigError: the service did not issue it, or it lacks a claim.
        """
        issuer, user, organization = (claims.get(name) for name in ("iss", "sub", "org_id"))
        if not str(issuer).startswith("passport-"):
            raise ConfigError("whoami reads a JWT of the service's own, got one of another issuer")
        if not (user and isinstance(user, str) and organization and isinstance(organization, str)):
            raise ConfigError(
                "whoami wants a JWT with the claims sub and org_id, got one without; get another"
            )
        return cls(
            user_urn=user,
            org_urn=f"tml:organization:{organization}",
            email=str(claims.get("email") or "") or None,
        )


# Session search ---------------------------------------------------------------------------------


class SessionSearchCursor(msgspec.Struct, frozen=True, kw_only=True):
    """Where the next page starts: a response's `next_cursor`, passed back unchanged."""

    last_created_at: Time
    """As the service wrote it: a time that was read and written again could lose digits."""
    last_session_id: str
    """The last session of the page before."""


class SessionSearchOwner(msgspec.Struct, frozen=True, kw_only=True):
    """Whose sessions are searched."""

    type: Literal["own", "accessible", "user"] = "own"
    """The caller's, everybody's, or those of `owner_urns`."""
    owner_urns: Sequence[str] | None = None
    """1 to 10 users, with "user" only."""


class SessionStatusQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A status to search for."""

    type: Literal["active", "cancelled", "failed", "client_finished"]
    """How the session stands."""
    reasons: Sequence[Literal["success", "errored", "interrupted"]] | None = None
    """With "client_finished": what its client gave as the reason; None takes each."""


class SessionSearchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What sessions to search for."""

    session_id: str | None = None
    """This one; with `display_name`, a session that matches either is found."""
    project_ids: Sequence[str] | None = None
    """In these projects; None searches all that can be listed."""
    user_metadata: dict[str, str] = {}
    """With all of these pairs."""
    display_name: str | None = None
    """With each of these words in the name, in any case."""
    owner: SessionSearchOwner = SessionSearchOwner()
    """Whose."""
    statuses: Sequence[SessionStatusQuery] | None = None
    """In any of these; None takes each."""
    limit: int = 50
    """Most sessions of a page, 1 to 200."""
    cursor: SessionSearchCursor | None = None
    """`next_cursor` of the page before."""


class SessionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was found."""

    session_id: str
    """The service's id."""
    created_at: Time
    """When it was opened."""
    owner: str
    """Whose it is."""
    project_id: str
    """Where it belongs."""
    checkpoints_count: int
    """Checkpoints saved in it."""
    status: dict[str, Any] | None = None
    """How it stands, by `type`; None where it neither ended nor is known to run."""
    display_name: str | None = None
    """Its name for people."""
    user_metadata: dict[str, Any] | None = None
    """What was kept with it."""
    checkpoint_storage_bytes: int | None = None
    """What they take."""

    def __post_init__(self) -> None:
        _read_times(self, "created_at")


class SessionSearchResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A page of sessions, the newest first."""

    sessions: list[SessionSummary]
    """What was found."""
    next_cursor: SessionSearchCursor | None = None
    """For the next request's `cursor`; None behind the last page."""
