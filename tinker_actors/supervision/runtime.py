"""What all actors of one tree share: names, time, events, chance."""

import os
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tinker_actors.errors import ForkedProcessError, TinkerActorsError
from tinker_actors.supervision.clock import Clock
from tinker_actors.supervision.events import DeadLetter, EventStream, ZombieEnded
from tinker_actors.supervision.mailbox import Envelope
from tinker_actors.supervision.names import NameTable, Slot
from tinker_actors.supervision.watchdog import Watchdog

__all__ = ["Runtime", "Zombie"]

_MAX_DEAD_LETTERS = 100


@dataclass(frozen=True, slots=True)
class Zombie:
    """An incarnation that was given up while its thread still ran."""

    path: str
    epoch: int
    since: float
    """When it was given up, in clock seconds."""
    stack: str
    """Where its thread was then, as Python prints it."""


class Runtime:
    """The shared ground of one tree."""

    def __init__(self, clock: Clock, seed: int) -> None:
        self.clock = clock
        self.seed = seed
        self.events = EventStream(clock.now)
        self.names = NameTable(self.drop_parked, clock)
        self.watchdog = Watchdog(clock)
        self.pid = os.getpid()
        self.on_interrupt: Callable[[], None] = _ignore
        """Told that an actor saw a KeyboardInterrupt."""
        self.zombies: dict[tuple[str, int], Zombie] = {}
        """Incarnations whose threads were left behind and have not ended since, by path and epoch."""
        self.dead_letters: deque[DeadLetter] = deque(maxlen=_MAX_DEAD_LETTERS)
        """The latest messages that nobody handled."""
        self.dead_letter_count = 0
        self._lock = threading.RLock()

    def random_for(self, path: str, epoch: int) -> random.Random:
        """A generator that depends on the tree's seed, the path and the epoch only."""
        return random.Random(f"{self.seed}:{path}:{epoch}")

    def check_process(self) -> None:
        """Refuse to work in a process forked from the owner: its actors' threads are not there."""
        if os.getpid() != self.pid:
            raise ForkedProcessError(
                f"this actor tree belongs to process {self.pid}; create one of your own after the fork"
            )

    def drop_parked(self, slot: Slot, envelope: Envelope, error: TinkerActorsError) -> None:
        """Settle a message that waited for an incarnation which will not come."""
        if envelope.reply is not None:
            envelope.reply.fail(error)
        else:
            self.dead_letter(slot.path, 0, envelope, str(error))

    def dead_letter(self, path: str, epoch: int, envelope: Envelope, why: str) -> None:
        """Keep and report a message nobody will see: its type and age, never its contents."""
        letter = DeadLetter(
            path=path,
            epoch=epoch,
            message=type(envelope.message).__qualname__,
            age_s=self.clock.now() - envelope.sent_at,
            why=why,
        )
        with self._lock:
            self.dead_letter_count += 1
            self.dead_letters.append(letter)
        self.events.publish(letter)

    def zombie_ended(self, path: str, epoch: int) -> None:
        """The thread of an abandoned incarnation ended after all."""
        if self.zombies.pop((path, epoch), None) is not None:
            self.events.publish(ZombieEnded(path=path, epoch=epoch))


def _ignore() -> None:
    pass
