"""An OTP-like supervision kit on Pykka: child specs, supervisors, addresses, events. Knows nothing of Tinker."""

from tinker_actors.supervision.actor import SupervisedActor
from tinker_actors.supervision.address import Address
from tinker_actors.supervision.backoff import Backoff
from tinker_actors.supervision.breaker import Outcome, Permit, Refusal
from tinker_actors.supervision.breaker_settings import BreakerMode, BreakerSettings
from tinker_actors.supervision.circuit import Circuit
from tinker_actors.supervision.clock import Clock, MonotonicClock, Timer
from tinker_actors.supervision.commands import (
    ChildCounts,
    ChildInfo,
    CountChildren,
    DeleteChild,
    GetChildSpec,
    RestartChild,
    StartChild,
    TerminateChild,
    WhichChildren,
)
from tinker_actors.supervision.context import Context
from tinker_actors.supervision.dynamic import DynamicSupervisor
from tinker_actors.supervision.events import (
    ChildAbandoned,
    ChildDeleted,
    ChildExited,
    ChildRestarting,
    ChildStarted,
    ChildStartFailed,
    DeadLetter,
    Detail,
    ErrorContained,
    Escalated,
    Event,
    EventStream,
    Poisoned,
    ShutdownBegan,
    ShutdownEnded,
    StallWarning,
    ZombieEnded,
)
from tinker_actors.supervision.exits import (
    IGNORED,
    NORMAL,
    Error,
    ExitReason,
    Ignored,
    Killed,
    Normal,
    Shutdown,
    ShutdownWith,
    Stalled,
    StartFailed,
    Stop,
)
from tinker_actors.supervision.flags import SupervisorFlags
from tinker_actors.supervision.gates import Gate
from tinker_actors.supervision.mailbox import Depths
from tinker_actors.supervision.monitors import Down, Monitor, Scope
from tinker_actors.supervision.proxy import CallMethod, GetAttribute, Proxy, perform
from tinker_actors.supervision.replies import Reply
from tinker_actors.supervision.runtime import Zombie
from tinker_actors.supervision.specs import AutoShutdown, ChildSpec, Kind, OnPending, Restart, Strategy
from tinker_actors.supervision.supervisor import Supervisor
from tinker_actors.supervision.tree import ActorTree, TreeNode

__all__ = [
    "IGNORED",
    "NORMAL",
    "ActorTree",
    "Address",
    "AutoShutdown",
    "Backoff",
    "BreakerMode",
    "BreakerSettings",
    "CallMethod",
    "ChildAbandoned",
    "ChildCounts",
    "ChildDeleted",
    "ChildExited",
    "ChildInfo",
    "ChildRestarting",
    "ChildSpec",
    "ChildStartFailed",
    "ChildStarted",
    "Circuit",
    "Clock",
    "Context",
    "CountChildren",
    "DeadLetter",
    "DeleteChild",
    "Depths",
    "Detail",
    "Down",
    "DynamicSupervisor",
    "Error",
    "ErrorContained",
    "Escalated",
    "Event",
    "EventStream",
    "ExitReason",
    "Gate",
    "GetAttribute",
    "GetChildSpec",
    "Ignored",
    "Killed",
    "Kind",
    "Monitor",
    "MonotonicClock",
    "Normal",
    "OnPending",
    "Outcome",
    "Permit",
    "Poisoned",
    "Proxy",
    "Refusal",
    "Reply",
    "Restart",
    "RestartChild",
    "Scope",
    "Shutdown",
    "ShutdownBegan",
    "ShutdownEnded",
    "ShutdownWith",
    "StallWarning",
    "Stalled",
    "StartChild",
    "StartFailed",
    "Stop",
    "Strategy",
    "SupervisedActor",
    "Supervisor",
    "SupervisorFlags",
    "TerminateChild",
    "Timer",
    "TreeNode",
    "WhichChildren",
    "Zombie",
    "ZombieEnded",
    "perform",
]
