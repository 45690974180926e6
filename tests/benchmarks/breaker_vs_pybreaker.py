"""What a circuit costs per call, beside pybreaker in the same run.

Run by hand: `pip install pybreaker`, then `python tests/benchmarks/breaker_vs_pybreaker.py`. The exit status is 0 if
all that is wanted holds: on the path of a closed circuit, admission and report take 10 us at most and no longer
than a call through pybreaker; eight guarded calls of 50 ms run side by side in less than 80 ms.

pybreaker counts failures in a row; ours remembers the last 100 calls, too. While none of these failed, a success
changes nothing; the second line is for a circuit with failures in its memory.
"""

import random
import sys
import threading
import time
import timeit
from collections.abc import Callable

import pybreaker

from tinker_actors.supervision.breaker import Outcome, Permit
from tinker_actors.supervision.breaker_settings import BreakerSettings
from tinker_actors.supervision.circuit import Circuit

CALLS, REPEATS, TTL_S = 20_000, 7, 60.0
LIMIT_US, SLEEP_S, LIMIT_S, CALLERS = 10.0, 0.05, 0.08, 8


def new_circuit() -> Circuit:
    """With default settings and the machine's clock."""
    return Circuit(BreakerSettings(), time.monotonic, random.Random(0))


def guarded(circuit: Circuit, outcome: Outcome = Outcome.SUCCESS, seconds: float = 0.0) -> None:
    """One call through `circuit`."""
    permit = circuit.admit(TTL_S)
    if isinstance(permit, Permit):
        if seconds:
            time.sleep(seconds)
        circuit.settle(permit, outcome)


def best_us(act: Callable[[], object]) -> float:
    """Microseconds of one call, in the best of the repeats."""
    return min(timeit.repeat(act, number=CALLS, repeat=REPEATS)) / CALLS * 1e6


def with_failures() -> Callable[[], None]:
    """A call through a circuit in whose memory every 50th call failed."""
    circuit, outcomes = new_circuit(), [Outcome.FAILURE, *[Outcome.SUCCESS] * 49]
    numbers = iter(range(sys.maxsize))
    return lambda: guarded(circuit, outcomes[next(numbers) % len(outcomes)])


def side_by_side(call: Callable[[], object]) -> float:
    """Seconds until as many threads as there are callers have each made one call."""
    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began


def main() -> int:
    """Print a line a measurement; the exit status."""
    circuit, theirs = new_circuit(), pybreaker.CircuitBreaker()
    ours_us, theirs_us = best_us(lambda: guarded(circuit)), best_us(lambda: theirs.call(int))
    print(f"closed, no failure:      ours {ours_us:6.2f} us   pybreaker {theirs_us:6.2f} us")
    print(f"closed, 2 % failures:    ours {best_us(with_failures()):6.2f} us")
    ours_s = side_by_side(lambda: guarded(circuit, seconds=SLEEP_S))
    theirs_s = side_by_side(lambda: theirs.call(time.sleep, SLEEP_S))
    print(
        f"{CALLERS} calls of 50 ms:        ours {1e3 * ours_s:6.0f} ms   pybreaker {1e3 * theirs_s:6.0f} ms"
    )
    return 0 if ours_us <= min(LIMIT_US, theirs_us) and ours_s < LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
