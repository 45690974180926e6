"""The children of one supervisor: who is restarted after whom, in which order, and how often.

Nothing here waits. Each step is taken when a signal or a command comes. All of it runs in the supervisor's thread.
"""

import math
from collections.abc import Callable, Sequence

from tinker_actors.errors import StartFailedError
from tinker_actors.supervision.address import Address
from tinker_actors.supervision.backoff import RestartBudget
from tinker_actors.supervision.events import (
    ChildDeleted,
    ChildExited,
    ChildRestarting,
    ChildStarted,
    ChildStartFailed,
    Escalated,
    Event,
)
from tinker_actors.supervision.exits import ExitReason, Ignored, Killed, Shutdown, StartFailed, cause_of
from tinker_actors.supervision.flags import SupervisorFlags
from tinker_actors.supervision.gates import Gate
from tinker_actors.supervision.lifecycle import Child, Lifecycle
from tinker_actors.supervision.names import Slot, State
from tinker_actors.supervision.plan import Plan, queue
from tinker_actors.supervision.signals import (
    Exited,
    RetryDue,
    StallDetected,
    Started,
    StartTimedOut,
    StopTimedOut,
)
from tinker_actors.supervision.specs import (
    AutoShutdown,
    ChildSpec,
    Restart,
    Strategy,
    affected,
    comes_back,
)

__all__ = ["Children", "start_failure"]


class Children:
    """The table of a supervisor's children and every decision about them."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        home: Slot,
        flags: SupervisorFlags,
        note_deleted: Callable[[ChildSpec], object],
    ) -> None:
        self.verdict: ExitReason | None = None
        """Set once the supervisor must end itself."""
        self._leaving: ExitReason | None = None
        """What it ends with as soon as it is up."""
        self.is_up = False
        """Whether the static children have all started once."""
        self.is_stopping = False
        """Whether the supervisor ends: nothing is started any more."""
        self.table: dict[str, Child] = {}
        """In start order."""
        self.flags = flags
        self.lifecycle = lifecycle
        self.plan: Plan | None = None
        self.path = home.path
        self._home = home
        home.restarts_in_window = 0
        self._note_deleted = note_deleted
        self._runtime = lifecycle.runtime
        self._budget = RestartBudget(flags.max_restarts, flags.within_s)
        self._deadline = math.inf

    # The supervisor's own life.

    def begin(self, specs: Sequence[ChildSpec]) -> None:
        """Start the static children, one after another."""
        wanted = {spec.id for spec in specs}
        leftover = [slot for name, slot in self._home.children.items() if name not in wanted]
        for slot in leftover:
            self._runtime.names.delete(slot, State.DOWN)
        added = [self.add(spec) for spec in specs]
        self._home.children = {child.spec.id: child.slot for child in added}
        self.plan = Plan(to_start=queue(added))
        self.advance()

    def add(self, spec: ChildSpec) -> Child:
        """Enter a child into the table; it does not start yet."""
        slot = self._runtime.names.declare(f"{self._home.path}/{spec.id}", spec, self._home)
        child = self.table[spec.id] = Child(spec, slot)
        return child

    def shut_down(self, deadline: float) -> None:
        """Begin to end all children, or, when that has begun, to end them by an earlier deadline."""
        self._hurry(deadline)  # also those that were to end before
        if self.is_stopping:
            return
        self.is_stopping = True
        if self._home.parent is None:
            self._runtime.names.end()
        alive = [child for child in self.table.values() if child.incarnation is not None]
        for child in self.table.values():
            if child.incarnation is None:
                self.rest(child)
        self.plan = Plan(to_stop=queue(alive[::-1]))
        if self.flags.is_dynamic:
            for child in alive:
                self.stop(child)
        self.advance()

    @property
    def is_empty(self) -> bool:
        """Whether no incarnation is left."""
        return self.lifecycle.incarnations == 0

    def _hurry(self, deadline: float) -> None:
        if deadline >= self._deadline:
            return
        self._deadline = deadline
        now = self._runtime.clock.now()
        for child in self.table.values():
            if child.incarnation is not None and child.slot.state is State.STOPPING:
                self.lifecycle.limit_stop(child, child.incarnation, child.due - now, deadline)

    # Signals.

    def on_started(self, signal: Started) -> None:
        """An incarnation acknowledged its start."""
        child = self._current(signal.id, signal.epoch)
        if child is None or child.incarnation is None:
            return
        if child.slot.state is State.STOPPING:
            child.is_up, child.stopping_since = True, self._runtime.clock.now()
            limit_s = child.spec.shutdown_limit_s
            self.lifecycle.limit_stop(child, child.incarnation, limit_s, self._deadline)
            return
        self.lifecycle.came_up(child, child.incarnation)
        self._publish(ChildStarted(path=child.slot.path, epoch=signal.epoch))
        starter, child.starter = child.starter, None
        if starter is not None:
            starter.set(self.address(child))
        self._go_on_after(child)

    def on_exited(self, signal: Exited) -> None:
        """An incarnation ended; stale ones are only noted."""
        child = self._current(signal.id, signal.epoch)
        if child is not None:
            self._ended(child, signal.reason)

    def on_start_timed_out(self, signal: StartTimedOut) -> None:
        """A child did not start in time."""
        child = self._current(signal.id, signal.epoch)
        if child is not None and child.incarnation is not None and child.slot.state is State.STARTING:
            limit_s = child.spec.start_limit_s
            self.lifecycle.abandon(child, child.incarnation, limit_s)
            self._ended(
                child, StartFailed(TimeoutError(f"{child.slot.path} did not start within {limit_s:g} s"))
            )

    def on_stop_timed_out(self, signal: StopTimedOut) -> None:
        """A child did not end in time."""
        child = self._current(signal.id, signal.epoch)
        if child is None or child.incarnation is None or child.slot.state is not State.STOPPING:
            return
        now = self._runtime.clock.now()
        if now < child.due:  # a limit that was replaced
            return
        given_s = now - child.stopping_since
        self.lifecycle.abandon(child, child.incarnation, given_s)
        self._ended(child, Killed(given_s))

    def on_stall_detected(self, signal: StallDetected) -> None:
        """A handler of a child does not return."""
        child = self._current(signal.id, signal.epoch)
        # One that was asked to end may have no other limit: a supervisor's time for that is not bounded.
        handles = (State.RUNNING, State.STOPPING)
        if child is not None and child.incarnation is not None and child.slot.state in handles:
            self.lifecycle.abandon(child, child.incarnation, signal.after_s)
            self._ended(child, signal.reason)

    def on_retry_due(self, signal: RetryDue) -> None:
        """A pause is over."""
        child = self.table.get(signal.id)
        if child is None or child.ticket != signal.ticket or child.slot.state is not State.BACKING_OFF:
            return
        if child.gate is not None and not child.gate.is_open:  # closed meanwhile
            self.lifecycle.pause(child, 0.0, child.gate)
        else:
            self.resume(child)

    # Steps.

    def resume(self, child: Child) -> None:
        """End a child's pause: start it, or go on with the plan that waits for it."""
        child.cancel_timer()
        plan = self.plan
        if plan is not None and plan.paused is child:
            plan.paused = None
            child.slot.shut(State.PENDING, parks=True)  # others may start before it
            self.advance()
        else:
            self.lifecycle.launch(child)

    def stop(self, child: Child) -> None:
        """Ask a child to end, unless that has been done."""
        if child.incarnation is not None and child.slot.state is not State.STOPPING:
            returns = self.is_stopping or (self.plan is not None and child.spec.id in self.plan.to_start)
            self.lifecycle.ask_to_stop(child, child.incarnation, deadline=self._deadline, parks=returns)

    def advance(self) -> None:
        """Take the next step of the plan, if none is under way."""
        plan = self.plan
        while plan is not None and plan is self.plan and plan.awaited is None:
            if plan.to_stop:
                _, child = plan.to_stop.popitem(last=False)
                if child.incarnation is not None:
                    plan.awaited = child
                    self.stop(child)
            elif plan.paused is not None:
                if plan.paused.slot.state is not State.BACKING_OFF:
                    self.lifecycle.pause(plan.paused, plan.delay_s, plan.gate)
                return
            elif plan.to_start and not self.is_stopping:
                child = next(iter(plan.to_start.values()))
                if child.gate is not None and not child.gate.is_open:
                    plan.paused, plan.delay_s, plan.gate = child, 0.0, child.gate
                    continue
                del plan.to_start[child.spec.id]
                plan.awaited = child
                self.lifecycle.launch(child)
            else:
                self.plan = None
                self.is_up = True
                self.verdict = self.verdict or self._leaving

    def _go_on_after(self, child: Child) -> None:
        plan = self.plan
        if plan is None:
            return
        if child.incarnation is None:
            plan.to_stop.pop(child.spec.id, None)
        if plan.awaited is child:
            plan.awaited = None
        self.advance()

    def _ended(self, child: Child, reason: ExitReason) -> None:
        was_asked = child.slot.state is State.STOPPING
        epoch = child.slot.epoch
        if not child.is_up and not was_asked and not isinstance(reason, StartFailed | Ignored):
            reason = StartFailed(
                cause_of(reason) or RuntimeError(f"{child.slot.path} ended while it started")
            )
        self.lifecycle.ended(child)
        child.slot.ended(epoch, reason)
        if not was_asked:
            child.slot.shut(State.PENDING, parks=True)
        path = child.slot.path
        if isinstance(reason, StartFailed):
            self._publish(ChildStartFailed(path=path, epoch=epoch, error=reason.error))
        else:
            expected = was_asked or isinstance(reason, Ignored)
            self._publish(ChildExited(path=path, epoch=epoch, reason=reason, expected=expected))
        if was_asked or self.is_stopping or (self.plan is not None and child.spec.id in self.plan.to_stop):
            self.rest(child)
            self._go_on_after(child)
        else:
            self._decide(child, reason)

    def rest(self, child: Child) -> None:
        """Give a child that ended, and was to end, the state it rests in."""
        child.cancel_timer()
        child.gate = None
        child.on_start_failure = "decide"
        if self.is_stopping:
            child.slot.shut(State.STOPPED, parks=True)
        elif self.flags.is_dynamic or child.spec.restart is Restart.TEMPORARY:
            self.delete(child)
        elif self.plan is not None and child.spec.id in self.plan.to_start:
            child.slot.shut(State.PENDING, parks=True)
        else:
            child.slot.shut(State.DOWN, parks=False)
        starter, child.starter = child.starter, None
        if starter is not None:
            starter.fail(StartFailedError(f"{child.slot.path} was stopped before it was up"))
        stoppers, child.stoppers = child.stoppers, []
        for stopper in stoppers:
            stopper.set(None)

    # Decisions.

    def _decide(self, child: Child, reason: ExitReason) -> None:
        failed_start = isinstance(reason, StartFailed)
        starter, child.starter = child.starter, None
        if starter is not None:
            if isinstance(reason, StartFailed):
                starter.fail(start_failure(child.slot.path, reason.error))
            else:
                starter.set(None)  # ignored: there is nobody to give the address of
        fate, child.on_start_failure = child.on_start_failure, "decide"
        if failed_start and fate == "delete":
            self.delete(child)
        elif failed_start and fate == "down":
            child.slot.shut(State.DOWN, parks=False)
        elif isinstance(reason, StartFailed) and not self.is_up:
            child.slot.shut(State.STOPPED, parks=True)
            self.verdict = StartFailed(start_failure(child.slot.path, reason.error))
            return
        elif comes_back(child.spec.restart, reason):
            self._restart(child, reason)
            return
        else:
            if self.flags.is_dynamic or child.spec.restart is Restart.TEMPORARY:
                self.delete(child)
            else:
                child.slot.shut(State.DOWN, parks=False)
            if not isinstance(reason, Ignored):
                self._mind_significance(child)
        self._go_on_after(child)

    def _mind_significance(self, child: Child) -> None:
        """End the supervisor if a significant child's own end for good asks for it."""
        if not child.spec.significant:
            return
        others = [
            one for one in self.table.values() if one.spec.significant and one.slot.state is not State.DOWN
        ]
        if self.flags.auto_shutdown is AutoShutdown.ANY_SIGNIFICANT or not others:
            # While its first children start, a supervisor that ended would be one that failed to start.
            self._leaving = Shutdown(f"{child.slot.path} ended, and it was significant")
            if self.is_up:
                self.verdict = self._leaving

    def _restart(self, child: Child, reason: ExitReason) -> None:
        now = self._runtime.clock.now()
        cause = cause_of(reason)
        is_free = isinstance(cause, child.spec.free_causes)
        if self._zombies() > self.flags.max_zombies:
            self._give_up(child, cause, f"more than {self.flags.max_zombies} threads left behind")
            return
        if not is_free and not self._budget.spend(now, cause):
            limit = f"more than {self.flags.max_restarts} restarts within {self.flags.within_s:g} s"
            self._give_up(child, cause, limit)
            return
        self._home.restarts_in_window = self._budget.spent
        rng = self._runtime.random_for(f"{child.slot.path}/backoff", child.slot.epoch)
        delay_s = child.spec.backoff.delay_s(child.failures, rng)
        child.failures += 1
        child.slot.restarts += 1
        gate = child.spec.gate if is_free else None
        epoch = child.slot.epoch
        is_held = gate is not None and not gate.is_open
        if self.flags.is_dynamic or self.flags.strategy is Strategy.ONE_FOR_ONE:
            if delay_s > 0:
                self.lifecycle.pause(child, delay_s, gate)
            else:
                self.lifecycle.launch(child)
        else:
            child.gate = gate
            self._restart_group(child, delay_s, gate)
        self._publish(
            ChildRestarting(
                path=child.slot.path,
                epoch=epoch,
                delay_s=math.inf if is_held else delay_s,
                restarts=child.slot.restarts,
                in_window=self._budget.spent,
                reason=reason,
            )
        )

    def _restart_group(self, failed: Child, delay_s: float, gate: Gate | None) -> None:
        """Replace the plan by one that stops and starts everybody concerned by it or by this failure."""
        ids = set(affected(self.flags.strategy, list(self.table), failed.spec.id))
        if self.plan is not None:
            ids.update(self.plan.to_stop, self.plan.to_start)
            waiting = (self.plan.awaited, self.plan.paused)
            ids.update(child.spec.id for child in waiting if child is not None)
        group = [child for child in self.table.values() if child.spec.id in ids]
        # A temporary child without an incarnation waits for its first start.
        to_start = [
            child
            for child in group
            if not child.stoppers
            and (child.incarnation is None or child.spec.restart is not Restart.TEMPORARY)
        ]
        for child in to_start:
            if child.incarnation is None:
                child.cancel_timer()
                child.slot.shut(State.PENDING, parks=True)
        self.plan = Plan(
            to_stop=queue([child for child in reversed(group) if child.incarnation is not None]),
            to_start=queue(to_start),
            paused=failed if delay_s > 0 else None,
            delay_s=delay_s,
            gate=gate,
        )
        self.advance()

    def _zombies(self) -> int:
        """How many threads of its children this supervisor, or one before it, has left behind."""
        return sum(path.rpartition("/")[0] == self._home.path for path, _ in list(self._runtime.zombies))

    def _give_up(self, child: Child, cause: BaseException | None, limit: str) -> None:
        child.slot.shut(State.STOPPED, parks=True)
        self.verdict = Shutdown(limit, cause=self._budget.first_cause or cause, last=cause)
        self._publish(Escalated(path=self._home.path, reason=self.verdict))

    def delete(self, child: Child) -> None:
        """Forget a child and its spec."""
        del self.table[child.spec.id]
        if self.plan is not None:
            self.plan.to_start.pop(child.spec.id, None)
        self._runtime.names.delete(child.slot)
        self._note_deleted(child.spec)
        self._publish(ChildDeleted(path=child.slot.path))

    # Small change.

    def address(self, child: Child) -> Address:
        """The address of a child."""
        return Address(self._runtime, child.slot.path)

    def _current(self, child_id: str, epoch: int) -> Child | None:
        child = self.table.get(child_id)
        if child is None or child.incarnation is None or child.incarnation.epoch != epoch:
            return None
        return child

    def _publish(self, event: Event) -> None:
        self._runtime.events.publish(event)


def start_failure(path: str, error: BaseException) -> StartFailedError:
    """The error that says which child did not start; its cause is what that child raised."""
    if isinstance(error, StartFailedError):
        return error
    failure = StartFailedError(f"{path} did not start: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
