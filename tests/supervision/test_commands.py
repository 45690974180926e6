import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import pytest

from tinker_actors.errors import (
    CommandRefusedError,
    ConfigError,
    HandleClosedError,
    NotDeliveredError,
    StartFailedError,
)
from tinker_actors.supervision import (
    NORMAL,
    ActorTree,
    Backoff,
    ChildCounts,
    ChildDeleted,
    ChildExited,
    ChildInfo,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    ChildStartFailed,
    CountChildren,
    DeleteChild,
    DynamicSupervisor,
    Error,
    GetChildSpec,
    Kind,
    Restart,
    RestartChild,
    StartChild,
    Stop,
    Strategy,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    WhichChildren,
)
from tinker_actors.supervision.commands import Command
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]

DYNAMIC = ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR)


class Echo(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        return message


def refusal(tree: ActorTree, command: Command, path: str = "root") -> str:
    with pytest.raises(CommandRefusedError) as caught:
        tree.address(path).call(command)
    return caught.value.answer


def nest(name: str, *children: ChildSpec, **limits: Any) -> ChildSpec:
    return ChildSpec(name, lambda: Supervisor(children, **limits), kind=Kind.SUPERVISOR)


# Adding and taking out children.


def test_starting_a_child_answers_with_its_address(start_tree: StartTree) -> None:
    address = start_tree().address("root").call(StartChild(ChildSpec("new", Echo)))
    assert address.path == "root/new"
    assert address.call("hello") == "hello"


def test_child_goes_through_its_whole_life_by_command(start_tree: StartTree) -> None:
    """SUP-06."""
    root = start_tree().address("root")
    counts: list[tuple[int, int]] = []
    life = [
        StartChild(ChildSpec("a", Echo)),
        TerminateChild("a"),
        TerminateChild("a"),
        RestartChild("a"),
        TerminateChild("a"),
        DeleteChild("a"),
    ]
    for command in life:
        root.call(command)
        count = root.call(CountChildren())
        counts.append((count.specs, count.active))
    assert counts == [(1, 1), (1, 0), (1, 0), (1, 1), (1, 0), (0, 0)]


def test_restart_by_command_answers_with_the_address(start_tree: StartTree) -> None:
    root = start_tree(ChildSpec("a", Echo)).address("root")
    root.call(TerminateChild("a"))
    a = root.call(RestartChild("a"))
    assert (a.path, a.call("hello")) == ("root/a", "hello")


def test_spec_is_shown_as_it_was_given(start_tree: StartTree) -> None:
    spec = ChildSpec("a", Echo, Restart.TRANSIENT, shutdown_s=2.5, max_mailbox=7)
    assert start_tree(spec).address("root").call(GetChildSpec("a")) == spec


def test_spec_of_an_unknown_child_is_not_found(start_tree: StartTree) -> None:
    assert refusal(start_tree(), GetChildSpec("a")) == "not_found"


@pytest.mark.parametrize("child_id", ["", "b", "root/a", 7, None, ["a"]])
@pytest.mark.parametrize("command", [RestartChild, TerminateChild, DeleteChild, GetChildSpec])
def test_id_that_no_child_has_is_not_found(
    start_tree: StartTree, command: Callable[[Any], Command], child_id: Any
) -> None:
    """SUP-06."""
    assert refusal(start_tree(ChildSpec("a", Echo)), command(child_id)) == "not_found"


@pytest.mark.parametrize("path", ["root", "root/dyn"])
@pytest.mark.parametrize("spec", ["hej", None, Echo, {"id": "a"}])
def test_start_of_what_is_no_spec_is_refused_and_harms_nobody(
    start_tree: StartTree, path: str, spec: Any
) -> None:
    """SUP-04."""
    supervisor = start_tree(DYNAMIC).address(path)
    before = supervisor.call(WhichChildren())
    with pytest.raises(ConfigError, match="ChildSpec"):
        supervisor.call(StartChild(spec))
    assert supervisor.call(WhichChildren()) == before


@pytest.mark.parametrize("path", ["root", "root/dyn"])
def test_significant_child_of_a_supervisor_without_auto_shutdown_is_refused(
    start_tree: StartTree, path: str
) -> None:
    """SUP-04, SUP-26."""
    supervisor = start_tree(DYNAMIC).address(path)
    with pytest.raises(ConfigError, match=r"ChildSpec\.significant"):
        supervisor.call(StartChild(ChildSpec("a", Echo, Restart.TRANSIENT, significant=True)))
    assert supervisor.call(CountChildren()).workers == 0


@pytest.mark.parametrize("path", ["root", "root/dyn"])
def test_second_child_of_a_name_is_refused(start_tree: StartTree, path: str) -> None:
    """SUP-05."""
    tree = start_tree(DYNAMIC)
    a = tree.address(path).call(StartChild(ChildSpec("a", Echo)))
    assert refusal(tree, StartChild(ChildSpec("a", Echo)), path) == "already_started"
    assert a.call("hello") == "hello"


def test_child_of_the_same_name_elsewhere_is_another(start_tree: StartTree) -> None:
    """SUP-05."""
    tree = start_tree(DYNAMIC)
    paths = [tree.address(path).call(StartChild(ChildSpec("a", Echo))).path for path in ("root", "root/dyn")]
    assert paths == ["root/a", "root/dyn/a"]


def test_terminated_temporary_child_is_forgotten(start_tree: StartTree) -> None:
    root = start_tree(ChildSpec("a", Echo, Restart.TEMPORARY)).address("root")
    root.call(TerminateChild("a"))
    assert root.call(CountChildren()).specs == 0


def test_temporary_child_can_be_added_again(start_tree: StartTree) -> None:
    """SUP-05."""
    root = start_tree(ChildSpec("a", Echo, Restart.TEMPORARY)).address("root")
    root.call(TerminateChild("a"))
    assert root.call(StartChild(ChildSpec("a", Echo))).call("hello") == "hello"


def test_address_of_a_deleted_child_is_closed(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Echo))
    a, root = tree.address("root/a"), tree.address("root")
    root.call(TerminateChild("a"))
    with pytest.raises(NotDeliveredError):
        a.tell("down")
    root.call(DeleteChild("a"))
    with pytest.raises(HandleClosedError):
        a.tell("deleted")
    assert isinstance(a.ask("deleted").exception(), HandleClosedError)


def test_address_works_again_after_the_id_is_added_again_with_a_higher_epoch(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Echo))
    a, root = tree.address("root/a"), tree.address("root")
    root.call(TerminateChild("a"))
    root.call(DeleteChild("a"))
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        root.call(StartChild(ChildSpec("a", Echo)))
    assert a.call("hello") == "hello"


def test_child_added_by_command_is_restarted_like_any_other(start_tree: StartTree) -> None:
    class Reluctant(Echo):
        def on_start(self) -> None:
            if self.context.epoch == 2:
                raise ValueError("not yet")

    tree = start_tree()
    a = tree.address("root").call(StartChild(ChildSpec("a", Reluctant)))
    with expect(tree, ChildStarted, path="root/a", epoch=3):
        crash(a)


def test_children_added_by_command_are_gone_after_a_restart_of_their_supervisor(
    start_tree: StartTree,
) -> None:
    tree = start_tree(nest("mid", ChildSpec("listed", Echo)))
    added = tree.address("root/mid").call(StartChild(ChildSpec("added", Echo)))
    with expect(tree, ChildStarted, path="root/mid", epoch=2):
        crash(tree.address("root/mid"))
    assert [child.id for child in tree.address("root/mid").call(WhichChildren())] == ["listed"]
    with pytest.raises(NotDeliveredError):
        added.tell("hello")


def test_children_deleted_by_command_are_there_again_after_a_restart_of_their_supervisor(
    start_tree: StartTree,
) -> None:
    tree = start_tree(nest("mid", ChildSpec("a", Echo)))
    tree.address("root/mid").call(TerminateChild("a"))
    tree.address("root/mid").call(DeleteChild("a"))
    with expect(tree, ChildStarted, path="root/mid", epoch=2):
        crash(tree.address("root/mid"))
    assert tree.address("root/mid/a").call("hello") == "hello"


def test_commands_to_a_supervisor_that_is_not_there_are_not_delivered(start_tree: StartTree) -> None:
    tree = start_tree(nest("mid"))
    tree.address("root").call(TerminateChild("mid"))
    for path in ("root/mid", "root/nobody"):
        assert isinstance(tree.address(path).ask(CountChildren()).exception(), NotDeliveredError)


def test_restart_by_command_that_fails_leaves_the_child_down(start_tree: StartTree) -> None:
    """SUP-06."""

    class Once(Echo):
        def on_start(self) -> None:
            if self.context.epoch == 2:
                raise ValueError("not again")

    tree = start_tree(ChildSpec("a", Once))
    root = tree.address("root")
    root.call(TerminateChild("a"))
    with expect(tree, ChildStartFailed, path="root/a", epoch=2), pytest.raises(StartFailedError) as caught:
        root.call(RestartChild("a"))
    assert isinstance(caught.value.__cause__, ValueError)
    assert [(child.state, child.epoch) for child in root.call(WhichChildren())] == [("down", 2)]
    assert root.call(RestartChild("a")).call("hello") == "hello"


# Pauses.


def pausing(start_tree: StartTree, clock: VirtualClock, **limits: Any) -> ActorTree:
    """A tree whose child `a` waits five seconds for its restart."""
    tree = start_tree(ChildSpec("a", Echo, backoff=Backoff(base_s=5.0, jitter=0.0)), clock=clock, **limits)
    with expect(tree, ChildRestarting, path="root/a"):
        crash(tree.address("root/a"))
    return tree


def info(tree: ActorTree) -> ChildInfo:
    children: list[ChildInfo] = tree.address("root").call(WhichChildren())
    return children[0]


@pytest.mark.parametrize("strategy", Strategy)
def test_terminating_during_the_backoff_makes_the_timer_harmless(
    start_tree: StartTree, clock: VirtualClock, strategy: Strategy
) -> None:
    """SUP-25."""
    tree = pausing(start_tree, clock, strategy=strategy)
    tree.address("root").call(TerminateChild("a"))
    assert clock.pending() == 0
    clock.advance(100.0)
    assert (info(tree).state, info(tree).epoch) == ("down", 1)


@pytest.mark.parametrize("strategy", Strategy)
def test_restart_by_command_skips_the_backoff_and_its_timer_starts_no_second_one(
    start_tree: StartTree, clock: VirtualClock, strategy: Strategy
) -> None:
    """SUP-25."""
    tree = pausing(start_tree, clock, strategy=strategy)
    assert tree.address("root").call(RestartChild("a")).call("hello") == "hello"
    clock.advance(100.0)
    assert (info(tree).state, info(tree).epoch, info(tree).restarts) == ("running", 2, 1)


def test_restart_by_command_that_skips_the_backoff_has_used_up_a_restart(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """SUP-25."""
    tree = pausing(start_tree, clock, max_restarts=1)
    a = tree.address("root").call(RestartChild("a"))
    crash(a)
    assert tree.stopped.wait(10.0)


def test_restart_by_command_that_skips_the_backoff_and_fails_backs_off_again(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """SUP-25."""

    class Reluctant(Echo):
        def on_start(self) -> None:
            if self.context.epoch == 2:
                raise ValueError("not yet")

    spec = ChildSpec("a", Reluctant, backoff=Backoff(base_s=5.0, jitter=0.0))
    tree = start_tree(spec, clock=clock)
    with expect(tree, ChildRestarting, path="root/a"):
        crash(tree.address("root/a"))
    with expect(tree, ChildRestarting, delay_s=10.0), pytest.raises(StartFailedError):
        tree.address("root").call(RestartChild("a"))
    with expect(tree, ChildStarted, path="root/a", epoch=3):
        clock.advance(10.0)


@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])
def test_terminating_the_child_its_group_waits_for_starts_the_group(
    start_tree: StartTree, clock: VirtualClock, strategy: Strategy
) -> None:
    """SUP-06, SUP-25."""
    tree = start_tree(
        ChildSpec("a", Echo, backoff=Backoff(base_s=5.0)),
        ChildSpec("b", Echo),
        strategy=strategy,
        clock=clock,
    )
    with expect(tree, ChildExited, path="root/b"):
        crash(tree.address("root/a"))
    with expect(tree, ChildStarted, path="root/b", epoch=2):
        tree.address("root").call(TerminateChild("a"))
    assert info(tree).state == "down"


@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])
def test_child_terminated_while_its_group_waits_stays_down(
    start_tree: StartTree, clock: VirtualClock, strategy: Strategy
) -> None:
    """SUP-06, SUP-25."""
    tree = start_tree(
        ChildSpec("a", Echo, backoff=Backoff(base_s=5.0)),
        ChildSpec("b", Echo),
        ChildSpec("c", Echo),
        strategy=strategy,
        clock=clock,
    )
    with expect(tree, ChildExited, count=3):
        crash(tree.address("root/a"))
    tree.address("root").call(TerminateChild("b"))
    with expect(tree, ChildStarted, path="root/c", epoch=2):
        clock.advance(10.0)
    assert [node.state for node in tree.snapshot().children] == ["running", "down", "running"]


@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])
def test_child_added_while_a_group_waits_starts_after_it(
    start_tree: StartTree, clock: VirtualClock, strategy: Strategy
) -> None:
    """SUP-06."""
    tree = start_tree(
        ChildSpec("a", Echo, backoff=Backoff(base_s=5.0)),
        ChildSpec("b", Echo),
        strategy=strategy,
        clock=clock,
    )
    with expect(tree, ChildExited, path="root/b"):
        crash(tree.address("root/a"))
    added = tree.address("root").ask(StartChild(ChildSpec("new", Echo)))
    with expect(tree, ChildStarted, count=3) as got:
        tree.address("root").call(CountChildren())
        clock.advance(10.0)
    assert [event.path for event in got.events] == ["root/a", "root/b", "root/new"]
    assert added.result().path == "root/new"


# Lists and counts.


def test_children_are_listed_and_counted_without_asking_them(start_tree: StartTree) -> None:
    """SUP-13."""
    tree = start_tree(DYNAMIC, ChildSpec("b", Echo), ChildSpec("a", Echo))
    root = tree.address("root")
    root.call(TerminateChild("b"))
    assert [(child.id, child.state) for child in root.call(WhichChildren())] == [
        ("dyn", "running"),
        ("b", "down"),
        ("a", "running"),
    ]
    assert root.call(CountChildren()) == ChildCounts(specs=3, active=2, supervisors=1, workers=2)


def test_child_is_listed_with_all_that_is_known_of_it(start_tree: StartTree) -> None:
    tree, error = start_tree(ChildSpec("a", Echo, Restart.TRANSIENT)), ValueError("spoilt")
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(tree.address("root/a"), error)
    assert info(tree) == ChildInfo(
        id="a",
        path="root/a",
        kind=Kind.WORKER,
        restart=Restart.TRANSIENT,
        state="running",
        epoch=2,
        restarts=1,
        last_exit=Error(error),
    )


def test_counts_follow_the_children(start_tree: StartTree) -> None:
    dynamic = start_tree(DYNAMIC).address("root/dyn")
    replies = [dynamic.ask(StartChild(ChildSpec(f"w{n}", Echo))) for n in range(100)]
    assert {reply.exception() for reply in replies} == {None}
    hundred = ChildCounts(specs=100, active=100, supervisors=0, workers=100)
    assert [dynamic.call(CountChildren()) for _ in range(2)] == [hundred, hundred]
    replies = [dynamic.ask(TerminateChild(f"w{n}")) for n in range(60)]
    assert {reply.exception() for reply in replies} == {None}
    assert dynamic.call(CountChildren()) == ChildCounts(specs=40, active=40, supervisors=0, workers=40)


def test_supervisors_are_counted_as_such_wherever_they_are(start_tree: StartTree) -> None:
    tree = start_tree(DYNAMIC)
    dynamic = tree.address("root/dyn")
    for spec in (nest("s1"), nest("s2", ChildSpec("leaf", Echo)), ChildSpec("w", Echo)):
        dynamic.call(StartChild(spec))
    assert dynamic.call(CountChildren()) == ChildCounts(specs=3, active=3, supervisors=2, workers=1)


def test_child_that_waits_for_its_restart_is_counted_and_not_active(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    counts = pausing(start_tree, clock).address("root").call(CountChildren())
    assert counts == ChildCounts(specs=1, active=0, supervisors=0, workers=1)


# Children that come and go.


def test_dynamic_supervisor_starts_empty_and_takes_children(start_tree: StartTree) -> None:
    """SUP-01."""
    dynamic = start_tree(DYNAMIC).address("root/dyn")
    assert dynamic.call(CountChildren()).specs == 0
    assert dynamic.call(StartChild(ChildSpec("training:1", Echo))).path == "root/dyn/training:1"


def test_dynamic_children_restart_independently(start_tree: StartTree) -> None:
    """SUP-15."""
    tree = start_tree(DYNAMIC)
    for name in "ab":
        tree.address("root/dyn").call(StartChild(ChildSpec(name, Echo)))
    with expect(tree, ChildStarted, path="root/dyn/a", epoch=2):
        crash(tree.address("root/dyn/a"))
    assert [child.epoch for child in tree.address("root/dyn").call(WhichChildren())] == [2, 1]


@pytest.mark.parametrize("restart", Restart)
def test_terminated_dynamic_child_is_deleted(start_tree: StartTree, restart: Restart) -> None:
    tree = start_tree(DYNAMIC)
    a = tree.address("root/dyn").call(StartChild(ChildSpec("a", Echo, restart)))
    with expect(tree, ChildDeleted, path="root/dyn/a"):
        tree.address("root/dyn").call(TerminateChild("a"))
    with pytest.raises(HandleClosedError):
        a.tell("hello")


class Recorder(DynamicSupervisor):
    """Keeps the ids of children that ended for good."""

    def __init__(self, deleted: list[str]) -> None:
        super().__init__()
        self._deleted = deleted

    def on_child_deleted(self, spec: ChildSpec) -> None:
        self._deleted.append(spec.id)


def test_supervisor_knows_of_an_end_for_good_before_anybody_hears_of_it(start_tree: StartTree) -> None:
    deleted: list[str] = []
    tree = start_tree(ChildSpec("dyn", partial(Recorder, deleted), kind=Kind.SUPERVISOR))
    dynamic = tree.address("root/dyn")
    seen: list[list[str]] = []
    tree.events.subscribe(lambda _event: seen.append(list(deleted)), ChildDeleted)
    for name in ("leaves", "is terminated", "crashes", "stays"):
        dynamic.call(StartChild(ChildSpec(name, Leaver, Restart.TRANSIENT)))
    with expect(tree, ChildDeleted, path="root/dyn/leaves"):
        tree.address("root/dyn/leaves").tell("leave")
    dynamic.call(TerminateChild("is terminated"))
    with expect(tree, ChildStarted, path="root/dyn/crashes", epoch=2):
        crash(tree.address("root/dyn/crashes"))
    tree.stop(10.0)
    assert deleted == ["leaves", "is terminated"]
    assert [told[:count] for count, told in enumerate(seen, 1)] == [deleted[:1], deleted]


class Told(SupervisedActor):
    """Says what it was made with."""

    def __init__(self, rank: int, *, name: str) -> None:
        super().__init__()
        self.made_with = rank, name

    def on_receive(self, _message: Any) -> tuple[int, str]:
        return self.made_with


def test_dynamic_child_is_restarted_with_what_it_was_made_with(start_tree: StartTree) -> None:
    """SUP-11."""
    tree = start_tree(DYNAMIC)
    for rank in (8, 32):
        spec = ChildSpec(f"r{rank}", partial(Told, rank, name="tiny"))
        tree.address("root/dyn").call(StartChild(spec))
    for rank in (8, 32):
        with expect(tree, ChildStarted, path=f"root/dyn/r{rank}", epoch=2):
            crash(tree.address(f"root/dyn/r{rank}"))
        assert tree.address(f"root/dyn/r{rank}").call("what?") == (rank, "tiny")


class Argument:
    """Something large that a factory holds."""


def start_with_argument(tree: ActorTree, path: str, restart: Restart) -> "weakref.ref[Argument]":
    argument = Argument()

    def factory(argument: Argument = argument) -> Echo:
        assert argument is not None
        return Echo()

    tree.address(path).call(StartChild(ChildSpec("a", factory, restart)))
    tree.address(path).call(CountChildren())  # no thread keeps its last message from here on
    return weakref.ref(argument)


def holder(strategy: str) -> ChildSpec:
    return DYNAMIC if strategy == "dynamic" else nest("dyn", strategy=Strategy(strategy))


@pytest.mark.parametrize("strategy", [*Strategy, "dynamic"])
def test_what_a_temporary_child_was_made_with_is_let_go_once_it_is_up(
    start_tree: StartTree, strategy: str
) -> None:
    """SUP-11."""
    tree = start_tree(holder(strategy))
    argument = start_with_argument(tree, "root/dyn", Restart.TEMPORARY)
    gc.collect()
    assert argument() is None
    assert tree.address("root/dyn/a").call("hello") == "hello"


@pytest.mark.parametrize("strategy", [*Strategy, "dynamic"])
@pytest.mark.parametrize("restart", [Restart.PERMANENT, Restart.TRANSIENT])
def test_what_another_child_was_made_with_is_kept_until_it_is_deleted(
    start_tree: StartTree, strategy: str, restart: Restart
) -> None:
    """SUP-11."""
    tree = start_tree(holder(strategy))
    argument = start_with_argument(tree, "root/dyn", restart)
    gc.collect()
    assert argument() is not None
    tree.address("root/dyn").call(TerminateChild("a"))
    tree.address("root/dyn").ask(DeleteChild("a")).exception()  # a dynamic one is gone already
    tree.address("root/dyn").call(CountChildren())
    gc.collect()
    assert argument() is None


# The bound of a dynamic supervisor.


def bounded(start_tree: StartTree, limit: int, **fields: Any) -> ActorTree:
    spec = ChildSpec("dyn", lambda: DynamicSupervisor(max_children=limit), kind=Kind.SUPERVISOR)
    return start_tree(spec, **fields)


NEXT = StartChild(ChildSpec("b", Echo))


def test_running_child_counts_against_the_bound(start_tree: StartTree) -> None:
    """SUP-12."""
    tree = bounded(start_tree, 1)
    tree.address("root/dyn").call(StartChild(ChildSpec("a", Echo)))
    assert refusal(tree, NEXT, "root/dyn") == "max_children"


def test_starting_child_counts_against_the_bound(start_tree: StartTree) -> None:
    """SUP-12."""
    answers: list[str] = []

    class Nosy(Echo):
        def on_start(self) -> None:
            error = self.context.address("root/dyn").ask(NEXT).exception()
            answers.append(getattr(error, "answer", "taken"))

    bounded(start_tree, 1).address("root/dyn").call(StartChild(ChildSpec("a", Nosy)))
    assert answers == ["max_children"]


def test_child_that_waits_for_its_restart_counts_against_the_bound(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """SUP-12."""
    tree = bounded(start_tree, 1, clock=clock)
    tree.address("root/dyn").call(StartChild(ChildSpec("a", Echo, backoff=Backoff(base_s=5.0))))
    with expect(tree, ChildRestarting, path="root/dyn/a"):
        crash(tree.address("root/dyn/a"))
    assert refusal(tree, NEXT, "root/dyn") == "max_children"


def finish(tree: ActorTree) -> None:
    tree.address("root/dyn/a").tell("leave")


def terminate(tree: ActorTree) -> None:
    tree.address("root/dyn").call(TerminateChild("a"))


class Leaver(SupervisedActor):
    def on_receive(self, _message: Any) -> None:
        raise Stop(NORMAL)


@pytest.mark.parametrize("end", [finish, terminate])
def test_place_of_a_child_that_ended_is_free_again(
    start_tree: StartTree, end: Callable[[ActorTree], None]
) -> None:
    """SUP-12."""
    tree = bounded(start_tree, 1)
    tree.address("root/dyn").call(StartChild(ChildSpec("a", Leaver, Restart.TRANSIENT)))
    with expect(tree, ChildDeleted, path="root/dyn/a"):
        end(tree)
    assert tree.address("root/dyn").call(NEXT).path == "root/dyn/b"


def refuse() -> NoReturn:
    raise ValueError("no such luck")


def test_place_of_a_child_that_failed_to_start_is_free_again(start_tree: StartTree) -> None:
    """SUP-12."""
    dynamic = bounded(start_tree, 1).address("root/dyn")
    assert isinstance(dynamic.ask(StartChild(ChildSpec("a", refuse))).exception(), StartFailedError)
    assert dynamic.call(NEXT).path == "root/dyn/b"


def test_bound_of_zero_takes_nobody(start_tree: StartTree) -> None:
    """SUP-12."""
    assert refusal(bounded(start_tree, 0), NEXT, "root/dyn") == "max_children"


def test_restarted_dynamic_supervisor_is_empty_and_its_old_children_are_down(start_tree: StartTree) -> None:
    tree = start_tree(DYNAMIC)
    a = tree.address("root/dyn").call(StartChild(ChildSpec("a", Echo)))
    with expect(tree, ChildStarted, path="root/dyn", epoch=2):
        crash(tree.address("root/dyn"))
    assert tree.address("root/dyn").call(CountChildren()).specs == 0
    with pytest.raises(NotDeliveredError):
        a.tell("hello")


# What a supervisor does not understand.


@pytest.mark.parametrize("message", ["hej", None, 7, {"command": "start"}, ChildSpec("a", Echo)])
@pytest.mark.parametrize("path", ["root", "root/dyn"])
def test_unexpected_message_leaves_a_supervisor_as_it_was(
    start_tree: StartTree, path: str, message: Any
) -> None:
    tree = start_tree(DYNAMIC)
    supervisor = tree.address(path)
    supervisor.tell(message)
    supervisor.ask(message).exception()
    supervisor.call(CountChildren())
    assert [(node.state, node.epoch) for node in (tree.snapshot(), *tree.snapshot().children)] == [
        ("running", 1),
        ("running", 1),
    ]


def test_command_that_is_told_is_carried_out(start_tree: StartTree) -> None:
    tree = start_tree()
    with expect(tree, ChildStarted, path="root/a"):
        tree.address("root").tell(StartChild(ChildSpec("a", Echo)))


@pytest.mark.parametrize(
    "command",
    [StartChild("hej"), RestartChild("b"), DeleteChild("a"), CountChildren()],  # type: ignore[arg-type]
)
def test_command_that_is_told_and_refused_harms_nobody(start_tree: StartTree, command: Command) -> None:
    tree = start_tree(ChildSpec("a", Echo))
    tree.address("root").tell(command)
    tree.address("root").call(CountChildren())
    assert info(tree).epoch == 1
