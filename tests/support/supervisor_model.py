"""What a supervisor must do, in plain sequential steps: the oracle beside which the real one is run.

It takes nothing from the kit but the specs. Its children answer at once, as they were told before, and only one
thing happens at a time: each step is over before the next begins.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tinker_actors.supervision import ChildSpec, Gate, SupervisorFlags

__all__ = ["Answer", "ModelChild", "SupervisorModel"]

_CLEAN = {"Normal", "Shutdown", "ShutdownWith"}


class Answer:
    """What a command is answered, in a word; `open` until then."""

    def __init__(self, word: str = "open") -> None:
        self.word = word


@dataclass(eq=False)
class Name:
    """What outlives a child, for as long as there is a tree."""

    epoch: int = 0
    restarts: int = 0
    last_exit: str | None = None


@dataclass(eq=False)
class ModelChild:
    """One child."""

    spec: ChildSpec
    name: Name
    state: str = "pending"
    failures: int = 0
    up_since: float = math.inf
    pause: "Pause | None" = None
    gate: Gate | None = None
    """Must be open before it is started again."""
    starter: Answer | None = None
    if_start_fails: str = "decide"

    @property
    def is_kept(self) -> bool:
        """Whether its spec outlives its end under a static supervisor."""
        return self.spec.restart != "temporary"


@dataclass(eq=False)
class Pause:
    """A child that waits for its restart."""

    child: ModelChild
    due: float
    """Infinite while it waits at its gate."""


@dataclass(eq=False)
class SupervisorModel:
    """The supervisor; a command returns its answer."""

    flags: SupervisorFlags
    starts: dict[str, list[str]] = field(default_factory=dict)
    """How the next starts go, by id; see `PromptStage`."""
    stops: dict[str, list[str]] = field(default_factory=dict)
    now: float = 0.0
    log: list[str] = field(default_factory=list)
    names: dict[str, Name] = field(default_factory=dict)
    zombies: set[tuple[str, int]] = field(default_factory=set)

    def begin(self, specs: Sequence[ChildSpec]) -> None:
        """Start the static children, one after another; nothing is known of an earlier life but the names."""
        self.table: dict[str, ModelChild] = {}
        self.queue: list[ModelChild] = []
        """To be started, one after another, when nobody is paused."""
        self.paused: ModelChild | None = None
        """The child whose restart the queue waits for."""
        self.pauses: list[Pause] = []
        self.over: list[Pause] = []
        """Pauses whose end was not acted upon yet."""
        self.window: list[float] = []
        self.in_window = 0
        self.is_up = self.is_over = False
        self.verdict: str | None = None
        for one in set(self.names) - {spec.id for spec in specs}:
            self.names[one] = Name(self.names[one].epoch)
        self.queue = [self._add(spec) for spec in specs]
        self._run()
        self._rest()

    @property
    def is_dynamic(self) -> bool:
        return self.flags.is_dynamic

    @property
    def running(self) -> list[ModelChild]:
        return [child for child in self.table.values() if child.state == "running"]

    # Commands.

    def start(self, spec: ChildSpec, *, retries: bool) -> Answer:
        there = self.table.get(spec.id)
        limit = self.flags.max_children
        if spec.significant and self.flags.auto_shutdown == "never":
            return Answer("ConfigError")
        if there is not None:
            return Answer("already_started" if there.state == "running" else "already_present")
        if limit is not None and len(self.table) >= limit:
            return Answer("max_children")
        child = self._add(spec)
        answer = child.starter = Answer()
        child.if_start_fails = "decide" if retries else "delete"
        if self.paused is not None:
            self.queue.append(child)
        else:
            self._launch(child)
        self._rest()
        return answer

    def terminate(self, child_id: str) -> Answer:
        child = self.table.get(child_id)
        if child is None:
            return Answer("not_found")
        if child in self.queue:
            self.queue.remove(child)
        if self.paused is child:
            self.paused = None
        if child.state == "running":
            self._stop(child)
        child.pause, child.gate, child.if_start_fails = None, None, "decide"
        self._answer_starter(child, "StartFailedError")
        self._leave_down(child)
        self._run()
        self._rest()
        return Answer("none")

    def restart(self, child_id: str) -> Answer:
        child = self.table.get(child_id)
        if child is None:
            return Answer("not_found")
        if child.state == "pending":
            return Answer("restarting")
        if child.state == "running":
            return Answer("running")
        answer = child.starter = Answer()
        if child.state == "down":
            child.if_start_fails = "down"
            self._launch(child)
        else:
            child.gate = None
            self._resume(child)
        self._rest()
        return answer

    def delete(self, child_id: str) -> Answer:
        child = self.table.get(child_id)
        if child is None:
            return Answer("not_found")
        if child.state == "running":
            return Answer("running")
        if child.state != "down":
            return Answer("restarting")
        self._forget(child)
        return Answer("none")

    # What happens to it.

    def child_ends(self, child_id: str, how: str, error: Exception | None) -> None:
        """A running child ends by itself, or its handler stalls."""
        child = self.table[child_id]
        if how == "Stalled":
            self.zombies.add((child_id, child.name.epoch))
        self._note_end(child, how)
        self._decide(child, how, error)
        self._rest()

    def open_gate(self, gate: Gate) -> None:
        """Let those go on that wait at it."""
        for pause in list(self.pauses):
            if pause.child.gate is gate and pause.due == math.inf:
                self.pauses.remove(pause)
                self.over.append(pause)
        self._rest()

    def pass_time(self, seconds: float) -> None:
        goal = self.now + seconds
        while self.pauses and (due := min(pause.due for pause in self.pauses)) <= goal:
            self._wait_until(due)
            self._rest()
        self._wait_until(max(self.now, goal))

    def shut_down(self, deadline: float) -> None:
        """End all children: side by side if it is dynamic, else in reverse."""
        alive = self.running
        self.is_over, self.queue, self.paused = True, [], None
        began_at, ended_at = self.now, self.now
        for child in self.table.values():
            child.pause = None
            self._answer_starter(child, "StartFailedError")
        for child in alive if self.is_dynamic else reversed(alive):
            if self.is_dynamic:
                self.now = began_at
            self._stop(child, deadline)
            ended_at = max(ended_at, self.now)
        self.now = ended_at
        for child in self.table.values():
            child.state = "stopped"

    # Steps.

    def _add(self, spec: ChildSpec) -> ModelChild:
        name = self.names.setdefault(spec.id, Name())
        child = self.table[spec.id] = ModelChild(spec, name)
        return child

    def _forget(self, child: ModelChild) -> None:
        del self.table[child.spec.id]
        self.names[child.spec.id] = Name(child.name.epoch)

    def _leave_down(self, child: ModelChild) -> None:
        if self.is_dynamic or not child.is_kept:
            self._forget(child)
        else:
            child.state = "down"

    def _launch(self, child: ModelChild) -> None:
        name = child.spec.id
        self.log.append(f"start {name}")
        child.name.epoch += 1
        child.pause = child.gate = None
        told = self.starts.get(name)
        how = told.pop(0) if told else "up"
        if how == "up":
            child.state, child.up_since, child.if_start_fails = "running", self.now, "decide"
            self._answer_starter(child, "address")
            return
        if how == "hang":
            self._wait_until(self.now + child.spec.start_limit_s)
            self.zombies.add((name, child.name.epoch))
        end = "Ignored" if how == "ignore" else "StartFailed"
        self._note_end(child, end)
        self._decide(child, end, ConnectionError() if how == "fail free" else None)

    def _stop(self, child: ModelChild, deadline: float = math.inf) -> None:
        name = child.spec.id
        self.log.append(f"stop {name}")
        told = self.stops.get(name)
        how = told.pop(0) if told else "obey"
        if how == "hang":
            self._wait_until(min(self.now + child.spec.shutdown_limit_s, max(self.now, deadline)))
            self.zombies.add((name, child.name.epoch))
        self._note_end(child, {"obey": "Shutdown", "crash": "Error", "hang": "Killed"}[how])

    def _note_end(self, child: ModelChild, how: str) -> None:
        if self.now - child.up_since >= child.spec.backoff.stable_after_s:
            child.failures = 0
        child.up_since = math.inf
        child.state = "ended"
        child.name.last_exit = how

    def _decide(self, child: ModelChild, how: str, error: Exception | None) -> None:
        failed_start = how == "StartFailed"
        follows, child.if_start_fails = child.if_start_fails, "decide"
        self._answer_starter(child, "StartFailedError" if failed_start else "none")
        if failed_start and follows == "delete":
            self._forget(child)
        elif failed_start and follows == "down":
            child.state = "down"
        elif failed_start and not self.is_up:
            self._give_up("did not start")
        elif how == "Ignored":
            self._leave_down(child)
        elif child.spec.restart == "permanent" or (child.spec.restart == "transient" and how not in _CLEAN):
            self._restart(child, error)
        else:
            self._leave_down(child)
            self._mind_significance(child)

    def _mind_significance(self, child: ModelChild) -> None:
        left = [one for one in self.table.values() if one.spec.significant and one.state != "down"]
        if child.spec.significant and (self.flags.auto_shutdown == "any_significant" or not left):
            self._give_up("significant")

    def _restart(self, child: ModelChild, error: Exception | None) -> None:
        is_free = isinstance(error, child.spec.free_causes)
        if len(self.zombies) > self.flags.max_zombies:
            self._give_up("zombies")
            return
        if not is_free:
            self.window = [at for at in self.window if self.now - at < self.flags.within_s]
            if len(self.window) == self.flags.max_restarts:
                self._give_up("restarts")
                return
            self.window.append(self.now)
            self.in_window = len(self.window)
        backoff = child.spec.backoff
        delay_s = min(backoff.cap_s, backoff.base_s * 2**child.failures)
        child.failures += 1
        child.name.restarts += 1
        child.gate = child.spec.gate if is_free else None
        if not self.is_dynamic and self.flags.strategy != "one_for_one":
            self._restart_group(child, delay_s)
        elif delay_s > 0:
            self._pause(child, delay_s)
        else:
            self._launch(child)

    def _restart_group(self, failed: ModelChild, delay_s: float) -> None:
        order = list(self.table.values())
        first = 0 if self.flags.strategy == "one_for_all" else order.index(failed)
        waiting = [*self.queue, self.paused]
        group = [child for place, child in enumerate(order) if place >= first or child in waiting]
        self.queue, self.paused = [], None
        returning = [child for child in group if child.state != "running" or child.is_kept]
        for child in returning:
            child.pause = None
        for child in reversed(group):
            if child.state == "running":
                self._stop(child)
                if not child.is_kept:
                    self._forget(child)
        for child in returning:
            child.state = "pending"
        self.queue = returning
        if delay_s > 0:
            self.paused = failed
            self._pause(failed, delay_s)
        self._run()

    def _run(self) -> None:
        while self.queue and self.paused is None and not self.is_over:
            child = self.queue[0]
            if child.gate is not None and not child.gate.is_open:
                self.paused = child
                self._pause(child, 0.0)
            else:
                self._launch(self.queue.pop(0))
        if not self.queue and self.paused is None:
            self.is_up = True

    def _pause(self, child: ModelChild, delay_s: float) -> None:
        is_held = child.gate is not None and not child.gate.is_open
        child.state, child.pause = "backing_off", Pause(child, math.inf if is_held else self.now + delay_s)
        self.pauses.append(child.pause)

    def _resume(self, child: ModelChild) -> None:
        child.pause = None
        if self.paused is child:
            self.paused, child.state = None, "pending"
            self._run()
        else:
            self._launch(child)

    def _give_up(self, why: str) -> None:
        self.verdict = why
        self.shut_down(math.inf)

    def _answer_starter(self, child: ModelChild, word: str) -> None:
        if child.starter is not None:
            child.starter.word, child.starter = word, None

    def _wait_until(self, then: float) -> None:
        """Let time pass; a pause that ends meanwhile is acted upon later."""
        self.now = then
        self.pauses = [pause for pause in self.pauses if pause.child.pause is pause]
        due = sorted((pause for pause in self.pauses if pause.due <= then), key=lambda pause: pause.due)
        self.over += due
        self.pauses = [pause for pause in self.pauses if pause not in due]

    def _rest(self) -> None:
        """Act upon the pauses that are over."""
        while self.over:
            pause = self.over.pop(0)
            child = pause.child
            if child.pause is not pause or self.is_over:
                continue
            if child.gate is not None and not child.gate.is_open:
                self._pause(child, 0.0)
            else:
                self._resume(child)
