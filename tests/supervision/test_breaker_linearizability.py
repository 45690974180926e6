"""BRK-15: what threads see of one circuit is what they would see if each command had run at one moment of its own.

Threads send short programs of commands to one circuit. Each command has the numbers of its begin and its end; a search
then looks for an order of all commands, one that keeps those apart that did not overlap, in which the naive breaker
gives the same answers and ends in the same state.
"""

import copy
import itertools
import random
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from breaker_model import TTL_S, Model, Probe

from tinker_actors.supervision.breaker import Outcome, Permit, Refusal, State, mode_of
from tinker_actors.supervision.breaker_settings import BreakerMode, BreakerSettings
from tinker_actors.supervision.circuit import Circuit

THREADS, COMMANDS, ROUNDS = 3, 4, 400
SETTINGS = BreakerSettings(
    consecutive_failures=2,
    min_calls=3,
    window_calls=4,
    slow_call_s=2.0,
    half_open_permits=2,
    jitter=0.0,
    open_s=4.0,
)
NOW = 100.0

Calls = dict[int, Probe | int]
"""What the naive breaker answered to each thread last, by the thread's number."""


@dataclass
class Command:
    """One command, and what came of it."""

    thread: int
    kind: str
    outcome: Outcome = Outcome.SUCCESS
    duration_s: float | None = None
    mode: BreakerMode = BreakerMode.AUTOMATIC
    begin: int = 0
    end: int = 0
    answer: Permit | Refusal | State | None = None


@dataclass
class Naive:
    """The naive breaker, and the calls that are under way there."""

    model: Model
    calls: Calls = field(default_factory=dict)

    def agrees(self, done: Command) -> bool:
        """Do the command; whether its answer would be that."""
        model, calls = self.model, self.calls
        match done.kind:
            case "ask":
                call = model.ask(NOW)
                if call is None or isinstance(done.answer, Refusal):
                    calls.pop(done.thread, None)
                    return call is None and isinstance(done.answer, Refusal)
                calls[done.thread] = call
                assert isinstance(done.answer, Permit)
                is_probe = done.answer.expires_at == NOW + TTL_S
                return (done.answer.epoch, is_probe) == (model.life, isinstance(call, Probe))
            case "end" if done.thread in calls:
                model.end(calls.pop(done.thread), done.outcome, NOW, duration_s=done.duration_s)
            case "overrun" if done.thread in calls:
                model.overrun(calls[done.thread], NOW)
            case "force":
                model.force(done.mode)
            case "reset":
                model.reset()
            case "look":
                model.pass_time(NOW)
                assert not isinstance(done.answer, Permit | Refusal | None)
                return done.answer.epoch == model.life and model.agrees_with(done.answer, NOW)
        return True


def is_explained(naive: Naive, programs: list[list[Command]], last: State) -> bool:
    """Whether some order of the commands, each somewhere between its begin and its end, does the same."""
    programs = [program for program in programs if program]
    if not programs:
        return naive.model.agrees_with(last, NOW)
    first_end = min(program[0].end for program in programs)
    for program in programs:
        if program[0].begin < first_end:
            after = copy.deepcopy(naive)
            rest = [other[1:] if other is program else other for other in programs]
            if after.agrees(program[0]) and is_explained(after, rest, last):
                return True
    return False


def run(circuit: Circuit, program: list[Command], numbers: "itertools.count[int]") -> None:
    """What one thread does."""
    permit: Permit | None = None
    for command in program:
        command.begin = next(numbers)
        match command.kind:
            case "ask":
                command.answer = answer = circuit.admit(TTL_S)
                permit = answer if isinstance(answer, Permit) else None
            case "end" if permit is not None:
                circuit.settle(permit, command.outcome, None, command.duration_s)
                permit = None
            case "overrun" if permit is not None:
                circuit.note_slow(permit)
            case "force":
                circuit.force(command.mode)
            case "reset":
                circuit.reset()
            case "look":
                command.answer = circuit.advance()
        command.end = next(numbers)


def program_of(thread: int, generator: random.Random) -> list[Command]:
    commands, is_slow = [], False
    for _ in range(COMMANDS):
        kind = generator.choice(["ask", "ask", "end", "end", "overrun", "force", "reset", "look"])
        if kind == "overrun" and is_slow:  # once for each call
            kind = "end"
        is_slow = kind == "overrun" or (is_slow and kind != "ask")
        commands.append(
            Command(
                thread,
                kind,
                outcome=generator.choice([*Outcome, Outcome.FAILURE]),
                duration_s=None if is_slow else generator.choice([None, 0.5, 2.0]),
                mode=generator.choice([*BreakerMode, BreakerMode.AUTOMATIC]),
            )
        )
    return commands


def prepared(generator: random.Random, clock: Callable[[], float]) -> tuple[Circuit, Naive]:
    """A circuit on the brink: with failures behind it, open, or with its open time over."""
    circuit, naive = Circuit(SETTINGS, clock, random.Random(0)), Naive(Model(SETTINGS))
    for _ in range(generator.randrange(3)):
        answer, call = circuit.admit(TTL_S), naive.model.ask(clock())
        assert isinstance(answer, Permit)
        assert call is not None
        circuit.settle(answer, Outcome.FAILURE)
        naive.model.end(call, Outcome.FAILURE, clock())
    return circuit, naive


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_commands_of_several_threads_are_as_if_one_came_after_the_other() -> None:
    """BRK-10, BRK-15."""
    for number in range(ROUNDS):
        generator = random.Random(number)
        now = [
            generator.choice([NOW - 4.0, NOW - 1.0])
        ]  # a circuit that opened then is due by NOW, or is not
        circuit, naive = prepared(generator, lambda now=now: now[0])  # type: ignore[misc]
        now[0] = NOW
        programs = [program_of(thread, generator) for thread in range(THREADS)]
        numbers, gate = itertools.count(), threading.Barrier(THREADS)

        def act(program: list[Command], gate: threading.Barrier = gate) -> None:
            gate.wait(30)
            run(circuit, program, numbers)  # noqa: B023 - joined below

        threads = [threading.Thread(target=act, args=(program,)) for program in programs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert is_explained(naive, programs, circuit.state), f"round {number}: {programs}, {circuit.state}"


def half_open() -> tuple[Circuit, Naive]:
    """With one probe left to give."""
    now = [NOW - 4.0]
    circuit, naive = Circuit(SETTINGS, lambda: now[0], random.Random(0)), Naive(Model(SETTINGS))
    for _ in range(2):
        answer, call = circuit.admit(TTL_S), naive.model.ask(now[0])
        assert isinstance(answer, Permit)
        assert call is not None
        circuit.settle(answer, Outcome.FAILURE)
        naive.model.end(call, Outcome.FAILURE, now[0])
    now[0] = NOW
    assert isinstance(circuit.admit(TTL_S), Permit)
    assert naive.model.ask(NOW) is not None
    return circuit, naive


def asked(thread: int, begin: int, end: int, answer: Permit | Refusal) -> Command:
    return Command(thread, "ask", begin=begin, end=end, answer=answer)


def test_search_tells_one_probe_too_many() -> None:
    circuit, naive = half_open()
    probe = circuit.admit(TTL_S)
    assert isinstance(probe, Permit)
    refused = circuit.admit(TTL_S)
    assert isinstance(refused, Refusal)
    both = [[asked(0, 0, 3, probe)], [asked(1, 1, 2, probe)]]
    assert not is_explained(naive, both, circuit.state)
    one = [[asked(0, 0, 3, refused)], [asked(1, 1, 2, probe)]]
    assert is_explained(naive, one, circuit.state)


def test_search_lets_overlap_decide_what_came_first() -> None:
    circuit, naive = half_open()
    circuit.force(BreakerMode.FORCED_OPEN)
    refused = circuit.admit(TTL_S)
    probe = Permit(2, 1, NOW + TTL_S)
    forced = Command(0, "force", mode=BreakerMode.FORCED_OPEN, begin=0, end=2)
    assert mode_of(circuit.state) is BreakerMode.FORCED_OPEN
    assert is_explained(naive, [[forced], [asked(1, 1, 3, refused)]], circuit.state)
    assert is_explained(naive, [[forced], [asked(1, 1, 3, probe)]], circuit.state)
    assert not is_explained(naive, [[forced], [asked(1, 3, 4, probe)]], circuit.state)
