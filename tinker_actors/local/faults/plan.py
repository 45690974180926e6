"""Faults as data: what goes wrong, with which requests, and how often; from a file or from a control request."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from tinker_actors.errors import ValidationError

__all__ = ["DAMAGING", "ENDING", "Effect", "Fault", "FaultPlan", "Moment", "read_plan"]

Effect: TypeAlias = Literal[
    "cool_optimizer",
    "corrupt_run",
    "delay",
    "drop",
    "expire_result",
    "expire_session",
    "half_body",
    "hang",
    "lose_checkpoint",
    "lose_model",
    "reset",
    "spoil_checkpoint",
    "status",
]
Moment: TypeAlias = Literal["before", "after"]

ENDING: frozenset[Effect] = frozenset({"drop", "half_body", "hang", "reset", "status"})
"""What stands in the place of the service's answer."""
DAMAGING: frozenset[Effect] = frozenset(
    {
        "cool_optimizer",
        "corrupt_run",
        "expire_result",
        "expire_session",
        "lose_checkpoint",
        "lose_model",
        "spoil_checkpoint",
    }
)
"""What changes what the service keeps; the request itself is answered truly."""
ONLY_AFTER: frozenset[Effect] = frozenset({"half_body"})

Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=86_400.0)]
Count: TypeAlias = Annotated[int, Meta(ge=1)]


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that goes wrong.

    It counts the requests that match all it names; it fires at the `nth` of them and those behind it, `count`
    times in all, each with `probability`. `operation`, `model_id` and `session_id` may hold `*` and `?`.

    Raises:
        ValueError: settings contradict each other; names the field, what was wanted and what came.
    """

    effect: Effect
    """What happens.

    In the place of the answer: `drop` closes the connection and `reset` resets it without a byte, `status`
    answers with an error, `half_body` breaks off in the middle of the true answer, `hang` never answers. Beside
    it: `delay` takes `seconds`. To what the service keeps: `expire_session`, `lose_model`, `corrupt_run` (the flag
    of a training run), `lose_checkpoint`, `spoil_checkpoint` (its file breaks off), `cool_optimizer` (its moments
    and steps are zero), `expire_result` (the result of an operation is gone: 410).
    """
    name: Annotated[str, Meta(max_length=100)] = ""
    """To tell it by; made from its effect if empty."""
    when: Moment | None = None
    """`before`: the service never sees the request, or sees it afterwards. `after`: it has handled it, and
    executed what it accepted, so that only the answer suffers. By default `after` for `half_body`, else `before`."""
    operation: str = "*"
    """The endpoint below `/api/v1/`, like `optim_step` or `sessions/*/finish`."""
    of: str | None = None
    """Of polls, only those for results of this kind of request, like `optim_step`."""
    model_id: str | None = None
    """Only requests that name this model."""
    session_id: str | None = None
    """Only requests that name this session, or a model or sampling session of it."""
    seq_id: int | None = None
    """Only requests at this place of their model or sampling session."""
    nth: Count = 1
    """The first match at which it may fire."""
    count: Count | Literal["always"] = 1
    """How often it fires at most."""
    probability: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    """Of firing at a match, drawn by the plan's seed and the number of the match."""
    from_s: Seconds = 0.0
    """Seconds after it was set up from which on it sees requests."""
    until_s: Seconds | None = None
    """Seconds after it was set up from which on it sees none."""
    seconds: Seconds = 1.0
    """How long a `delay` takes."""
    status: Annotated[int, Meta(ge=400, le=599)] = 500
    """HTTP status of a `status`."""
    retry_after_s: Seconds | None = None
    """Its header Retry-After."""
    detail: str = "injected fault"
    """Its text."""
    path: str | None = None
    """`tinker://` path of the checkpoint; else the one that the request names or wrote."""
    patience_s: Seconds = 10.0
    """How long `after` waits for an operation to be executed."""

    def __post_init__(self) -> None:
        if self.effect in ONLY_AFTER and self.when == "before":
            raise ValueError(f"{self.effect} needs an answer: `when` must be after, got before")
        if self.until_s is not None and self.until_s <= self.from_s:
            raise ValueError(f"until_s must be above from_s = {self.from_s}, got {self.until_s}")
        if self.of is not None and self.operation != "retrieve_future":
            raise ValueError(
                f"`of` tells polls apart: operation must be retrieve_future, got {self.operation}"
            )

    @property
    def moment(self) -> Moment:
        """`when`, or its default."""
        return self.when or ("after" if self.effect in ONLY_AFTER else "before")


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Faults, in the order in which they are asked, and the seed of their chances."""

    faults: list[Fault]
    seed: int = 0

    def __post_init__(self) -> None:
        names = [fault.name for fault in self.faults if fault.name]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"names of faults must differ, got {', '.join(sorted(twice))} more than once")


def read_plan(source: Path | bytes | dict[str, Any]) -> FaultPlan:
    """A plan from a TOML or JSON file (by its ending), from JSON, or from plain values.

    Raises:
        ValidationError: it cannot be read, or is no plan.
    """
    name = str(source) if isinstance(source, Path) else "the fault plan"
    try:
        if isinstance(source, dict):
            return msgspec.convert(source, FaultPlan)
        if isinstance(source, bytes):
            return msgspec.json.decode(source, type=FaultPlan)
        if source.suffix == ".toml":
            return msgspec.convert(tomllib.loads(source.read_text()), FaultPlan)
        return msgspec.json.decode(source.read_bytes(), type=FaultPlan)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ValidationError(f"{name} must be a fault plan in TOML or JSON: {error}") from error
