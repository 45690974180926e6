"""Which faults fire at a request: they match, count and draw here. Nothing in this file does any harm."""

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from fnmatch import fnmatchcase

import msgspec

from tinker_actors.errors import ValidationError
from tinker_actors.local.faults.plan import ENDING, Fault, FaultPlan

__all__ = ["Armed", "Firing", "Seen", "State", "Switches"]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says of itself."""

    operation: str
    """Its path below the prefix of the API."""
    of: str | None = None
    """Kind of the request whose result a poll asks for."""
    owner: str = ""
    """The model or sampling session it names, else the session."""
    session_id: str | None = None
    model_id: str | None = None
    seq_id: int | None = None


class Firing(msgspec.Struct, frozen=True, kw_only=True):
    """A fault, and how often it has fired with this time."""

    fault: Fault
    number: int


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A fault and its counts, for who asks."""

    fault: Fault
    matched: int
    fired: int
    is_spent: bool
    """Whether it can never fire again."""


class Armed:
    """One fault that waits for its requests."""

    def __init__(self, fault: Fault, seed: int, now: float) -> None:
        self.fault = fault
        self._seed = seed
        self._since = now
        self.matched = self.fired = 0
        self.cleared: Future[None] = Future()

    def sees(self, seen: Seen, now: float) -> bool:
        """Whether a request matches all that the fault names."""
        fault, age = self.fault, now - self._since
        return (
            fault.from_s <= age
            and (fault.until_s is None or age < fault.until_s)
            and fnmatchcase(seen.operation, fault.operation)
            and fault.of in (None, seen.of)
            and fault.seq_id in (None, seen.seq_id)
            and _matches(seen.model_id, fault.model_id)
            and _matches(seen.session_id, fault.session_id)
        )

    def fires(self) -> bool:
        """Count one more match; whether it fires at it."""
        self.matched += 1
        if self.is_used_up or self.matched < self.fault.nth:
            return False
        chance = random.Random(f"{self._seed}:{self.fault.name}:{self.matched}").random()
        fires = chance < self.fault.probability
        self.fired += fires
        return fires

    @property
    def is_used_up(self) -> bool:
        """Whether it has fired as often as it may."""
        return self.fault.count != "always" and self.fired >= self.fault.count

    def state(self, now: float) -> State:
        """What became of it so far."""
        is_over = self.fault.until_s is not None and now - self._since >= self.fault.until_s
        return State(
            fault=self.fault,
            matched=self.matched,
            fired=self.fired,
            is_spent=self.is_used_up or is_over,
        )


class Switches:
    """The faults of a server, by name, in the order in which they were set. Any thread may call it.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._armed: dict[str, Armed] = {}
        self._numbers = 0

    @property
    def is_quiet(self) -> bool:
        """Whether no fault is set."""
        return not self._armed

    def arm(self, plan: FaultPlan) -> list[str]:
        """Arm the faults of a plan behind those that are set; their names.

        Raises:
            ValidationError: a name is taken; nothing was set.
        """
        with self._lock:
            faults = [self._named(fault) for fault in plan.faults]
            names = [fault.name for fault in faults]
            if taken := [name for name in names if name in self._armed]:
                raise ValidationError(f"names of faults must differ, {taken[0]!r} is set; clear it first")
            now = self._clock()
            self._armed.update({fault.name: Armed(fault, plan.seed, now) for fault in faults})
        return names

    def _named(self, fault: Fault) -> Fault:
        if fault.name:
            return fault
        self._numbers += 1
        return msgspec.structs.replace(fault, name=f"{fault.effect}-{self._numbers}")

    def clear(self, name: str | None = None) -> list[str]:
        """Disarm one fault, or all; the names of those that were set."""
        with self._lock:
            names = [known for known in self._armed if name in (None, known)]
            gone = [self._armed.pop(known) for known in names]
        for armed in gone:
            armed.cleared.set_result(None)
        return names

    def cleared(self, name: str) -> "Future[None]":
        """A future of the moment in which a fault is cleared; its own for each who asks."""
        mine: Future[None] = Future()
        armed = self._armed.get(name)
        if armed is None:
            mine.set_result(None)
        else:
            armed.cleared.add_done_callback(lambda _: _settle(mine))
        return mine

    def states(self) -> list[State]:
        """All that are set, in order."""
        with self._lock:
            now = self._clock()
            return [armed.state(now) for armed in self._armed.values()]

    def wants_kind(self, operation: str) -> bool:
        """Whether a fault asks which kind of request a poll is for."""
        with self._lock:
            return any(
                armed.fault.of is not None and fnmatchcase(operation, armed.fault.operation)
                for armed in self._armed.values()
            )

    def fire(self, seen: Seen) -> list[Firing]:
        """The faults that fire at a request, in order.

        Behind the first that stands in the place of the answer, the others do not see the request.
        """
        with self._lock:
            return list(_until_ended(self._firing(seen, self._clock())))

    def _firing(self, seen: Seen, now: float) -> Iterator[Firing]:
        for armed in self._armed.values():
            if armed.sees(seen, now) and armed.fires():
                yield Firing(fault=armed.fault, number=armed.fired)


def _settle(future: "Future[None]") -> None:
    with suppress(InvalidStateError):  # whoever asked no longer waits
        future.set_result(None)


def _until_ended(firings: Iterable[Firing]) -> Iterator[Firing]:
    for firing in firings:
        yield firing
        if firing.fault.effect in ENDING:
            return


def _matches(value: str | None, pattern: str | None) -> bool:
    return pattern is None or (value is not None and fnmatchcase(value, pattern))
