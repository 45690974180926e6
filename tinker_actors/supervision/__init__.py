"""An OTP-like supervision kit on Pykka: child specs, supervisors, addresses, events. Knows nothing of Tinker."""

from tinker_actors.supervision.actor import Context, SupervisedActor
from tinker_actors.supervision.address import Address
from tinker_actors.supervision.backoff import Backoff
from tinker_actors.supervision.clock import Clock, MonotonicClock, Timer
from tinker_actors.supervision.commands import (
    ChildCounts,
    ChildInfo,
    CountChildren,
    DeleteChild,
    RestartChild,
    StartChild,
    TerminateChild,
    WhichChildren,
)
from tinker_actors.supervision.dynamic import DynamicSupervisor
from tinker_actors.supervision.events import (
    ChildAbandoned,
    ChildDeleted,
    ChildExited,
    ChildRestarting,
    ChildStarted,
    ChildStartFailed,
    DeadLetter,
    ErrorContained,
    Escalated,
    Event,
    EventStream,
    ShutdownBegan,
    ShutdownEnded,
    ZombieEnded,
)
from tinker_actors.supervision.exits import (
    NORMAL,
    Error,
    ExitReason,
    Killed,
    Normal,
    Shutdown,
    ShutdownWith,
    StartFailed,
    Stop,
)
from tinker_actors.supervision.replies import Reply
from tinker_actors.supervision.specs import ChildSpec, Kind, OnPending, Restart, Strategy
from tinker_actors.supervision.supervisor import Supervisor
from tinker_actors.supervision.tree import ActorTree, TreeNode

__all__ = [
    "NORMAL",
    "ActorTree",
    "Address",
    "Backoff",
    "ChildAbandoned",
    "ChildCounts",
    "ChildDeleted",
    "ChildExited",
    "ChildInfo",
    "ChildRestarting",
    "ChildSpec",
    "ChildStartFailed",
    "ChildStarted",
    "Clock",
    "Context",
    "CountChildren",
    "DeadLetter",
    "DeleteChild",
    "DynamicSupervisor",
    "Error",
    "ErrorContained",
    "Escalated",
    "Event",
    "EventStream",
    "ExitReason",
    "Killed",
    "Kind",
    "MonotonicClock",
    "Normal",
    "OnPending",
    "Reply",
    "Restart",
    "RestartChild",
    "Shutdown",
    "ShutdownBegan",
    "ShutdownEnded",
    "ShutdownWith",
    "StartChild",
    "StartFailed",
    "Stop",
    "Strategy",
    "SupervisedActor",
    "Supervisor",
    "TerminateChild",
    "Timer",
    "TreeNode",
    "WhichChildren",
    "ZombieEnded",
]
