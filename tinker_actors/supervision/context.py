"""What an actor is told about its place in the tree, and what it can do from there."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tinker_actors.supervision.address import Address, IncarnationAddress
from tinker_actors.supervision.checks import check_choice, check_finite, check_path
from tinker_actors.supervision.clock import Clock, Timer
from tinker_actors.supervision.monitors import Monitor, Scope

if TYPE_CHECKING:
    from tinker_actors.supervision.incarnation import Incarnation

__all__ = ["Context"]

_BLOCK_S = 5.0


class Context:
    """An incarnation's view of its tree; thread-safe but for `random`."""

    def __init__(self, incarnation: "Incarnation", me: IncarnationAddress) -> None:
        self.path: str = incarnation.path
        """Names from the root down, such as `service/session/training/training:1`."""
        self.id: str = incarnation.spec.id
        """The last of them."""
        self.epoch: int = incarnation.epoch
        """Which incarnation this is: higher than any before it."""
        self.clock: Clock = incarnation.runtime.clock
        """The tree's clock."""
        self.random: random.Random = incarnation.runtime.random_for(self.path, self.epoch)
        """A generator seeded by the tree's seed, the path and the epoch; for the actor's thread only."""
        self.me: Address = me
        """This incarnation: what is told to it after its end is a dead letter and reaches no later one."""
        self._incarnation = incarnation

    # Other actors.

    def address(self, path: str, *, block_s: float = _BLOCK_S) -> Address:
        """The address of the actor at `path`, which need not exist yet.

        A send from one actor to another whose mailbox is full waits up to `block_s` seconds for room. After that
        a tell is a dead letter and an ask fails with `MailboxFullError`: a slow receiver ends no sender.
        """
        check_path(path)
        check_finite("block_s", block_s, above_zero=False)
        return Address(self._incarnation.runtime, path, block_s=block_s)

    def monitor(self, path: str, *, scope: Scope = Scope.INCARNATION) -> Monitor:
        """Be told once, by a `Down` to `on_receive`, when the actor at `path` ends; at once if it is not there.

        Args:
            path: whom to watch; it need not exist.
            scope: the end of this incarnation, or the end for good (a restart is none).

        Returns:
            What `Down.id` will be, and the way to give it up: no `Down` comes after its `cancel()`.
        """
        check_path(path)
        return self._incarnation.monitor(path, check_choice("scope", scope, Scope))

    # Time.

    def send_after(self, delay_s: float, message: Any) -> Timer:
        """Tell this incarnation `message` in `delay_s` seconds.

        Raises:
            ConfigError: `delay_s` is no time.
        """
        check_finite("delay_s", delay_s, above_zero=False)
        return self.clock.schedule(delay_s, lambda: self.me.tell(message))

    def sleep(self, seconds: float) -> None:
        """Wait in a handler, but not longer than the incarnation lives.

        Raises:
            FencedError: the incarnation was given up meanwhile.
            ConfigError: `seconds` is no time.
        """
        check_finite("seconds", seconds, above_zero=False)
        woken = threading.Event()
        timer = self.clock.schedule(seconds, woken.set)
        with self._incarnation.interrupts(woken.set):
            woken.wait()
        timer.cancel()
        self.check_fence()

    def beat(self) -> None:
        """Say, in a handler that works for long, that it makes progress: its time begins anew."""
        handling = self._incarnation.handling
        if handling is not None:
            handling.beat(self.clock.now())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Declare that the handler waits on purpose in this block: its time stands still."""
        handling = self._incarnation.handling
        if handling is None:
            yield
            return
        handling.wait(1)
        try:
            yield
        finally:
            handling.beat(self.clock.now())
            handling.wait(-1)

    # Fencing and events.

    @property
    def is_fenced(self) -> bool:
        """Whether the supervisor gave this incarnation up; what it does from here on must have no effect."""
        return self._incarnation.is_fenced

    def check_fence(self) -> None:
        """Guard an effect that must not come from an incarnation that was given up.

        Sends to other actors, and waits for their answers, are guarded by themselves.

        Raises:
            FencedError: this incarnation was given up.
        """
        self._incarnation.check_fence()

    def wants(self, *kinds: type[object]) -> bool:
        """Whether anybody would hear of an event of one of these kinds; then it is worth making."""
        return self._incarnation.runtime.events.wants(*kinds)

    def emit(self, event: object) -> None:
        """Publish `event` on the tree's stream; one of an incarnation that was given up is dropped."""
        if not self._incarnation.is_fenced:
            self._incarnation.runtime.events.publish(event)
