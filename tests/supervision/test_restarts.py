import sys
from collections.abc import Callable
from typing import Any

import pytest

from tinker_actors.errors import OutcomeUnknownError
from tinker_actors.supervision import (
    NORMAL,
    ActorTree,
    Backoff,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    ChildStartFailed,
    CountChildren,
    Error,
    ErrorContained,
    ExitReason,
    Restart,
    Shutdown,
    ShutdownWith,
    Stop,
    SupervisedActor,
    WhichChildren,
)
from tinker_actors.supervision.testing import InjectedCrashError, VirtualClock, crash, expect, wait_for

StartTree = Callable[..., ActorTree]


class Doer(SupervisedActor):
    """Does what it is told: messages are functions of the actor."""

    reply_errors = (LookupError,)

    def on_receive(self, message: Callable[["Doer"], Any]) -> Any:
        return message(self)


class Tolerant(Doer):
    crash_on_ask_error = False


def fail(_actor: Doer) -> None:
    raise ValueError("spoilt")


def miss(_actor: Doer) -> None:
    raise KeyError("no such thing")


def leave(_actor: Doer) -> None:
    sys.exit(3)


def epoch(actor: Doer) -> int:
    return actor.context.epoch


def test_error_in_a_tell_restarts_the_child_with_a_new_epoch(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Doer))
    with expect(tree, ChildStarted, path="root/a") as got:
        tree.address("root/a").tell(fail)
    assert got.event.epoch == 2
    assert tree.address("root/a").call(epoch) == 2


def test_error_in_an_ask_reaches_the_asker_and_restarts_the_child(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Doer))
    with expect(tree, ChildStarted, path="root/a") as got, pytest.raises(ValueError, match="spoilt"):
        tree.address("root/a").call(fail)
    assert got.event.epoch == 2


def test_declared_error_is_an_answer_and_the_actor_lives_on(start_tree: StartTree) -> None:
    a = start_tree(ChildSpec("a", Doer)).address("root/a")
    with pytest.raises(KeyError):
        a.call(miss)
    assert a.call(epoch) == 1


def test_declared_error_in_a_tell_is_reported_and_the_actor_lives_on(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Doer))
    with expect(tree, ErrorContained, path="root/a"):
        tree.address("root/a").tell(miss)
    assert tree.address("root/a").call(epoch) == 1


def test_actor_that_tolerates_ask_errors_lives_on(start_tree: StartTree) -> None:
    a = start_tree(ChildSpec("a", Tolerant)).address("root/a")
    with pytest.raises(ValueError, match="spoilt"):
        a.call(fail)
    assert a.call(epoch) == 1


def test_actor_that_tolerates_ask_errors_still_crashes_on_a_tell(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Tolerant))
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        tree.address("root/a").tell(fail)


def test_sys_exit_in_an_ask_settles_the_asker_and_spares_the_siblings(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Doer), ChildSpec("b", Doer))
    with expect(tree, ChildStarted, path="root/a") as got, pytest.raises(OutcomeUnknownError) as caught:
        tree.address("root/a").call(leave)
    assert isinstance(caught.value.__cause__, SystemExit)
    assert got.event.epoch == 2
    assert tree.address("root/b").call(epoch) == 1


def test_sys_exit_in_a_tell_restarts_that_child_alone(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Doer), ChildSpec("b", Doer))
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        tree.address("root/a").tell(leave)
    assert tree.address("root/b").call(epoch) == 1


@pytest.mark.parametrize("error", [ValueError("not yet"), SystemExit(1)], ids=["error", "sys.exit"])
def test_restart_that_fails_to_start_is_tried_again(start_tree: StartTree, error: BaseException) -> None:
    class Reluctant(Doer):
        def on_start(self) -> None:
            if self.context.epoch == 2:
                raise error

    tree = start_tree(ChildSpec("a", Reluctant))
    with expect(tree, ChildStartFailed, path="root/a") as failed, expect(tree, ChildStarted) as started:
        crash(tree.address("root/a"))
    assert failed.event.error is error
    assert started.event.epoch == 3


def test_crash_happens_in_the_actors_own_thread(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Doer))
    with expect(tree, ChildExited, path="root/a") as got:
        crash(tree.address("root/a"))
    assert isinstance(got.event.reason, Error)
    assert isinstance(got.event.reason.error, InjectedCrashError)


def stop(reason: ExitReason) -> Callable[[Doer], None]:
    def act(_actor: Doer) -> None:
        raise Stop(reason)

    return act


@pytest.mark.parametrize(
    ("restart", "act", "state"),
    [
        ("permanent", stop(NORMAL), "running"),
        ("permanent", stop(Shutdown()), "running"),
        ("permanent", stop(ShutdownWith("done")), "running"),
        ("permanent", fail, "running"),
        ("permanent", leave, "running"),
        ("transient", stop(NORMAL), "down"),
        ("transient", stop(Shutdown()), "down"),
        ("transient", stop(ShutdownWith("done")), "down"),
        ("transient", fail, "running"),
        ("transient", leave, "running"),
        ("temporary", stop(NORMAL), "deleted"),
        ("temporary", stop(Shutdown()), "deleted"),
        ("temporary", stop(ShutdownWith("done")), "deleted"),
        ("temporary", fail, "deleted"),
        ("temporary", leave, "deleted"),
    ],
)
def test_restart_type_and_exit_reason_decide_together(
    start_tree: StartTree, restart: str, act: Callable[[Doer], None], state: str
) -> None:
    tree = start_tree(ChildSpec("a", Doer, Restart(restart)))
    with expect(tree, ChildExited, path="root/a"):
        tree.address("root/a").tell(act)
    tree.address("root").call(CountChildren())  # answered after the decision
    wait_for(tree, lambda tree: state_of(tree, "root/a") != "starting")
    assert state_of(tree, "root/a") == state


def state_of(tree: ActorTree, path: str) -> str:
    node = tree.snapshot().find(path)
    return "deleted" if node is None else node.state


def test_stop_with_a_reply_answers_before_it_ends_the_actor(start_tree: StartTree) -> None:
    def bow_out(_actor: Doer) -> None:
        raise Stop(reply="bye")

    tree = start_tree(ChildSpec("a", Doer, Restart.TRANSIENT))
    with expect(tree, ChildExited, reason=NORMAL):
        assert tree.address("root/a").call(bow_out) == "bye"


def test_stop_without_a_reply_leaves_the_outcome_unknown(start_tree: StartTree) -> None:
    a = start_tree(ChildSpec("a", Doer, Restart.TRANSIENT)).address("root/a")
    with pytest.raises(OutcomeUnknownError):
        a.call(stop(NORMAL))


def test_backoff_postpones_the_restart(start_tree: StartTree, clock: VirtualClock) -> None:
    tree = start_tree(ChildSpec("a", Doer, backoff=Backoff(base_s=5.0, jitter=0.0)), clock=clock)
    with expect(tree, ChildRestarting) as waiting:
        crash(tree.address("root/a"))
    clock.advance(4.9)
    assert tree.address("root").call(WhichChildren())[0].state == "backing_off"
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(0.2)
    assert waiting.event.delay_s == 5.0


def test_backoff_grows_with_failures_and_returns_after_a_stable_time(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    pause = Backoff(base_s=1.0, cap_s=100.0, jitter=0.0, stable_after_s=60.0)
    tree = start_tree(ChildSpec("a", Doer, backoff=pause), clock=clock)
    delays = []
    for running_s in (0.0, 0.0, 0.0, 60.0):
        clock.advance(running_s)
        with expect(tree, ChildRestarting) as got:
            crash(tree.address("root/a"))
        with expect(tree, ChildStarted, path="root/a"):
            clock.advance(got.event.delay_s)
        delays.append(got.event.delay_s)
    assert delays == [1.0, 2.0, 4.0, 1.0]


def test_free_causes_use_up_no_restarts(start_tree: StartTree, clock: VirtualClock) -> None:
    spec = ChildSpec(
        "a", Doer, backoff=Backoff(base_s=1.0, cap_s=1.0, jitter=0.0), free_causes=(TimeoutError,)
    )
    tree = start_tree(spec, clock=clock, max_restarts=0)
    for _ in range(20):
        with expect(tree, ChildRestarting):
            crash(tree.address("root/a"), TimeoutError("not our fault"))
        with expect(tree, ChildStarted, path="root/a"):
            clock.advance(1.0)
    assert not tree.stopped.is_set()


def test_on_exit_runs_once_for_each_incarnation(start_tree: StartTree) -> None:
    seen: list[tuple[int, str]] = []

    class Holder(Doer):
        def on_exit(self, reason: ExitReason) -> None:
            seen.append((self.context.epoch, type(reason).__name__))

    tree = start_tree(ChildSpec("a", Holder))
    with expect(tree, ChildStarted, epoch=2):
        tree.address("root/a").tell(fail)
    with expect(tree, ChildStarted, epoch=3):
        tree.address("root/a").tell(stop(NORMAL))
    tree.stop(5.0)
    assert seen == [(1, "Error"), (2, "Normal"), (3, "Shutdown")]


def test_on_exit_runs_when_the_start_failed(start_tree: StartTree) -> None:
    seen: list[str] = []

    class Holder(Doer):
        def on_start(self) -> None:
            if self.context.epoch == 2:
                raise ValueError("no")

        def on_exit(self, reason: ExitReason) -> None:
            seen.append(type(reason).__name__)

    tree = start_tree(ChildSpec("a", Holder))
    with expect(tree, ChildStarted, epoch=3):
        crash(tree.address("root/a"))
    assert seen == ["Error", "StartFailed"]


def test_on_exit_that_raises_does_not_stop_the_restart(start_tree: StartTree) -> None:
    class Clumsy(Doer):
        def on_exit(self, _reason: ExitReason) -> None:
            sys.exit(1)

    tree = start_tree(ChildSpec("a", Clumsy))
    with expect(tree, ChildStarted, epoch=2), expect(tree, ErrorContained, where="on_exit"):
        crash(tree.address("root/a"))


def test_on_failure_gets_the_crash_and_on_stop_does_not_run(start_tree: StartTree) -> None:
    seen: list[object] = []

    class Watcher(Doer):
        def on_stop(self) -> None:
            seen.append("on_stop")

        def on_failure(self, _kind: object, error: BaseException | None, _trace: object) -> None:
            seen.append(repr(error))

    tree = start_tree(ChildSpec("a", Watcher))
    with expect(tree, ChildStarted, epoch=2):
        tree.address("root/a").tell(fail)
    assert seen == ["ValueError('spoilt')"]


def test_remembered_crash_keeps_no_actor_alive(start_tree: StartTree) -> None:
    import gc
    import weakref

    remembered: list[weakref.ref[Doer]] = []

    class Heavy(Doer):
        def on_start(self) -> None:
            remembered.append(weakref.ref(self))

    tree = start_tree(ChildSpec("a", Heavy))
    with expect(tree, ChildStarted, epoch=2):
        tree.address("root/a").tell(fail)
    wait_for_thread_end("actor:root/a#1")
    gc.collect()
    assert tree.snapshot().find("root/a") is not None
    assert remembered[0]() is None


def wait_for_thread_end(name: str) -> None:
    import threading

    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(5.0)
