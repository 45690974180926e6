import gc
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pykka
import pytest

from tinker_actors.errors import OutcomeUnknownError, StartFailedError
from tinker_actors.supervision import (
    NORMAL,
    ActorTree,
    Backoff,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    ChildStartFailed,
    Error,
    ErrorContained,
    ExitReason,
    Kind,
    Restart,
    RestartChild,
    Stop,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    Timer,
    WhichChildren,
)
from tinker_actors.supervision.testing import InjectedCrashError, VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]


class Doer(SupervisedActor):
    """Does what it is told: messages are functions of the actor."""

    reply_errors = (LookupError,)

    def on_receive(self, message: Callable[["Doer"], Any]) -> Any:
        return message(self)


class Tolerant(Doer):
    crash_on_ask_error = False


class Plain(pykka.ThreadingActor):
    """An actor that nobody supervises."""

    def on_receive(self, message: Any) -> Any:
        return message


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
    """SUP-32."""
    tree = start_tree(ChildSpec("a", Doer))
    with expect(tree, ChildStarted, path="root/a") as got, pytest.raises(ValueError, match="spoilt"):
        tree.address("root/a").call(fail)
    assert got.event.epoch == 2


def test_declared_error_is_an_answer_and_the_actor_lives_on(start_tree: StartTree) -> None:
    """SUP-32."""
    a = start_tree(ChildSpec("a", Doer)).address("root/a")
    with pytest.raises(KeyError):
        a.call(miss)
    assert a.call(epoch) == 1


def test_declared_error_in_a_tell_is_reported_and_the_actor_lives_on(start_tree: StartTree) -> None:
    """SUP-32."""
    tree = start_tree(ChildSpec("a", Doer))
    with expect(tree, ErrorContained, path="root/a"):
        tree.address("root/a").tell(miss)
    assert tree.address("root/a").call(epoch) == 1


def test_actor_that_tolerates_ask_errors_lives_on(start_tree: StartTree) -> None:
    """SUP-32."""
    a = start_tree(ChildSpec("a", Tolerant)).address("root/a")
    with pytest.raises(ValueError, match="spoilt"):
        a.call(fail)
    assert a.call(epoch) == 1


def test_actor_that_tolerates_ask_errors_still_crashes_on_a_tell(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Tolerant))
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        tree.address("root/a").tell(fail)


def test_sys_exit_in_an_ask_settles_the_asker_and_spares_the_siblings(start_tree: StartTree) -> None:
    """SUP-32."""
    tree = start_tree(ChildSpec("a", Doer), ChildSpec("b", Doer))
    with expect(tree, ChildStarted, path="root/a") as got, pytest.raises(OutcomeUnknownError) as caught:
        tree.address("root/a").call(leave)
    assert isinstance(caught.value.__cause__, SystemExit)
    assert got.event.epoch == 2
    assert tree.address("root/b").call(epoch) == 1


def test_sys_exit_in_an_ask_spares_actors_of_plain_pykka_and_of_another_tree(start_tree: StartTree) -> None:
    """SUP-32."""
    tree, other = start_tree(ChildSpec("a", Doer)), start_tree(ChildSpec("a", Doer))
    plain = Plain.start()
    with expect(tree, ChildStarted, path="root/a", epoch=2), pytest.raises(OutcomeUnknownError):
        tree.address("root/a").call(leave)
    assert plain.ask("hello", timeout=5.0) == "hello"
    assert other.address("root/a").call(epoch) == 1
    plain.stop(timeout=5.0)


def test_generator_exit_in_an_ask_settles_the_asker_and_restarts_the_child(start_tree: StartTree) -> None:
    """SUP-32."""

    def close(_actor: Doer) -> None:
        raise GeneratorExit

    tree = start_tree(ChildSpec("a", Doer))
    with expect(tree, ChildStarted, path="root/a", epoch=2), pytest.raises(OutcomeUnknownError) as caught:
        tree.address("root/a").call(close)
    assert isinstance(caught.value.__cause__, GeneratorExit)


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


def test_restart_by_command_that_fails_is_answered_and_leaves_the_child_down(start_tree: StartTree) -> None:
    """SUP-06."""

    class Reluctant(Doer):
        def on_start(self) -> None:
            if self.context.epoch == 2:
                raise ValueError("not yet")

    tree = start_tree(ChildSpec("a", Reluctant), max_restarts=0)
    root = tree.address("root")
    root.call(TerminateChild("a"))
    with pytest.raises(StartFailedError, match="not yet"):
        root.call(RestartChild("a"))
    assert root.call(WhichChildren())[0].state == "down"
    root.call(RestartChild("a"))
    assert tree.address("root/a").call(epoch) == 3


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
    """SUP-24."""
    pause = Backoff(base_s=1.0, cap_s=100.0, jitter=0.0, stable_after_s=60.0)
    tree = start_tree(ChildSpec("a", Doer, backoff=pause), clock=clock)
    delays = []
    for running_s in (0.0, 59.5, 59.5, 60.0):
        clock.advance(running_s)
        with expect(tree, ChildRestarting) as got:
            crash(tree.address("root/a"))
        with expect(tree, ChildStarted, path="root/a"):
            clock.advance(got.event.delay_s)
        delays.append(got.event.delay_s)
    assert delays == [1.0, 2.0, 4.0, 1.0]


def jittered_pauses(seed: int, clock: VirtualClock) -> list[float]:
    """The pauses before the first three restarts of a child in a tree with this seed."""
    pause = Backoff(base_s=1.0, cap_s=1.0, jitter=0.5)
    children = [ChildSpec("a", Doer, backoff=pause)]
    tree = ActorTree(
        ChildSpec("root", lambda: Supervisor(children), kind=Kind.SUPERVISOR), clock=clock, seed=seed
    )
    pauses = []
    with tree:
        for _ in range(3):
            with expect(tree, ChildRestarting) as got:
                crash(tree.address("root/a"))
            with expect(tree, ChildStarted, path="root/a"):
                clock.advance(got.event.delay_s)
            pauses.append(got.event.delay_s)
    return pauses


def test_pauses_depend_on_the_seed_of_the_tree_only() -> None:
    """SUP-24."""
    first = jittered_pauses(1, VirtualClock())
    assert first == jittered_pauses(1, VirtualClock())
    assert first != jittered_pauses(2, VirtualClock())
    assert len(set(first)) == 3


def test_pauses_of_two_children_differ(start_tree: StartTree, clock: VirtualClock) -> None:
    """SUP-24."""
    pause = Backoff(base_s=1.0, cap_s=1.0, jitter=0.5)
    tree = start_tree(*(ChildSpec(name, Doer, backoff=pause) for name in "ab"), clock=clock)
    with expect(tree, ChildRestarting, count=2) as got:
        crash(tree.address("root/a"))
        crash(tree.address("root/b"))
    assert got.events[0].delay_s != got.events[1].delay_s


def draws(seed: int) -> list[float]:
    """What the first two incarnations of an actor draw in a tree with this seed."""
    children = [ChildSpec("a", Doer)]
    with ActorTree(ChildSpec("root", lambda: Supervisor(children), kind=Kind.SUPERVISOR), seed=seed) as tree:
        a = tree.address("root/a")
        first = a.call(lambda actor: actor.context.random.random())
        with expect(tree, ChildStarted, epoch=2):
            crash(a)
        return [first, a.call(lambda actor: actor.context.random.random())]


def test_what_an_actor_draws_depends_on_seed_path_and_epoch_only() -> None:
    one, two = draws(1), draws(2)
    assert one == draws(1)
    assert len({*one, *two}) == 4


class LateClock(VirtualClock):
    """Keeps what it was to call, so that a timer can fire although it was cancelled a moment before."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks: dict[float, Callable[[], object]] = {}

    def schedule(
        self, delay_s: float, callback: Callable[[], object], *, in_background: bool = False
    ) -> Timer:
        self.callbacks[delay_s] = callback
        return super().schedule(delay_s, callback, in_background=in_background)


def test_late_timer_of_a_pause_that_was_cut_short_does_not_end_the_next_one(start_tree: StartTree) -> None:
    clock = LateClock()
    tree = start_tree(ChildSpec("a", Doer, backoff=Backoff(base_s=7.0, jitter=0.0)), clock=clock)
    root = tree.address("root")
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"))
    root.call(RestartChild("a"))
    with expect(tree, ChildRestarting, delay_s=14.0):
        crash(tree.address("root/a"))
    clock.callbacks[7.0]()
    assert root.call(WhichChildren())[0].state == "backing_off"


def test_free_causes_use_up_no_restarts(start_tree: StartTree, clock: VirtualClock) -> None:
    """SUP-23."""
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


def test_on_failure_runs_after_a_start_that_failed(start_tree: StartTree) -> None:
    seen: list[str] = []

    class Watcher(Doer):
        def on_start(self) -> None:
            if self.context.epoch == 2:
                raise ValueError("no")

        def on_failure(self, _kind: object, error: BaseException | None, _trace: object) -> None:
            seen.append(repr(error))

    tree = start_tree(ChildSpec("a", Watcher))
    with expect(tree, ChildStarted, epoch=3):
        crash(tree.address("root/a"))
    assert seen == ["InjectedCrashError('crashed on purpose')", "ValueError('no')"]


@pytest.mark.parametrize("hook", ["on_failure", "on_exit"])
def test_hook_that_hangs_after_a_crash_holds_up_the_restart_for_five_seconds_only(
    start_tree: StartTree, clock: VirtualClock, hook: str
) -> None:
    """SHU-05."""
    entered, go_on = threading.Event(), threading.Event()

    def hang(actor: Doer, *_: object) -> None:
        if actor.context.epoch == 1:
            entered.set()
            go_on.wait(20.0)

    hanging = type("Hanging", (Doer,), {hook: hang})
    tree = start_tree(ChildSpec("a", hanging), clock=clock)
    crash(tree.address("root/a"))
    entered.wait(5.0)
    clock.wait_for_timers()
    clock.advance(4.9)
    assert tree.address("root").call(WhichChildren())[0].epoch == 1
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(0.1)
    go_on.set()


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
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(5.0)
