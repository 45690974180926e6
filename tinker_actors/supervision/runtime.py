"""What all actors of one tree share: names, time, events, chance."""

import os
import random
from collections.abc import Callable

from tinker_actors.errors import ForkedProcessError, TinkerActorsError
from tinker_actors.supervision.clock import Clock
from tinker_actors.supervision.events import DeadLetter, EventStream
from tinker_actors.supervision.mailbox import Envelope
from tinker_actors.supervision.names import NameTable, Slot

__all__ = ["Runtime"]


class Runtime:
    """The shared ground of one tree."""

    def __init__(self, clock: Clock, seed: int) -> None:
        self.clock = clock
        self.seed = seed
        self.events = EventStream(clock.now)
        self.names = NameTable(self.drop_parked)
        self.pid = os.getpid()
        self.on_interrupt: Callable[[], None] = _ignore
        """Told that an actor saw a KeyboardInterrupt."""
        self.abandoned: dict[tuple[str, int], None] = {}
        """Incarnations whose threads were left behind, in that order."""

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
            self.dead_letter(slot.path, 0, envelope.message, str(error))

    def dead_letter(self, path: str, epoch: int, message: object, why: str) -> None:
        """Report a message nobody will see."""
        self.events.publish(DeadLetter(path=path, epoch=epoch, message=type(message).__qualname__, why=why))


def _ignore() -> None:
    pass
