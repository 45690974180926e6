"""What supervision costs beside bare Pykka, on one machine in one run, as ratios.

Run by hand, in the development environment; it takes about half a minute:

    python tests/benchmarks/supervision_vs_pykka.py

Each line is one ratio with its target; the exit status is 1 if any target is missed.

- Crash to acknowledged replacement: from the moment a handler raises until an ask that waited for the next
  incarnation is answered, p50, to the same moment until the caller who replaces a bare Pykka actor by hand
  knows that the new one's `on_start` has run. Pykka's log is silenced, so it does not pay for tracebacks.
- Ask round trip: `Address.call` to `ActorRef.ask`, an echo each, median of blocks.
- 2,000 children to 200: starting, listing and stopping idle children, median. A cost that grows with their
  number alone gives 10; bare Pykka's own ratio stands beside it.
- Memory per idle child: growth of the resident set to that by bare actors, each in a process of its own.

The sides are taken in turn. All of it runs on one core where the system can arrange that: between cores a
round trip costs several times as much, and which threads share a core is the scheduler's choice, made anew
in each run. Figures in parentheses hold for this machine at this moment only.
"""

import gc
import logging
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pykka

from tinker_actors.supervision import (
    ActorTree,
    Backoff,
    ChildSpec,
    DynamicSupervisor,
    ExitReason,
    Killed,
    Kind,
    OnPending,
    StartChild,
    SupervisedActor,
    Supervisor,
    WhichChildren,
)

CRASH_TARGET, ASK_TARGET, GROWTH_TARGET, MEMORY_TARGET_KIB = 3.0, 1.3, 15.0, 30.0
FEW, MANY = 200, 2_000
LIMIT_S = 60.0
PROC = Path("/proc/self/status")

Side = Callable[[], list[float]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the output."""

    what: str
    figures: str
    target: str
    is_met: bool

    def __str__(self) -> str:
        verdict = "ok" if self.is_met else "MISSED"
        return f"{self.what:35s} {self.figures:62s} target at most {self.target}   {verdict}"


@dataclass(slots=True)
class Crash:
    """Makes an actor crash, and brings back when."""

    at: float = 0.0


def handled(message: Any) -> Any:
    """What the actors of both sides do with a message: they echo it, or crash."""
    match message:
        case Crash():
            message.at = time.perf_counter()
            raise RuntimeError("crash")
        case _:
            return message


class SupervisedEcho(SupervisedActor):
    """The kit's side."""

    def on_receive(self, message: Any) -> Any:
        return handled(message)


class BareEcho(pykka.ThreadingActor):
    """Pykka's side; it says when it has started and when it has crashed."""

    use_daemon_thread = True

    def __init__(self, started: threading.Event, crashed: threading.Event) -> None:
        super().__init__()
        self.started, self.crashed = started, crashed

    def on_start(self) -> None:
        self.started.set()

    def on_failure(self, *_error: object) -> None:
        self.crashed.set()

    def on_receive(self, message: Any) -> Any:
        return handled(message)


class IdleChild(SupervisedActor):
    """The kit's side."""


class IdleActor(pykka.ThreadingActor):
    """Pykka's side."""

    use_daemon_thread = True

    def __init__(self, started: threading.Semaphore) -> None:
        super().__init__()
        self.started = started

    def on_start(self) -> None:
        self.started.release()


def medians(*sides: Side, rounds: int) -> list[float]:
    """The median of what each side measures, the sides taken in turn."""
    measured: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, found in zip(sides, measured, strict=True):
            found.extend(side())
    return [statistics.median(found) for found in measured]


def started_tree(root: Callable[[], Supervisor]) -> ActorTree:
    """A tree under this root, up."""
    tree = ActorTree(ChildSpec("root", root, kind=Kind.SUPERVISOR))
    tree.start(LIMIT_S)
    return tree


# Crash and ask.


def crashes_and_asks() -> list[Finding]:
    """One child that restarts at once and as often as it crashes, to one actor replaced by hand."""
    spec = ChildSpec("echo", SupervisedEcho, backoff=Backoff(base_s=0.0), on_pending=OnPending.CARRY)
    tree = started_tree(lambda: Supervisor([spec], max_restarts=10**9))
    address = tree.address("root/echo")
    started, crashed = threading.Event(), threading.Event()
    ref = BareEcho.start(started, crashed)

    def supervised_crash() -> float:
        crash = Crash()
        address.tell(crash)
        address.call("are you there?")  # waits for the replacement: it is carried over or parked
        return time.perf_counter() - crash.at

    def bare_crash() -> float:
        nonlocal ref
        crash = Crash()
        crashed.clear()
        started.clear()
        ref.tell(crash)
        crashed.wait()
        ref = BareEcho.start(started, crashed)
        started.wait()
        return time.perf_counter() - crash.at

    ours, bare = medians(
        lambda: [supervised_crash() for _ in range(50)],
        lambda: [bare_crash() for _ in range(50)],
        rounds=60,
    )
    replacement = finding("crash to acknowledged replacement", ours, bare, CRASH_TARGET)
    ours, bare = medians(
        lambda: [seconds_per_call(lambda: address.call("echo"))],
        lambda: [seconds_per_call(lambda: ref.ask("echo"))],
        rounds=60,
    )
    round_trip = finding("ask round trip", ours, bare, ASK_TARGET)
    ref.stop()
    tree.stop(LIMIT_S)
    return [replacement, round_trip]


def seconds_per_call(call: Callable[[], object], calls: int = 500) -> float:
    """The time of one call, as the mean of a block."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def finding(what: str, ours: float, bare: float, target: float) -> Finding:
    """The ratio of two times, in seconds."""
    ratio = ours / bare
    figures = f"{ratio:5.2f}x bare Pykka ({1e6 * ours:.0f} us to {1e6 * bare:.0f} us)"
    return Finding(what, figures, f"{target:g}x", ratio <= target)


# Many children.


def growth() -> list[Finding]:
    """The time of 2,000 children to that of 200, for each way to supervise them."""

    def sides(live: Callable[[int], float]) -> tuple[Side, Side]:
        return lambda: [live(FEW) for _ in range(3)], lambda: [live(MANY)]

    few, many, dynamic_few, dynamic_many, bare_few, bare_many = medians(
        *sides(static_children), *sides(dynamic_children), *sides(bare_actors), rounds=6
    )
    result = []
    for name, ours, more in (("static", few, many), ("dynamic", dynamic_few, dynamic_many)):
        ratio = more / ours
        figures = (
            f"{ratio:5.2f}x the time ({more:.2f} s to {ours:.3f} s; bare Pykka {bare_many / bare_few:.2f}x)"
        )
        what = f"{MANY:,} children to {FEW}, {name}"
        result.append(Finding(what, figures, f"{GROWTH_TARGET:g}x", ratio <= GROWTH_TARGET))
    return result


def static_children(count: int) -> float:
    """Seconds to start, list and stop children that a supervisor has from its start."""
    start = time.perf_counter()
    specs = [ChildSpec(f"child:{index}", IdleChild) for index in range(count)]
    tree = started_tree(lambda: Supervisor(specs))
    return listed_and_stopped(tree, count, start)


def dynamic_children(count: int) -> float:
    """Seconds to start, list and stop children that are added one by one."""
    start = time.perf_counter()
    tree = started_tree(DynamicSupervisor)
    add_children(tree, count)
    return listed_and_stopped(tree, count, start)


def add_children(tree: ActorTree, count: int) -> None:
    """Start idle children under a dynamic root, each after the one before has come up."""
    root = tree.address("root")
    for index in range(count):
        root.call(StartChild(ChildSpec(f"child:{index}", IdleChild)))


def listed_and_stopped(tree: ActorTree, count: int, start: float) -> float:
    """Seconds from `start` until the tree was listed and stopped; see that it was complete and ended well."""
    listed = tree.address("root").call(WhichChildren(), timeout_s=LIMIT_S)
    tree.stop(LIMIT_S)
    spent = time.perf_counter() - start
    exits: list[ExitReason | None] = [child.last_exit for child in tree.snapshot().children]
    if len(listed) != count or any(isinstance(reason, Killed) for reason in exits):
        raise RuntimeError(f"{len(listed)} of {count} children were listed, or some did not end in time")
    return spent


def bare_actors(count: int) -> float:
    """Seconds to start, list and stop bare Pykka actors."""
    start = time.perf_counter()
    start_bare(count)
    listed = pykka.ActorRegistry.get_all()
    pykka.ActorRegistry.stop_all()
    spent = time.perf_counter() - start
    if len(listed) != count:
        raise RuntimeError(f"{len(listed)} of {count} actors were listed")
    return spent


def start_bare(count: int) -> list[pykka.ActorRef[IdleActor]]:
    """Idle Pykka actors, all of them up."""
    started = threading.Semaphore(0)
    refs = [IdleActor.start(started) for _ in range(count)]
    for _ in refs:
        started.acquire()
    return refs


# Memory.


def memory() -> Finding | None:
    """Resident memory of an idle child to that of a bare actor; None where the system does not tell."""
    if not PROC.exists():
        return None
    ours, bare = medians(lambda: [measured_apart("kit")], lambda: [measured_apart("pykka")], rounds=3)
    figures = (
        f"{ours / bare:5.2f}x bare Pykka, {ours - bare:.1f} KiB beyond it ({ours:.1f} KiB to {bare:.1f} KiB)"
    )
    target = f"{MEMORY_TARGET_KIB:g} KiB beyond"
    return Finding("memory per idle child", figures, target, ours - bare <= MEMORY_TARGET_KIB)


def measured_apart(side: str) -> float:
    """KiB per actor of one side, measured by a process of its own."""
    command = [sys.executable, __file__, side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def kib_per_actor(side: str) -> float:
    """By how many KiB this process grows with each of its actors."""
    tree = started_tree(DynamicSupervisor)
    start_bare(1)
    before = resident_kib()
    if side == "kit":
        add_children(tree, MANY)
    else:
        start_bare(MANY)
    return (resident_kib() - before) / MANY


def resident_kib() -> int:
    """The resident set of this process."""
    gc.collect()
    lines = PROC.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def main() -> int:
    """Print a line a measurement; the exit status."""
    logging.getLogger("pykka").setLevel(logging.CRITICAL)
    if len(sys.argv) > 1:
        print(kib_per_actor(sys.argv[1]))
        return 0
    cores = "all cores"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        cores = "one core"
    print(f"python {sys.version.split()[0]}, pykka {version('pykka')}, {cores}")
    findings: list[Finding] = []
    for measure in (crashes_and_asks, growth):
        for found in measure():
            print(found, flush=True)
            findings.append(found)
    memory_found = memory()
    if memory_found is None:
        print(f"memory per idle child: not measured, this system has no {PROC}")
    else:
        print(memory_found)
        findings.append(memory_found)
    return 0 if all(found.is_met for found in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
