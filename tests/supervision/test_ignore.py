from collections.abc import Callable
from typing import Any

import pytest

from tinker_actors.errors import NotDeliveredError, StartFailedError
from tinker_actors.supervision import (
    IGNORED,
    ActorTree,
    Address,
    Backoff,
    ChildCounts,
    ChildDeleted,
    ChildExited,
    ChildSpec,
    ChildStarted,
    CountChildren,
    DynamicSupervisor,
    Event,
    Ignored,
    Kind,
    Restart,
    RestartChild,
    ShutdownEnded,
    StartChild,
    Stop,
    Strategy,
    SupervisedActor,
    Supervisor,
    WhichChildren,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]


class Echo(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        return message


def nothing_to_run() -> Ignored:
    return IGNORED


class IgnoresInOnStart(Echo):
    def on_start(self) -> None:
        raise Stop(IGNORED)


EACH_WAY = pytest.mark.parametrize("ignore", [nothing_to_run, IgnoresInOnStart])

Factory = Callable[[], SupervisedActor | Ignored]


def in_turn(*factories: Factory) -> Factory:
    """A factory that does what each of these does, one incarnation after the other."""
    left = iter(factories)

    def make() -> SupervisedActor | Ignored:
        factory = next(left)
        return factory()

    return make


def nest(name: str, *children: ChildSpec, **limits: Any) -> ChildSpec:
    return ChildSpec(name, lambda: Supervisor(children, **limits), kind=Kind.SUPERVISOR)


DYNAMIC = ChildSpec("sup", DynamicSupervisor, kind=Kind.SUPERVISOR)


def state(tree: ActorTree, path: str) -> str:
    node = tree.snapshot().find(path)
    return "unknown" if node is None else node.state


@EACH_WAY
@pytest.mark.parametrize(
    ("restart", "fate", "specs"),
    [("permanent", "down", 2), ("transient", "down", 2), ("temporary", "unknown", 1)],
)
def test_child_that_is_ignored_at_first_keeps_its_spec_unless_it_is_temporary(
    start_tree: StartTree, ignore: Factory, restart: str, fate: str, specs: int
) -> None:
    """SUP-02."""
    tree = start_tree(ChildSpec("a", ignore, Restart(restart)), ChildSpec("b", Echo))
    assert state(tree, "root/a") == fate
    assert tree.address("root").call(CountChildren()) == ChildCounts(specs, 1, supervisors=0, workers=specs)


@EACH_WAY
def test_siblings_of_a_child_that_is_ignored_start_as_ever(start_tree: StartTree, ignore: Factory) -> None:
    """SUP-02."""
    tree = start_tree(ChildSpec("a", Echo), ChildSpec("i", ignore), ChildSpec("b", Echo))
    assert [child.state for child in tree.address("root").call(WhichChildren())] == [
        "running",
        "down",
        "running",
    ]


@EACH_WAY
@pytest.mark.parametrize(
    ("restart", "static", "dynamic"),
    [
        ("permanent", "down", "unknown"),
        ("transient", "down", "unknown"),
        ("temporary", "unknown", "unknown"),
    ],
)
def test_child_that_is_ignored_when_added_keeps_its_spec_only_if_it_is_static_and_not_temporary(
    start_tree: StartTree, ignore: Factory, restart: str, static: str, dynamic: str
) -> None:
    """SUP-02."""
    tree = start_tree(DYNAMIC)
    answers = [
        tree.address(path).call(StartChild(ChildSpec("a", ignore, Restart(restart))))
        for path in ("root", "root/sup")
    ]
    assert answers == [None, None]
    assert (state(tree, "root/a"), state(tree, "root/sup/a")) == (static, dynamic)


def test_child_that_was_ignored_is_started_by_command(start_tree: StartTree) -> None:
    """SUP-02."""
    root = start_tree(ChildSpec("a", in_turn(nothing_to_run, Echo))).address("root")
    a = root.call(RestartChild("a"))
    assert a.call("hello") == "hello"


@EACH_WAY
def test_child_that_is_ignored_again_when_started_by_command_stays_down(
    start_tree: StartTree, ignore: Factory
) -> None:
    """SUP-02."""
    tree = start_tree(ChildSpec("a", ignore))
    assert tree.address("root").call(RestartChild("a")) is None
    assert state(tree, "root/a") == "down"


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("restart", [Restart.PERMANENT, Restart.TRANSIENT])
@EACH_WAY
def test_child_that_is_ignored_at_its_restart_stays_down_and_its_siblings_run(
    start_tree: StartTree, strategy: Strategy, restart: Restart, ignore: Factory
) -> None:
    """SUP-02."""
    tree = start_tree(
        ChildSpec("a", in_turn(Echo, ignore), restart),
        ChildSpec("b", Echo),
        strategy=strategy,
        max_restarts=1,
    )
    with expect(tree, ChildExited, path="root/a", reason=IGNORED, expected=True):
        crash(tree.address("root/a"))
    assert tree.address("root/b").call("hello") == "hello"
    assert [child.state for child in tree.address("root").call(WhichChildren())] == ["down", "running"]


@pytest.mark.parametrize("restart", [Restart.PERMANENT, Restart.TRANSIENT])
@EACH_WAY
def test_dynamic_child_that_is_ignored_at_its_restart_is_gone(
    start_tree: StartTree, restart: Restart, ignore: Factory
) -> None:
    """SUP-02."""
    tree = start_tree(DYNAMIC)
    a: Address = tree.address("root/sup").call(StartChild(ChildSpec("a", in_turn(Echo, ignore), restart)))
    with expect(tree, ChildDeleted, path="root/sup/a"):
        crash(a)
    assert tree.address("root/sup").call(CountChildren()).specs == 0


@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])
@EACH_WAY
def test_sibling_that_is_ignored_in_a_group_restart_does_not_hold_up_the_others(
    start_tree: StartTree, strategy: Strategy, ignore: Factory
) -> None:
    """SUP-02."""
    tree = start_tree(
        ChildSpec("a", Echo),
        ChildSpec("i", in_turn(Echo, ignore)),
        ChildSpec("b", Echo),
        strategy=strategy,
        max_restarts=1,
    )
    with expect(tree, ChildStarted, path="root/b", epoch=2):
        crash(tree.address("root/a"))
    assert [node.state for node in tree.snapshot().children] == ["running", "down", "running"]


def test_start_that_is_ignored_uses_up_no_restart(start_tree: StartTree) -> None:
    """SUP-02."""
    tree = start_tree(ChildSpec("i", nothing_to_run), ChildSpec("a", Echo), max_restarts=1)
    for _ in range(5):
        tree.address("root").call(RestartChild("i"))
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(tree.address("root/a"))


def test_start_that_is_ignored_is_announced_as_an_expected_end_and_as_nothing_else(
    start_tree: StartTree,
) -> None:
    """SUP-02."""
    tree, seen = start_tree(), []

    def note(event: object) -> None:
        if isinstance(event, Event) and event.path == "root/a":
            seen.append(event)

    tree.events.subscribe(note)
    tree.address("root").call(StartChild(ChildSpec("a", nothing_to_run)))
    tree.stop(5.0)
    assert seen == [ChildExited(path="root/a", epoch=1, reason=IGNORED, expected=True)]


def test_messages_that_waited_for_a_child_that_is_ignored_are_not_delivered(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """SUP-02."""
    spec = ChildSpec("a", in_turn(Echo, nothing_to_run), backoff=Backoff(base_s=5.0))
    tree = start_tree(spec, clock=clock)
    with expect(tree, ChildExited, path="root/a"):
        crash(tree.address("root/a"))
    tree.address("root").call(CountChildren())
    waiting = tree.address("root/a").ask("anybody there?")
    clock.advance(10.0)
    assert isinstance(waiting.exception(), NotDeliveredError)


def test_supervisor_that_is_ignored_is_down_like_any_child(start_tree: StartTree) -> None:
    """SUP-02."""
    tree = start_tree(ChildSpec("sup", nothing_to_run, kind=Kind.SUPERVISOR), ChildSpec("b", Echo))
    assert tree.address("root").call(CountChildren()) == ChildCounts(2, 1, supervisors=1, workers=1)
    assert isinstance(tree.address("root/sup").ask(CountChildren()).exception(), NotDeliveredError)


def test_children_of_a_supervisor_that_is_ignored_at_its_restart_are_not_there(
    start_tree: StartTree,
) -> None:
    """SUP-02."""
    leaf = ChildSpec("leaf", Echo)
    tree = start_tree(
        ChildSpec("sup", in_turn(lambda: Supervisor([leaf]), nothing_to_run), kind=Kind.SUPERVISOR)
    )
    with expect(tree, ChildExited, path="root/sup", reason=IGNORED):
        crash(tree.address("root/sup"))
    tree.address("root").call(CountChildren())
    assert isinstance(tree.address("root/sup/leaf").ask("hello").exception(), NotDeliveredError)


def test_supervisor_whose_children_are_all_ignored_is_up(start_tree: StartTree) -> None:
    """SUP-02."""
    tree = start_tree(nest("sup", ChildSpec("a", nothing_to_run), ChildSpec("b", nothing_to_run)))
    assert tree.address("root/sup").call(CountChildren()).active == 0


@EACH_WAY
def test_root_that_is_ignored_is_a_failed_start(clock: VirtualClock, ignore: Factory) -> None:
    """SUP-02."""
    tree = ActorTree(ChildSpec("root", ignore, kind=Kind.SUPERVISOR), clock=clock)
    with expect(tree, ShutdownEnded, abandoned=()), pytest.raises(StartFailedError, match="root"):
        tree.start(10.0)
    assert tree.stopped.is_set()
