"""Submissions and the thread that settles futures."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from tinker_actors.actors.futures import Settler, Submissions, check_may_wait
from tinker_actors.errors import RuntimeStoppedError, WouldDeadlockError


@pytest.fixture
def settler() -> Iterator[Settler]:
    settler = Settler()
    yield settler
    settler.close(10)


def make(settler: Settler, *, cancellable: bool = False) -> Submissions[str]:
    return Submissions(settler, cancellable=cancellable)


def test_requests_are_taken_in_the_order_of_their_calls(settler: Settler) -> None:
    submissions = make(settler)
    for name in "abc":
        submissions.add(name)
    assert [one.request for one in submissions.untaken()] == ["a", "b", "c"]


def test_many_threads_lose_no_request(settler: Settler) -> None:
    submissions = make(settler)
    threads = [threading.Thread(target=lambda: [submissions.add("x") for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tickets = [one.ticket for one in submissions.untaken()]
    assert len(set(tickets)) == len(tickets) == 1600


def test_the_child_is_woken_once_until_it_looks(settler: Settler) -> None:
    submissions, woken = make(settler), list[int]()
    submissions.bind(lambda: woken.append(1))
    submissions.add("a")
    submissions.add("b")
    assert len(woken) == 1
    submissions.untaken()
    submissions.add("c")
    assert len(woken) == 2


def test_a_new_incarnation_finds_what_was_not_settled(settler: Settler) -> None:
    submissions = make(settler)
    futures = [submissions.add(name) for name in "abc"]
    a, b, _ = submissions.untaken()
    submissions.take(a.ticket)
    submissions.take(b.ticket)
    submissions.settle(a.ticket, 1)
    submissions.restart(known=set())
    assert [one.request for one in submissions.untaken()] == ["b", "c"]
    submissions.restart(known={b.ticket})
    assert [one.request for one in submissions.untaken()] == ["c"]
    assert futures[0].result(10) == 1


def test_closing_fails_what_is_open_and_refuses_the_rest(settler: Settler) -> None:
    submissions = make(settler)
    future = submissions.add("a")
    submissions.close(RuntimeStoppedError("over"))
    with pytest.raises(RuntimeStoppedError):
        future.result(10)
    with pytest.raises(RuntimeStoppedError):
        submissions.add("b")


@pytest.mark.parametrize(("cancellable", "left"), [(True, []), (False, ["a"])])
def test_only_a_cancellable_request_is_taken_back(
    settler: Settler, cancellable: bool, left: list[str]
) -> None:
    submissions = make(settler, cancellable=cancellable)
    assert submissions.add("a").cancel() is cancellable
    assert [one.request for one in submissions.untaken()] == left


def test_a_future_that_was_cancelled_does_not_stop_the_settler(settler: Settler) -> None:
    cancelled: Future[int] = Future()
    cancelled.cancel()
    settler.settle(cancelled, 1)
    later: Future[int] = Future()
    settler.settle(later, 2)
    assert later.result(10) == 2


def test_waiting_on_the_settling_thread_is_refused(settler: Settler) -> None:
    future: Future[None] = Future()
    refused: Future[str] = Future()

    def callback(_: "Future[None]") -> None:
        try:
            check_may_wait()
        except WouldDeadlockError as error:
            refused.set_result(str(error))

    future.add_done_callback(callback)
    settler.settle(future, None)
    assert "settles futures" in refused.result(10)


def test_who_waits_for_a_submission_is_woken_although_the_settling_thread_is_busy(settler: Settler) -> None:
    submissions, gate = make(settler), threading.Event()
    future = submissions.add("a")
    (submission,) = submissions.untaken()
    settler.run(lambda: gate.wait(10))
    submissions.settle(submission.ticket, 1)
    assert (future.result(10), gate.is_set()) == (1, False)
    gate.set()


def test_callbacks_of_a_submission_run_on_the_settling_thread_and_may_exit(settler: Settler) -> None:
    submissions, ran_on = make(settler), Future[str]()

    def callback(_: "Future[None]") -> None:
        ran_on.set_result(threading.current_thread().name)
        sys.exit(1)

    submissions.add("a").add_done_callback(callback)
    submissions.add("b")
    a, b = submissions.untaken()
    submissions.fail(a.ticket, RuntimeStoppedError("over"))
    assert ran_on.result(10) == "future-settler"
    later: Future[int] = Future()
    b.future.add_done_callback(lambda _: later.set_result(2))
    submissions.settle(b.ticket, 1)
    assert later.result(10) == 2


def test_tickets_tell_clients_apart(settler: Settler) -> None:
    one, other = make(settler), make(settler)
    one.add("a")
    (submission,) = one.untaken()
    assert one.is_own(submission.ticket)
    assert not other.is_own(submission.ticket)
    assert not one.is_own(None)


def test_a_closed_settler_leaves_no_future_open(settler: Settler) -> None:
    settler.close(10)
    late: Future[int] = Future()
    settler.settle(late, 1)
    assert late.result(10) == 1


def test_a_callback_that_exits_does_not_stop_the_settler(settler: Settler) -> None:
    future: Future[int] = Future()
    future.add_done_callback(lambda _: sys.exit(1))
    settler.settle(future, 1)
    later: Future[int] = Future()
    settler.settle(later, 2)
    assert later.result(10) == 2


def test_a_job_that_fails_does_not_stop_the_settler(settler: Settler) -> None:
    settler.run(lambda: 1 / 0)
    settler.run(lambda: sys.exit(1))
    later: Future[int] = Future()
    settler.settle(later, 2)
    assert later.result(10) == 2


def test_a_request_is_reserved_once_also_while_nobody_can_be_woken(settler: Settler) -> None:
    submissions = make(settler)
    submissions.add("a")
    submissions.bind(lambda: None)
    assert [one.request for one in submissions.untaken()] == ["a"]


def test_an_error_that_is_raised_again_and_again_does_not_grow(settler: Settler) -> None:
    submissions = make(settler)
    submissions.close(RuntimeStoppedError("over"))
    with pytest.raises(RuntimeStoppedError) as first:
        submissions.add("a")
    length = len(first.traceback)
    with pytest.raises(RuntimeStoppedError) as second:
        submissions.add("b")
    assert len(second.traceback) == length
