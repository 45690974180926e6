import math
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tinker_actors.errors import TinkerActorsError
from tinker_actors.supervision import (
    ActorTree,
    Address,
    Backoff,
    ChildSpec,
    DeleteChild,
    DynamicSupervisor,
    ExitReason,
    Kind,
    Reply,
    Restart,
    RestartChild,
    ShutdownEnded,
    StartChild,
    Strategy,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    WhichChildren,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]

NAMES = "abcde"


class Erratic(SupervisedActor):
    """Fails some of its starts and crashes on demand; counts who is alive."""

    def __init__(self, rng: random.Random, alive: list[str]) -> None:
        super().__init__()
        self.rng, self.alive = rng, alive

    def on_start(self) -> None:
        self.alive.append(self.context.path)
        if self.context.epoch > 1 and self.rng.random() < 0.2:
            raise ValueError("fails to start")

    def on_receive(self, message: Any) -> Any:
        return message

    def on_exit(self, _reason: ExitReason) -> None:
        self.alive.remove(self.context.path)


class Chaos:
    """Random commands and crashes for one supervisor with some of the children a to e."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.alive: list[str] = []
        self.replies: list[Reply] = []

    def spec(self, name: str) -> ChildSpec:
        pause = Backoff(base_s=self.rng.choice([0.0, 0.5]), cap_s=2.0)
        restart = self.rng.choice([Restart.PERMANENT, Restart.PERMANENT, Restart.TRANSIENT])
        # No time limits: virtual seconds pass faster than threads start.
        return ChildSpec(
            name,
            lambda: Erratic(self.rng, self.alive),
            restart,
            shutdown_s=math.inf,
            start_timeout_s=math.inf,
            backoff=pause,
        )

    def act(self, tree: ActorTree, path: str, clock: VirtualClock) -> None:
        name = self.rng.choice(NAMES)
        supervisor, child = tree.address(path), tree.address(f"{path}/{name}")
        match self.rng.randrange(9):
            case 0 | 1 | 2:
                try_to(lambda: crash(child))
            case 3:
                self.replies.append(supervisor.ask(TerminateChild(name), timeout_s=1e6))
            case 4 | 5:
                self.replies.append(supervisor.ask(RestartChild(name), timeout_s=1e6))
            case 6:
                self.replies.append(supervisor.ask(DeleteChild(name), timeout_s=1e6))
            case 7:
                self.replies.append(supervisor.ask(StartChild(self.spec(name)), timeout_s=1e6))
            case 8:
                clock.advance(self.rng.random())
        self.replies.append(child.ask("are you there", timeout_s=1e6))


def try_to(act: Callable[[], None]) -> None:
    try:
        act()
    except TinkerActorsError:
        return


def come_to_rest(tree: ActorTree, path: str, clock: VirtualClock) -> list[str]:
    """Let all restarts happen; the paths of the children that run then."""
    for _ in range(2000):
        clock.advance(1.0)
        children = tree.address(path).call(WhichChildren())
        running = [child.path for child in children if child.state == "running"]
        if (
            {child.state for child in children} <= {"running", "down"}
            and all(answers(tree.address(child)) for child in running)
            and tree.address(path).call(WhichChildren()) == children
        ):
            return running
    raise AssertionError(f"still restless: {children}")


def answers(child: Address) -> bool:
    """Whether the child handles a message soon; a crash under way comes before it."""
    answered = threading.Event()
    reply = child.ask("hello", timeout_s=1e6)
    reply.add_done_callback(lambda _reply: answered.set())
    return answered.wait(1.0) and reply.exception() is None


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("strategy", [*Strategy, None], ids=[*Strategy, "dynamic"])
def test_any_sequence_of_crashes_and_commands_comes_to_rest_and_stops_cleanly(
    start_tree: StartTree, clock: VirtualClock, strategy: Strategy | None, seed: int
) -> None:
    chaos = Chaos(seed)

    def supervisor() -> Supervisor:
        if strategy is None:
            return DynamicSupervisor(max_restarts=10**6)
        return Supervisor([chaos.spec(name) for name in "abc"], strategy=strategy, max_restarts=10**6)

    tree = start_tree(ChildSpec("sup", supervisor, kind=Kind.SUPERVISOR), clock=clock)
    for _ in range(150):
        chaos.act(tree, "root/sup", clock)
    assert sorted(come_to_rest(tree, "root/sup", clock)) == sorted(chaos.alive)
    with expect(tree, ShutdownEnded, abandoned=()):
        tree.stop(5.0)
    assert chaos.alive == []
    assert all(reply.done() for reply in chaos.replies)
