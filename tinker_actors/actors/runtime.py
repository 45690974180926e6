"""Everything one service client owns: run directory, journal, threads, tree; opened together, closed in order."""

import contextlib
import os
import shutil
import tempfile
import threading
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tinker_actors.actors.application import ApplicationChildren
from tinker_actors.actors.circuits import Circuits
from tinker_actors.actors.forks import in_forked_children
from tinker_actors.actors.futures import Settler
from tinker_actors.actors.journal import LoadHistory, TellHistory
from tinker_actors.actors.published import HEARTBEAT, JOURNAL, SAMPLING, TRAINING, TRANSPORT, Published
from tinker_actors.actors.reporting import REPORTED
from tinker_actors.actors.run import Run
from tinker_actors.actors.sampling import Sampler, Woken
from tinker_actors.actors.session import FinishSession
from tinker_actors.actors.status import Hold, status_of
from tinker_actors.actors.tracing import Tracing, followed
from tinker_actors.actors.training import Drain
from tinker_actors.actors.transport import Fetch
from tinker_actors.actors.tree import sampler_spec, service_spec, training_spec
from tinker_actors.config import RecoveryPolicy, SamplingLimits, Settings
from tinker_actors.errors import (
    ForkedProcessError,
    RuntimeStoppedError,
    StartFailedError,
)
from tinker_actors.events import SessionLeftOpen
from tinker_actors.journal import exports
from tinker_actors.journal.directory import RunDirectory
from tinker_actors.journal.history import StepRecord
from tinker_actors.journal.store import Store
from tinker_actors.journal.story import RunHistory
from tinker_actors.supervision import (
    ActorTree,
    Address,
    ChildSpec,
    Reply,
    ShutdownEnded,
    StartChild,
    TerminateChild,
)
from tinker_actors.types import ServiceStatus
from tinker_actors.wire.calls import Call

__all__ = ["Runtime"]

SOON_TIMEOUT_S = 5.0
"""To close a runtime that has no runs."""
FETCH_TIMEOUT_S = 3600.0
HISTORY_TIMEOUT_S = 60.0
FINISH_TIMEOUT_S = 5.0
ENDING_TIMEOUT_S = 60.0
TELL_TIMEOUT_S = 5.0
SAVING_SHARE = 0.8
"""Of the time to close, what waiting for results and saving may take; the rest is for ending everything."""


class Runtime:
    """A running tree with its journal.

    Args:
        settings: of the client.
        policy: of recovery.
        run_dir: the run directory; None keeps the journal in memory.
        user_metadata: of the session.
        display_name: of the session.
        circuits: what admits its calls.
        limits: what holds samples back.
        tracing: makes spans of what is done.

    Raises:
        JournalError: the run directory cannot be used.
        StartFailedError: the tree did not come up.
    """

    def __init__(
        self,
        settings: Settings,
        policy: RecoveryPolicy,
        run_dir: str | None,
        user_metadata: dict[str, Any],
        display_name: str | None,
        circuits: Circuits | None = None,
        limits: SamplingLimits | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._pid = os.getpid()
        self._directory = None if run_dir is None else RunDirectory(run_dir)
        self._stay = in_forked_children(self._let_go)
        try:
            self._open(settings, policy, user_metadata, display_name, circuits or Circuits(), limits, tracing)
        except BaseException:
            self._release()
            raise

    def _open(
        self,
        settings: Settings,
        policy: RecoveryPolicy,
        user_metadata: dict[str, Any],
        display_name: str | None,
        circuits: Circuits,
        limits: SamplingLimits | None,
        tracing: Tracing | None,
    ) -> None:
        directory = None if self._directory is None else self._directory.path
        self._store = Store(None if directory is None else directory / "journal.db")
        if directory is not None and self._directory is not None:
            self._directory.claim()
            exports.catch_up(directory, self._store)
        self._scratch = (
            tempfile.mkdtemp(prefix="tinker-actors-") if settings.is_local and directory is None else None
        )
        server_directory = directory / "server" if directory is not None else Path(self._scratch or ".")
        self._settler = Settler()
        self.published = Published(
            settings=settings,
            policy=policy,
            store=self._store,
            settler=self._settler,
            directory=directory,
            server_directory=server_directory if settings.is_local else None,
            user_metadata=user_metadata,
            display_name=display_name,
            circuits=circuits,
            limits=limits,
            tracing=tracing,
        )
        self.tree = ActorTree(service_spec(self.published))
        self.application = ApplicationChildren(self.tree, self.published)
        self.tree.events.subscribe(self._on_shutdown_ended, ShutdownEnded)
        if tracing is not None:
            tracing.watch(self.tree.events)
        if self.published.telemetry is not None:
            self.tree.events.subscribe(self.published.telemetry.note, *REPORTED)
        self._runs: list[Run] = []
        self._close_lock = threading.Lock()
        self._is_closed = False
        self.tree.start()

    @property
    def settler(self) -> Settler:
        """Settles the futures of callers."""
        return self._settler

    def check_process(self) -> None:
        """Refuse to work in a forked child, where no thread of ours runs.

        Raises:
            ForkedProcessError: this is one.
        """
        if self.is_forked:
            raise ForkedProcessError(
                f"this client belongs to process {self._pid}; create one of your own after the fork"
            )

    def start_run(self, run: Run) -> None:
        """Supervise `run`; whether that works shows in its `ready`."""
        self.check_process()
        self._runs.append(run)
        self._start_child(TRAINING, training_spec(run, self.published), run)

    def address_of(self, run: Run) -> Address:
        """Of the actor that serves `run`."""
        return self.tree.address(f"{TRAINING}/{training_spec(run, self.published).id}")

    def end_run(self, run: Run, error: BaseException) -> None:
        """End its actor for good; whatever is asked of it later fails with `error`."""
        address = self.address_of(run)
        self.published.drop_client(address.path)
        end = TerminateChild(address.path.rpartition("/")[2])
        self.tree.address(TRAINING).ask(
            end, timeout_s=ENDING_TIMEOUT_S
        ).exception()  # one that is down is ended, too
        run.close(error)
        self._runs.remove(run)

    def start_sampler(self, sampler: Sampler) -> None:
        """Supervise `sampler`; whether that works shows in its `ready`."""
        self.check_process()
        self._start_child(SAMPLING, sampler_spec(sampler, self.published), sampler)

    def retire_sampler(self, sampler: Sampler) -> None:
        """End its actor once what was asked of it is answered. Callable from a finalizer."""
        if not self.is_forked:
            self._settler.run(partial(self._retire, sampler))

    def _retire(self, sampler: Sampler) -> None:
        sampler.is_retired = True
        path = f"{SAMPLING}/{sampler_spec(sampler, self.published).id}"
        if sampler.submissions.is_idle():
            self.published.drop_client(path)
        self.tree.address(path).tell_if_there(Woken())

    def _start_child(self, supervisor: str, spec: ChildSpec, owner: Run | Sampler) -> None:
        owner.hold = Hold("its start", self.tree.clock.now())
        self.published.add_client(supervisor, spec, owner)

        def look(reply: Reply) -> None:
            error = reply.exception()
            # Other errors mean that the supervisor was restarted: it has the child from the published table.
            # While the tree ends, its first cause is what the owner will be closed with.
            if isinstance(error, StartFailedError) and not self.tree.is_ending:
                owner.close(error)

        self.tree.address(supervisor).ask(StartChild(spec)).add_done_callback(look)

    def status(self) -> ServiceStatus:
        """What everybody waits for, at this moment."""
        published = self.published
        status = status_of(
            published.clients.copy(),
            published.under_way(),
            published.circuits.all(),
            published.pulse,
            self.tree.clock.now(),
            published.paused_until,
        )
        stopped = published.stopped
        return status if stopped is None else msgspec.structs.replace(status, stopped=str(stopped))

    def fetch(self, call: Call[Any]) -> "Future[Any]":
        """The result of a request that needs neither order nor journal."""
        tracing = self.published.tracing
        if tracing is None:
            return self._ask(TRANSPORT, Fetch(call), FETCH_TIMEOUT_S)
        span = tracing.begin(call.operation, {})
        return followed(span, lambda: self._ask(TRANSPORT, Fetch(call, span), FETCH_TIMEOUT_S))

    def history(self, run: str) -> "Future[list[StepRecord]]":
        """The optimizer steps of a run with a result, in order."""
        return self._ask(JOURNAL, LoadHistory(run), HISTORY_TIMEOUT_S)

    def histories(self) -> "Future[list[RunHistory]]":
        """What became of each run of the journal."""
        return self._ask(JOURNAL, TellHistory(), HISTORY_TIMEOUT_S)

    def _ask(self, path: str, message: object, timeout_s: float) -> "Future[Any]":
        future: Future[Any] = Future()

        def pass_on(reply: Reply) -> None:
            error = reply.exception()
            if error is not None:
                self._settler.fail(future, error)
            else:
                self._settler.settle(future, reply.result())

        self.tree.address(path).ask(message, timeout_s=timeout_s).add_done_callback(pass_on)
        return future

    def _on_shutdown_ended(self, event: ShutdownEnded) -> None:
        cause = event.first_cause
        text = "the service client is closed" if cause is None else f"the service client stopped: {cause}"
        self.published.stop(RuntimeStoppedError(text, first_cause=cause))

    @property
    def is_forked(self) -> bool:
        """Whether this process is a fork of the one that opened it."""
        return os.getpid() != self._pid

    def close_soon(self) -> None:
        """Close it on a thread of its own: a finalizer may run on any, also on one that closing would wait for."""
        close = threading.Thread(target=self.close, args=("success", SOON_TIMEOUT_S), daemon=True)
        with contextlib.suppress(
            RuntimeError
        ):  # the interpreter is on its way down, and starts no thread any more
            close.start()

    def close(self, status: str, timeout_s: float, detail: str | None = None) -> bool:
        """Finish what was submitted, save what no checkpoint covers, end the session, stop the tree.

        Args:
            status: of the session: "success", "errored" or "interrupted".
            timeout_s: for all of it; the session stays open when that was not enough to save everything.
            detail: why, for people.

        Returns:
            Whether everything is saved. Only the first call does something.
        """
        if self.is_forked:  # it closes nothing of ours, and takes no lock whose holder is not there
            return True
        with self._close_lock:
            if self._is_closed:
                return True
            self._is_closed = True
        clock = self.tree.clock
        give_up_at = clock.now() + timeout_s
        try:
            uncovered = self._save(timeout_s * SAVING_SHARE)
            if uncovered and self._directory is not None:  # the next process can go on in the session
                left = SessionLeftOpen(session_id=self.published.session_id, uncovered=uncovered)
                self.tree.events.publish(left)
            else:
                left_s = max(0.1, min(FINISH_TIMEOUT_S, give_up_at - clock.now()))
                self.tree.address(HEARTBEAT).ask(FinishSession(status, detail), timeout_s=left_s).exception()
            if self.published.telemetry is not None:
                self.published.telemetry.close(max(0.1, min(TELL_TIMEOUT_S, give_up_at - clock.now())))
        finally:  # also when the wait was interrupted from the keyboard
            self.tree.stop(max(1.0, give_up_at - clock.now()))
            self.published.stop(RuntimeStoppedError("the service client is closed"))
            self._release(max(1.0, give_up_at - clock.now()))
        return not uncovered

    def _save(self, timeout_s: float) -> dict[str, str]:
        """Have every run do what was submitted, and save it: those that did not, and what each of them waits for."""
        runs = list(self._runs)  # others may end meanwhile
        for run in runs:
            run.submissions.refuse(RuntimeStoppedError("the service client is closed"))
        # One that has not begun has nothing to save without a run directory; with one, an earlier process committed
        # to something that is still under way.
        unsaved = set() if self._directory is None else {run.name for run in runs if not run.ready.done()}
        replies = {
            run.name: self.address_of(run).ask(Drain(), timeout_s=timeout_s)
            for run in runs
            if run.ready.done() and run.ready.exception() is None
        }
        unsaved |= {name for name, reply in replies.items() if not _succeeded(reply)}
        waits = {one.name: one.waits_for for one in self.status().clients}
        told = {name: waits.get(f"training:{name}", "nothing") for name in sorted(unsaved)}
        return {name: "a checkpoint" if wait == "nothing" else wait for name, wait in told.items()}

    def _let_go(self) -> None:
        """In a forked child."""
        if hasattr(self, "_store"):
            self._store.abandon()
        if self._directory is not None:
            self._directory.abandon()

    def _release(self, timeout_s: float = 5.0) -> None:
        self._stay()
        if hasattr(self, "_settler"):
            self._settler.close(timeout_s=min(5.0, timeout_s))
        if hasattr(self, "_store"):
            self._store.close()
        if getattr(self, "_scratch", None) is not None:
            shutil.rmtree(str(self._scratch), ignore_errors=True)
        if self._directory is not None:
            self._directory.close()


def _succeeded(reply: Reply) -> bool:
    return reply.exception() is None and bool(reply.result())
