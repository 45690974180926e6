"""What a supervisor can be asked, and what it answers. Commands go before the user's messages."""

from dataclasses import dataclass
from typing import ClassVar

from tinker_actors.supervision.exits import ExitReason
from tinker_actors.supervision.specs import ChildSpec, Kind, Restart

__all__ = [
    "ChildCounts",
    "ChildInfo",
    "Command",
    "CountChildren",
    "DeleteChild",
    "GetChildSpec",
    "RestartChild",
    "StartChild",
    "TerminateChild",
    "WhichChildren",
]


class Command:
    """Base of the commands; each is answered without waiting for any other child."""

    __slots__ = ()
    is_control: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class StartChild(Command):
    """Add a child and start it; answered with its `Address`, None if it is `IGNORED`, or `StartFailedError`."""

    spec: ChildSpec
    retries: bool = False
    """Whether a first start that fails is a failure like any later one, instead of the end of the child."""


@dataclass(frozen=True, slots=True)
class TerminateChild(Command):
    """End a child; answered with None once it has ended. A static child's spec is kept, others go with it."""

    id: str


@dataclass(frozen=True, slots=True)
class RestartChild(Command):
    """Start a child that is down, or now one that waits for its restart; answered with its `Address`."""

    id: str


@dataclass(frozen=True, slots=True)
class DeleteChild(Command):
    """Forget the spec of a child that is down."""

    id: str


@dataclass(frozen=True, slots=True)
class WhichChildren(Command):
    """Answered with a list of `ChildInfo`, in start order."""


@dataclass(frozen=True, slots=True)
class CountChildren(Command):
    """Answered with a `ChildCounts`."""


@dataclass(frozen=True, slots=True)
class GetChildSpec(Command):
    """Answered with the `ChildSpec` of a child."""

    id: str


@dataclass(frozen=True, slots=True)
class ChildInfo:
    """One child, as its supervisor sees it."""

    id: str
    path: str
    kind: Kind
    restart: Restart
    state: str
    epoch: int
    restarts: int
    last_exit: ExitReason | None


@dataclass(frozen=True, slots=True)
class ChildCounts:
    """How many children there are."""

    specs: int
    """All of them."""
    active: int
    """Those with an incarnation."""
    supervisors: int
    """Supervisors among the specs."""
    workers: int
    """Workers among the specs."""
