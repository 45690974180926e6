import threading
from collections.abc import Callable
from typing import Any

import pytest

from tinker_actors.errors import ConfigError, RuntimeStoppedError, StartFailedError
from tinker_actors.supervision import (
    ActorTree,
    ChildAbandoned,
    ChildSpec,
    ChildStarted,
    ChildStartFailed,
    CountChildren,
    DynamicSupervisor,
    ExitReason,
    Kind,
    StartChild,
    SupervisedActor,
    Supervisor,
    WhichChildren,
    ZombieEnded,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect, wait_for

StartTree = Callable[..., ActorTree]


class Echo(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        return message


class Recorder(Echo):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def on_start(self) -> None:
        self.log.append(f"+{self.context.id}")

    def on_exit(self, _reason: ExitReason) -> None:
        self.log.append(f"-{self.context.id}")


def refuse() -> SupervisedActor:
    raise ValueError("no such luck")


def tree_of(*children: ChildSpec) -> ActorTree:
    return ActorTree(ChildSpec("root", lambda: Supervisor(children), kind=Kind.SUPERVISOR))


def test_static_children_start_in_list_order(start_tree: StartTree) -> None:
    log: list[str] = []
    start_tree(*(ChildSpec(name, lambda: Recorder(log)) for name in "cab"))
    assert log == ["+c", "+a", "+b"]


def test_failed_start_of_a_child_ends_the_earlier_ones_in_reverse_and_fails_the_tree() -> None:
    log: list[str] = []
    tree = tree_of(
        *(ChildSpec(name, lambda: Recorder(log)) for name in "cab"),
        ChildSpec("bad", refuse),
        ChildSpec("late", lambda: Recorder(log)),
    )
    with pytest.raises(StartFailedError, match="root/bad") as caught:
        tree.start(10.0)
    assert isinstance(caught.value.__cause__, ValueError)
    assert log == ["+c", "+a", "+b", "-b", "-a", "-c"]
    assert tree.stopped.is_set()


def test_failed_start_two_levels_down_names_the_child_and_keeps_its_cause() -> None:
    inner = [ChildSpec("bad", refuse)]
    tree = tree_of(ChildSpec("mid", lambda: Supervisor(inner), kind=Kind.SUPERVISOR))
    with pytest.raises(StartFailedError, match="root/mid/bad") as caught:
        tree.start(10.0)
    assert isinstance(caught.value.__cause__, ValueError)
    assert isinstance(tree.first_cause, ValueError)


def exit_at_once() -> SupervisedActor:
    raise SystemExit(2)


def make_nothing() -> SupervisedActor:
    return "no actor"  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("factory", "cause"),
    [(refuse, ValueError), (exit_at_once, SystemExit), (make_nothing, ConfigError)],
)
def test_factory_that_fails_fails_the_start(
    factory: Callable[[], SupervisedActor], cause: type[BaseException]
) -> None:
    with pytest.raises(StartFailedError) as caught:
        tree_of(ChildSpec("bad", factory)).start(10.0)
    assert isinstance(caught.value.__cause__, cause)


def test_factory_that_returns_the_same_actor_again_is_refused(start_tree: StartTree) -> None:
    made: list[Echo] = []

    def once() -> Echo:
        if not made:
            made.append(Echo())
        return made[0]

    tree = start_tree(ChildSpec("a", once), max_restarts=2)
    with expect(tree, ChildStartFailed) as got:
        crash(tree.address("root/a"))
    assert isinstance(got.event.error, ConfigError)


def test_thread_that_cannot_be_started_is_a_failed_start(
    start_tree: StartTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR))

    def cannot(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    dynamic = tree.address("root/dyn")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot)
        with pytest.raises(StartFailedError) as caught:
            dynamic.call(StartChild(ChildSpec("a", Echo)))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert dynamic.call(CountChildren()).specs == 0


def test_supervised_actor_is_not_started_the_pykka_way() -> None:
    with pytest.raises(ConfigError):
        Echo.start()


def test_tree_starts_once(start_tree: StartTree) -> None:
    tree = start_tree()
    with pytest.raises(RuntimeStoppedError):
        tree.start()


def test_tree_that_is_not_up_in_time_is_taken_down() -> None:
    go_on = threading.Event()

    def slow() -> Echo:
        go_on.wait(10.0)
        return Echo()

    tree = tree_of(ChildSpec("slow", slow, shutdown_s=0.0))
    releaser = threading.Timer(0.2, go_on.set)
    releaser.start()
    with pytest.raises(StartFailedError, match="within"):
        tree.start(0.05)
    releaser.join()
    assert tree.stopped.is_set()


class Blocked:
    """A factory that blocks until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> SupervisedActor:
        self.entered.set()
        self.go_on.wait(10.0)
        return Echo()


def test_blocking_constructor_blocks_nobody_else(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Echo))
    root, blocked = tree.address("root"), Blocked()
    started = root.ask(StartChild(ChildSpec("slow", blocked)))
    blocked.entered.wait(5.0)
    assert [child.state for child in root.call(WhichChildren())] == ["running", "starting"]
    assert tree.address("root/a").call("hello") == "hello"
    assert not started.done()
    blocked.go_on.set()
    assert started.result() == tree.address("root/slow")


def test_supervisor_answers_commands_while_its_first_children_start() -> None:
    blocked = Blocked()
    tree = tree_of(ChildSpec("slow", blocked))
    starter = threading.Thread(target=tree.start)
    starter.start()
    blocked.entered.wait(5.0)
    assert tree.address("root").call(CountChildren()).active == 0
    blocked.go_on.set()
    starter.join()
    tree.stop(5.0)


def test_start_time_out_fences_the_incarnation_and_starts_another(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    first = Blocked()

    def factory() -> SupervisedActor:
        return Echo() if first.entered.is_set() else first()

    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR), clock=clock)
    started = tree.address("root/dyn").ask(StartChild(ChildSpec("a", factory, start_timeout_s=3.0)))
    first.entered.wait(5.0)
    with expect(tree, ChildAbandoned, path="root/dyn/a", epoch=1), expect(tree, ChildStartFailed):
        clock.advance(3.0)
    assert isinstance(started.exception(), StartFailedError)
    assert tree.address("root/dyn").call(StartChild(ChildSpec("a", factory))).call("hello") == "hello"
    with expect(tree, ZombieEnded, path="root/dyn/a", epoch=1):
        first.go_on.set()
    assert tree.address("root/dyn/a").call("hello") == "hello"


def test_on_start_may_write_to_itself_and_to_its_supervisor(start_tree: StartTree) -> None:
    heard: list[str] = []

    class Eager(SupervisedActor):
        def on_start(self) -> None:
            self.context.me.tell("to myself")
            self.context.address("root").tell("to the root")
            self.context.address(self.context.path).tell("to my name")

        def on_receive(self, message: str) -> None:
            heard.append(message)

    tree = start_tree(ChildSpec("a", Eager))
    tree.address("root/a").call("a question")
    assert heard == ["to myself", "to my name", "a question"]


def test_temporary_child_that_fails_to_start_by_command_is_forgotten(start_tree: StartTree) -> None:
    root = start_tree().address("root")
    with pytest.raises(StartFailedError) as caught:
        root.call(StartChild(ChildSpec("bad", refuse)))
    assert isinstance(caught.value.__cause__, ValueError)
    assert root.call(CountChildren()).specs == 0


def test_child_is_visible_as_running_once_its_start_is_announced(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Echo))
    with expect(tree, ChildStarted, epoch=2):
        crash(tree.address("root/a"))
    node = tree.snapshot().find("root/a")
    assert node is not None
    assert (node.state, node.epoch, node.restarts) == ("running", 2, 1)
    wait_for(tree, lambda tree: tree.snapshot().state == "running")
