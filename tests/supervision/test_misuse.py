"""Wrong use is refused in words, and callbacks of others end nobody's thread."""

import copy
import logging
import math
import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tinker_actors.errors import ConfigError
from tinker_actors.supervision import (
    ActorTree,
    ChildSpec,
    ChildStarted,
    Gate,
    Kind,
    Shutdown,
    Stop,
    SupervisedActor,
    Supervisor,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]


class Echo(SupervisedActor):
    exposed = ("say",)

    def on_receive(self, message: Any) -> Any:
        return message(self) if callable(message) else message

    def say(self, word: str) -> str:
        return word


def leave() -> None:
    raise SystemExit(3)


# Callbacks --------------------------------------------------------------------------------------------


def test_timer_whose_callback_exits_does_not_stop_the_others(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    rang: list[int] = []
    clock.schedule(1.0, leave)
    clock.schedule(2.0, lambda: rang.append(2))
    with caplog.at_level(logging.ERROR):
        clock.advance(3.0)
    assert rang == [2]
    assert "supervision.timer_failed" in caplog.text


def test_done_callback_that_exits_ends_no_actor(
    start_tree: StartTree, caplog: pytest.LogCaptureFixture
) -> None:
    tree = start_tree(ChildSpec("a", Echo))
    with caplog.at_level(logging.ERROR):
        reply = tree.address("root/a").ask(lambda _: 1)
        reply.add_done_callback(lambda _: leave())
        assert reply.result() == 1
        assert tree.address("root/a").call(lambda actor: actor.context.epoch) == 1
    assert "supervision.reply_callback_failed" in caplog.text


def test_gate_opens_for_all_although_a_callback_fails(caplog: pytest.LogCaptureFixture) -> None:
    gate, let_through = Gate(is_open=False), []
    gate.when_open(leave)
    gate.when_open(lambda: let_through.append(1))
    with caplog.at_level(logging.ERROR):
        gate.open()
    assert let_through == [1]


def test_listener_that_exits_hears_the_next_event_too(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Echo))
    heard: list[object] = []

    def listen(event: object) -> None:
        heard.append(event)
        leave()

    tree.events.subscribe(listen)
    for epoch in (2, 3):
        with expect(tree, ChildStarted, epoch=epoch):
            crash(tree.address("root/a"))
    tree.stop(5.0)
    assert len([event for event in heard if isinstance(event, ChildStarted)]) == 2


# Arguments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["5", None, math.nan, -1.0, True])
def test_time_to_start_and_to_stop_is_a_time(wrong: Any) -> None:
    tree = ActorTree(ChildSpec("root", lambda: Supervisor([]), kind=Kind.SUPERVISOR))
    with pytest.raises(ConfigError, match="timeout_s"):
        tree.start(wrong)
    tree.start()
    with pytest.raises(ConfigError, match="timeout_s"):
        tree.stop(wrong)
    tree.stop(math.inf)
    assert tree.stopped.is_set()


def test_tree_may_take_as_long_as_it_likes_to_start() -> None:
    tree = ActorTree(ChildSpec("root", lambda: Supervisor([]), kind=Kind.SUPERVISOR))
    tree.start(math.inf)
    tree.stop(5.0)


@pytest.mark.parametrize("wrong", ["5", None, math.nan, math.inf, 0, -1.0, 10**400])
def test_time_limit_of_a_call_is_a_finite_time(start_tree: StartTree, wrong: Any) -> None:
    address = start_tree(ChildSpec("a", Echo)).address("root/a")
    with pytest.raises(ConfigError, match="timeout_s"):
        address.ask("hello", timeout_s=wrong)
    with pytest.raises(ConfigError, match="timeout_s"):
        address.proxy(Echo, timeout_s=wrong)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda actor: actor.context.monitor(actor.context.me),
        lambda actor: actor.context.monitor(""),
        lambda actor: actor.context.monitor("root", scope="x"),
        lambda actor: actor.context.address(None),
        lambda actor: actor.context.address("root", block_s="x"),
        lambda actor: actor.context.send_after(math.nan, "x"),
        lambda actor: actor.context.send_after("x", "x"),
        lambda actor: actor.context.sleep(-1.0),
        lambda _: Stop("done"),  # type: ignore[arg-type] # on purpose
        lambda _: Stop(Shutdown),  # type: ignore[arg-type] # on purpose
    ],
)
def test_what_an_actor_asks_of_its_context_is_checked(start_tree: StartTree, misuse: Any) -> None:
    tree = start_tree(ChildSpec("a", Echo))
    with pytest.raises(ConfigError):
        tree.address("root/a").call(misuse)


@pytest.mark.parametrize("wrong", [5, None, "", ChildSpec("a", Echo)])
def test_path_is_a_text(start_tree: StartTree, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="path must be"):
        start_tree().address(wrong)


@pytest.mark.parametrize("wrong", [ValueError, ("ValueError",), (BaseException,), [ValueError]])
def test_declared_errors_are_exception_classes(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="reply_errors"):
        type("Wrong", (SupervisedActor,), {"reply_errors": wrong})


@pytest.mark.parametrize("wrong", [None, ChildSpec("a", Echo), "abc", 5])
def test_children_are_a_list(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="children must be"):
        Supervisor(wrong)


@pytest.mark.parametrize("wrong", [Supervisor, None, "root"])
def test_root_is_a_spec(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="must be a ChildSpec"):
        ActorTree(wrong)


@pytest.mark.parametrize("wrong", ["Echo", 5, object()])
def test_interface_of_a_proxy_is_a_class(start_tree: StartTree, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="must be a class"):
        start_tree(ChildSpec("a", Echo)).address("root/a").proxy(wrong)


# Copies -----------------------------------------------------------------------------------------------


def test_copy_of_a_name_is_that_name(start_tree: StartTree) -> None:
    address = start_tree(ChildSpec("a", Echo)).address("root/a")
    proxy = address.proxy(Echo)
    assert copy.deepcopy({"to": address})["to"] is copy.copy(address) is address
    assert copy.deepcopy([proxy])[0] is copy.copy(proxy) is proxy
    assert copy.copy(proxy.say)("hello").result() == "hello"


def test_name_does_not_leave_its_process(start_tree: StartTree) -> None:
    address = start_tree(ChildSpec("a", Echo)).address("root/a")
    for name in (address, address.proxy(Echo)):
        with pytest.raises(TypeError, match="this process only"):
            pickle.dumps(name)


class Silent(SupervisedActor):
    """Takes no messages."""


def test_message_that_nobody_wants_is_logged_by_its_type_only(
    start_tree: StartTree, caplog: pytest.LogCaptureFixture
) -> None:
    tree = start_tree(ChildSpec("a", Silent))
    with caplog.at_level(logging.WARNING):
        assert tree.address("root/a").call({"password": "hidden"}) is None
    assert "root/a got dict" in caplog.text
    assert "hidden" not in caplog.text


def test_spec_does_not_show_what_its_factory_holds() -> None:
    assert "hidden" not in repr(ChildSpec("a", partial(Echo, "hidden")))


@pytest.mark.parametrize("name", ["flags", "specs"])
def test_supervisor_keeps_what_the_kit_reads(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        type("Wrong", (Supervisor,), {name: ()})


def test_actor_may_call_one_of_the_same_name_in_another_tree(start_tree: StartTree) -> None:
    first, second = start_tree(ChildSpec("a", Echo)), start_tree(ChildSpec("a", Echo))
    other = second.address("root/a")
    assert first.address("root/a").call(lambda _: other.call("hello")) == "hello"
    assert first.address("root/a").call(lambda _: other.ask("hello").result()) == "hello"


def test_actor_may_stop_a_tree_of_its_own(start_tree: StartTree) -> None:
    def run_inner(_actor: Echo) -> bool:
        inner = ActorTree(ChildSpec("inner", lambda: Supervisor([]), kind=Kind.SUPERVISOR))
        with inner:
            pass
        return inner.stopped.is_set()

    assert start_tree(ChildSpec("a", Echo)).address("root/a").call(run_inner)


# Interruptions ----------------------------------------------------------------------------------------


def test_thread_that_is_interrupted_inside_of_the_kit_may_send_meanwhile(start_tree: StartTree) -> None:
    """A signal handler or a finalizer runs in whatever thread, wherever that is."""
    tree = start_tree(ChildSpec("a", Echo))
    address = tree.address("root/a")
    slot = tree._runtime.names.get("root/a")
    assert slot is not None
    assert slot.mailbox is not None
    locks = [slot.mailbox._lock, slot._lock, tree.events._lock, tree._lock, tree._runtime._lock]
    done = threading.Event()

    def interrupted() -> None:
        for lock in locks:
            with lock:
                address.tell("from a signal handler")
                tree.snapshot()
        tree.stop(5.0)
        done.set()

    threading.Thread(target=interrupted, daemon=True).start()
    assert done.wait(10.0)


def test_tree_whose_start_is_interrupted_leaves_nothing_running() -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(SupervisedActor):
        def on_start(self) -> None:
            entered.set()
            go_on.wait(10.0)

    children = [ChildSpec("slow", Slow)]
    tree = ActorTree(ChildSpec("root", lambda: Supervisor(children), kind=Kind.SUPERVISOR))

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - the user's Ctrl-C comes first
            assert entered.wait(10.0)
            go_on.set()
            raise KeyboardInterrupt

    tree._answered = Impatient()
    with pytest.raises(KeyboardInterrupt), tree:
        raise AssertionError("it never gets here")
    assert tree.stopped.wait(10.0)


def test_wait_on_purpose_that_ends_after_its_handler_makes_no_idle_actor_look_busy(
    start_tree: StartTree,
) -> None:
    tree = start_tree(ChildSpec("a", Echo))
    waiting, go_on = threading.Event(), threading.Event()
    helpers: list[threading.Thread] = []

    def begin(actor: Echo) -> None:
        def wait() -> None:
            with actor.context.waiting():
                waiting.set()
                go_on.wait(10.0)

        helpers.append(threading.Thread(target=wait))
        helpers[0].start()
        assert waiting.wait(10.0)

    tree.address("root/a").call(begin)
    go_on.set()
    helpers[0].join(10.0)
    found = tree.snapshot().find("root/a")
    assert found is not None
    assert found.handling is None
