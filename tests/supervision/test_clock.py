import threading

from tinker_actors.supervision import MonotonicClock
from tinker_actors.supervision.testing import VirtualClock


def test_virtual_timers_run_in_order_of_their_due_time() -> None:
    clock = VirtualClock()
    ran: list[tuple[str, float]] = []
    for name, delay_s in (("late", 3.0), ("early", 1.0), ("never", 9.0), ("early too", 1.0)):
        clock.schedule(delay_s, lambda name=name: ran.append((name, clock.now())))  # type: ignore[misc]
    clock.advance(5.0)
    assert ran == [("early", 1.0), ("early too", 1.0), ("late", 3.0)]
    assert clock.now() == 5.0


def test_virtual_timer_set_by_a_timer_runs_in_the_same_advance() -> None:
    clock = VirtualClock()
    ran: list[float] = []
    clock.schedule(1.0, lambda: clock.schedule(1.0, lambda: ran.append(clock.now())))
    clock.advance(2.0)
    assert ran == [2.0]


def test_cancelled_timer_does_not_run() -> None:
    clock = VirtualClock()
    ran: list[str] = []
    clock.schedule(1.0, lambda: ran.append("cancelled")).cancel()
    clock.advance(2.0)
    assert ran == []
    assert clock.pending() == 0


def test_cancelled_timers_do_not_pile_up() -> None:
    clock = VirtualClock()
    for _ in range(10_000):
        clock.schedule(1000.0, lambda: None).cancel()
    assert len(clock._heap._entries) < 100


def test_timer_that_raises_does_not_stop_the_others() -> None:
    clock = MonotonicClock()
    done = threading.Event()
    clock.schedule(0.0, lambda: 1 / 0)
    clock.schedule(0.0, done.set)
    assert done.wait(5.0)
    clock.close()


def test_earlier_timer_overtakes_one_already_waited_for() -> None:
    clock = MonotonicClock()
    done = threading.Event()
    clock.schedule(1000.0, lambda: None)
    clock.schedule(0.01, done.set)
    assert done.wait(5.0)
    clock.close()


def test_all_timers_of_a_clock_share_one_thread() -> None:
    clock = MonotonicClock()
    threads: list[threading.Thread] = []
    done = threading.Event()
    for _ in range(5):
        clock.schedule(0.0, lambda: threads.append(threading.current_thread()))
    clock.schedule(0.01, done.set)
    assert done.wait(5.0)
    clock.close()
    assert len(threads) == 5
    assert len(set(threads)) == 1
