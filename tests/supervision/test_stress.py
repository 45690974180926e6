"""Asks race crashes, stops and restarts while threads are switched as often as the interpreter can."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, cycle, islice
from typing import Any

import pykka
import pytest

from tinker_actors.errors import NotDeliveredError, OutcomeUnknownError, TinkerActorsError
from tinker_actors.supervision import (
    ActorTree,
    ChildSpec,
    ExitReason,
    OnPending,
    Reply,
    RestartChild,
    Stop,
    SupervisedActor,
    TerminateChild,
)
from tinker_actors.supervision.mailbox import Envelope, Mailbox, Offer
from tinker_actors.supervision.testing import VirtualClock, crash

StartTree = Callable[..., ActorTree]

BATCH = 25
ALLOWED = {"value", "CrashError", "OutcomeUnknownError", "NotDeliveredError", "ActorDeadError"}


class CrashError(Exception):
    """What the handler raises now and then."""


@pytest.fixture(autouse=True)
def frantic_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Fragile(SupervisedActor):
    """Answers with what it is asked; some numbers make it crash, exit or stop."""

    def __init__(self, battle: "Battle") -> None:
        super().__init__()
        self.battle = battle

    def on_start(self) -> None:
        self.battle.ref = self.actor_ref
        self.battle.is_up.set()

    def on_receive(self, message: int) -> int:
        self.battle.handled.append(message)
        match message % 200:
            case 0:
                self.battle.blows.release()
            case 50:
                raise CrashError
            case 100:
                sys.exit(1)
            case 150:
                raise Stop
        return message

    def on_exit(self, _reason: ExitReason) -> None:
        self.battle.ends += 1
        self.battle.is_up.clear()


class Battle:
    """Some callers, one of them by Pykka's ref, and one who brings the actor down after each so many messages."""

    def __init__(self, start_tree: StartTree, on_pending: OnPending, *, callers: int, asks: int) -> None:
        self.handled: list[int] = []
        self.undelivered: list[int] = []
        self.outcomes: Counter[str] = Counter()
        self.ref: pykka.ActorRef[Any]
        self.ends = 0
        self.asks_each = asks // callers
        self.numbers = count(1)
        self.lock = threading.Lock()
        self.is_up = threading.Event()
        self.blows = threading.Semaphore(0)
        self.is_over = False
        spec = ChildSpec("a", lambda: Fragile(self), on_pending=on_pending, max_mailbox=10**6)
        # The clock stands still: no deadline helps an ask that was forgotten.
        self.tree = start_tree(spec, clock=VirtualClock(), max_restarts=10**9)
        self.address = self.tree.address("root/a")
        by_ref = threading.Thread(target=self.call, args=(self.ask_by_ref,), daemon=True)
        self.callers = [by_ref] + [
            threading.Thread(target=self.call, args=(self.ask_by_name,), daemon=True)
            for _ in range(callers - 1)
        ]
        self.attacker = threading.Thread(target=self.attack, daemon=True)

    def run(self, limit_s: float) -> None:
        for thread in (self.attacker, *self.callers):
            thread.start()
        for thread in self.callers:
            thread.join(limit_s)
        self.is_over = True
        self.blows.release()
        self.attacker.join(limit_s)
        stuck = [thread for thread in (self.attacker, *self.callers) if thread.is_alive()]
        if stuck:
            pytest.fail(f"{len(stuck)} threads wait for ever; so far {self.outcomes}")

    def call(self, ask: Callable[[int], Callable[[], BaseException | None]]) -> None:
        for _ in range(self.asks_each // BATCH):
            with self.lock:
                batch = list(islice(self.numbers, BATCH))
            waits = [ask(number) for number in batch]
            errors = [wait() for wait in waits]
            with self.lock:
                self.outcomes.update("value" if error is None else type(error).__name__ for error in errors)
                self.undelivered += [
                    number
                    for number, error in zip(batch, errors, strict=True)
                    if isinstance(error, NotDeliveredError | pykka.ActorDeadError)
                ]
            if isinstance(errors[-1], NotDeliveredError | pykka.ActorDeadError):
                self.is_up.wait(10.0)  # else the asks are used up while nobody is there

    def ask_by_name(self, number: int) -> Callable[[], BaseException | None]:
        reply = self.address.ask(number)

        def wait() -> BaseException | None:
            error = reply.exception()
            assert error is not None or reply.result() == number
            return error

        return wait

    def ask_by_ref(self, number: int) -> Callable[[], BaseException | None]:
        future = self.ref.ask(number, block=False)

        def wait() -> BaseException | None:
            try:
                assert future.get() == number
            except (CrashError, OutcomeUnknownError, pykka.ActorDeadError) as error:
                return error
            return None

        return wait

    def attack(self) -> None:
        """Crash it, three times at once, or end it and start it again."""
        for crashes in cycle([True, False]):
            self.blows.acquire()
            if self.is_over:
                return
            if crashes:
                for _ in range(3):
                    self.crash()
            else:
                root = self.tree.address("root")
                root.ask(TerminateChild("a")).exception()
                root.ask(RestartChild("a")).exception()

    def crash(self) -> None:
        try:
            crash(self.address)
        except TinkerActorsError:
            return  # it was down already


def check_battle(battle: Battle, asks: int, limit_s: float) -> None:
    battle.run(limit_s)
    assert sum(battle.outcomes.values()) == asks
    assert set(battle.outcomes) <= ALLOWED
    assert {"value", "NotDeliveredError", "OutcomeUnknownError", "CrashError"} <= set(battle.outcomes)
    assert len(set(battle.handled)) == len(battle.handled)
    assert set(battle.undelivered).isdisjoint(battle.handled)
    assert battle.ends > 10
    assert battle.outcomes["value"] > asks // 100


BATTLES = pytest.mark.parametrize(
    ("on_pending", "callers"),
    [(OnPending.FAIL, 4), (OnPending.FAIL, 16), (OnPending.CARRY, 4), (OnPending.CARRY, 16)],
)


@BATTLES
def test_each_ask_that_races_the_end_of_its_actor_has_one_outcome(
    start_tree: StartTree, on_pending: OnPending, callers: int
) -> None:
    """MBX-01 and MBX-02 through the whole kit: 100,000 asks in the four cases."""
    asks = 25_600
    check_battle(Battle(start_tree, on_pending, callers=callers, asks=asks), asks, limit_s=120.0)


@pytest.mark.slow
@BATTLES
def test_each_of_very_many_asks_that_race_the_end_of_their_actor_has_one_outcome(
    start_tree: StartTree, on_pending: OnPending, callers: int
) -> None:
    """MBX-01 and MBX-02 through the whole kit: 1,000,000 asks in the four cases."""
    asks = 256_000
    check_battle(Battle(start_tree, on_pending, callers=callers, asks=asks), asks, limit_s=1200.0)


class ClosingRace:
    """Threads that put into a mailbox which is closed when a third of it was taken."""

    def __init__(self, threads: int, *, asks: int = 960) -> None:
        self.mailbox = Mailbox(asks)
        self.close_after = asks // 3
        self.settled: list[Reply] = []
        self.taken = 0
        self.lock = threading.Lock()
        self.closes = threading.Event()
        self.threads = [
            threading.Thread(target=self.put, args=(asks // threads,), daemon=True) for _ in range(threads)
        ]
        self.threads += [threading.Thread(target=work, daemon=True) for work in (self.take, self.close)]

    def run(self) -> None:
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join(60.0)
        stuck = [thread for thread in self.threads if thread.is_alive()]
        if stuck:
            pytest.fail(f"{len(stuck)} threads wait for ever; {len(self.settled)} asks are settled")

    def note(self, reply: Reply) -> None:
        with self.lock:
            self.settled.append(reply)

    def put(self, asks: int) -> None:
        for _ in range(asks):
            reply = Reply()
            reply.add_done_callback(self.note)
            if self.mailbox.offer(Envelope("hello", reply)) is not Offer.ACCEPTED:
                reply.fail(NotDeliveredError("closed"))

    def take(self) -> None:
        while (envelope := self.mailbox.take()) is not None:
            self.taken += 1
            assert envelope.reply is not None
            assert envelope.reply.set("hello")
            if self.taken == self.close_after:
                self.closes.set()

    def close(self) -> None:
        self.closes.wait(60.0)
        for envelope in self.mailbox.close():
            assert envelope.reply is not None
            assert envelope.reply.lose("closed")


@pytest.mark.parametrize("threads", [4, 16, 64])
def test_each_ask_that_races_the_close_of_the_mailbox_has_one_outcome(threads: int) -> None:
    """MBX-01 at the bare mailbox."""
    for _ in range(10):
        race = ClosingRace(threads)
        race.run()
        outcomes = Counter(type(reply.exception()) for reply in race.settled)
        assert sum(outcomes.values()) == 960
        assert set(outcomes) <= {type(None), NotDeliveredError}
        assert outcomes[type(None)] == race.taken
