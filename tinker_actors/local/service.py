"""The server's parts put together, without the network: what the routes work with."""

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tinker_actors.errors import ValidationError
from tinker_actors.local import checkpoint_records, completions, ledger, records
from tinker_actors.local.access import Access
from tinker_actors.local.bodies import digest_of
from tinker_actors.local.checkpoints import Checkpoints
from tinker_actors.local.data_dir import DataDirectory
from tinker_actors.local.engine.catalog import ModelConfig, model_config, model_names
from tinker_actors.local.engine.numerics import numerics
from tinker_actors.local.executor import Executor, Limits
from tinker_actors.local.faults.switches import Switches
from tinker_actors.local.ledger import Accepted
from tinker_actors.local.live_models import Models
from tinker_actors.local.operations import Operations
from tinker_actors.local.options import Options
from tinker_actors.local.refusals import RefusedError, StartError, StorageError
from tinker_actors.local.reports import report
from tinker_actors.local.samplers import Samplers
from tinker_actors.local.specs import Result, Ticket
from tinker_actors.local.store import Connection, Job, Store
from tinker_actors.local.tokens import Signer
from tinker_actors.local.waiters import Waiters
from tinker_actors.tokenization import get_tokenizer
from tinker_actors.types import CheckpointPath

__all__ = ["Service"]

T = TypeVar("T")
SWEEP_S = 60.0
"""From one look for what has outlived its time to the next."""
LEAST_SWEEP_S = 0.05


class Service:
    """Store, executor and those who wait for results.

    Args:
        options: how the server was started.
        data: its directory, open.
        now: tells the seconds since the epoch.
    """

    def __init__(self, options: Options, data: DataDirectory, now: Callable[[], float] = time.time) -> None:
        self.options = options
        self.now = now
        self.numerics = numerics(options.threads)
        self.store = Store(data.database, now)
        self.signer = Signer(data.secret(), now)
        self.access = Access(options, self.signer)
        self.checkpoints = Checkpoints(data.path)
        self.waiters = Waiters()
        self.switches = Switches(time.monotonic)
        if options.faults is not None:
            self.switches.arm(options.faults)
        models = Models(self.store, self.checkpoints, options.snapshot_every, options.most_live_models)
        self.executor = Executor(
            self.store,
            Operations(self.store, self.checkpoints, models),
            Samplers(
                self.store,
                self.checkpoints,
                together=not options.deterministic,
                most_rows=options.most_rows,
                most_bytes=options.cache_mib * 2**20,
            ),
            models,
            self._publish,
            Limits(most=options.most_waiting, most_of_session=options.most_waiting_of_session),
        )
        self._stopping = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep_for_ever, name="sweeper", daemon=True)
        self._base_of_model: dict[str, str] = {}
        self._base_of_sampler: dict[str, str] = {}

    def _publish(self, ticket: Ticket, result: Result) -> None:
        """On the executor's or the store's thread."""
        self.waiters.publish(ticket.request_id, result)
        if ticket.kind == "sample" and ticket.seq_id is not None:
            clone = ticket.seq_id // completions.CLONE_IDS
            self.waiters.publish(completions.topic(ticket.queue, clone), result)

    def seed(self, values: Mapping[str, Any], bits: int) -> int:
        """A seed for a request that names none.

        Drawn, or `--deterministic` made from what is asked; ids of sessions are no part of that.
        """
        if not self.options.deterministic:
            return secrets.randbits(bits)
        sampler = str(values.get("sampling_session_id", "")).rpartition(":")[2]
        asked = {**values, "session_id": "", "sampling_session_id": sampler}
        return int.from_bytes(digest_of(asked), "big") >> (128 - bits)

    def start(self) -> None:
        """Line up what waited when the server last ended, and begin to execute."""
        self.store.ask(records.resume_sessions)
        models = self.store.ask(records.live_models)
        for model in models:
            self._base_of_model[model.model_id] = model.spec.base_model
            self.executor.open_model(model.model_id, model.executed)
        self._check_numerics(models)
        self.executor.offer(self.store.ask(ledger.pending))
        self._reconcile()
        self.executor.start()
        self._sweeper.start()

    def _check_numerics(self, models: list[records.Model]) -> None:
        """Name live models that will not go on bit for bit, or refuse them.

        Raises:
            StartError: there are some, and the server is to be deterministic.
        """
        others = sorted({model.numerics for model in models if model.live} - {self.numerics})
        if not others:
            return
        if self.options.deterministic:
            raise StartError(
                f"live models were made with {' and with '.join(others)}, this is {self.numerics}: they would not "
                "go on bit for bit; go back to what they were made with, or accept the change by starting "
                f"`tinker-actors serve --data {self.options.data}` once, which is not deterministic"
            )
        report(
            "numerics_changed",
            message="live models were made with other numerics; they go on, but not bit for bit",
            stored=others,
            current=self.numerics,
        )
        self.store.ask(lambda db: records.set_numerics(db, self.numerics))

    def stop(self) -> None:
        """End the parts in order; what waits stays stored."""
        self._stopping.set()
        self.waiters.release()
        self.executor.stop(timeout_s=1.0)
        self.store.close()

    async def run(self, job: Job[T], *, durable: bool = True) -> T:
        """The result of a job on the store, without holding up the event loop."""
        return await asyncio.wrap_future(self.store.submit(job, durable=durable))

    async def ask(self, job: Job[T]) -> T:
        """The result of a job that changes nothing."""
        return await self.run(job, durable=False)

    async def result(self, request_id: str, timeout_s: float) -> Result | None:
        """The result of a request, or None if it is not there in time.

        Raises:
            RefusedError: 404, there is no such request; 410, its result is no longer kept.
        """
        waiter = self.waiters.join(request_id)  # first: a result published meanwhile must not be missed
        try:
            found = await self.ask(lambda db: ledger.look_up(db, request_id))
            if found.result is not None:
                return found.result
            return await asyncio.wait_for(asyncio.wrap_future(waiter), timeout_s)
        except TimeoutError:
            return None
        finally:
            self.waiters.leave(request_id, waiter)

    async def accept(self, job: Job[Accepted], before: Callable[[], None] | None = None) -> str:
        """Accept a request durably and line it up; its id.

        A client that goes away meanwhile changes nothing: what is committed is lined up all the same.
        """
        return await asyncio.shield(self._accept(job, before))

    async def _accept(self, job: Job[Accepted], before: Callable[[], None] | None) -> str:
        accepted = await self.run(job)
        if accepted.ticket is not None:
            if before is not None:
                before()
            self.executor.offer([*accepted.passed_over, accepted.ticket])
        return accepted.request_id

    async def finish_session(self, session_id: str, reason: bytes) -> None:
        """Finish a session and line up the end of its models.

        Raises:
            RefusedError: 404, there is no such session.
        """
        self.executor.offer(await self.run(lambda db: records.finish_session(db, session_id, reason)))

    def sweep(self) -> None:
        """End what has outlived its time: checkpoints, sessions that fell silent, unnamed weights of finished ones."""
        for path in self.store.ask(checkpoint_records.expired):
            with suppress(RefusedError):  # it is being overwritten
                self.store.submit(partial(self._delete_expired, path)).result()
        timeout_s = self.options.session_timeout_s
        if timeout_s is not None:
            self.executor.offer(self.store.ask(lambda db: records.expire_sessions(db, timeout_s)))
        for sampling_session_id in self.store.ask(records.needless_samplers):
            self.store.submit(partial(self._drop_sampler, sampling_session_id)).result()

    def _drop_sampler(self, sampling_session_id: str, db: Connection) -> None:
        if sampling_session_id in records.needless_samplers(db):
            records.sampler_gone(db, sampling_session_id)
            self.checkpoints.remove_sampler(sampling_session_id)
            self._base_of_sampler.pop(sampling_session_id, None)

    def _delete_expired(self, path: CheckpointPath, db: Connection) -> None:
        if path in checkpoint_records.expired(db):
            checkpoint_records.delete(db, self.checkpoints, path)

    def _sweep_for_ever(self) -> None:
        timeout_s = self.options.session_timeout_s
        pause_s = SWEEP_S if timeout_s is None else max(LEAST_SWEEP_S, min(SWEEP_S, timeout_s / 4))
        while not self._stopping.wait(pause_s):
            try:
                self.sweep()
            except (StorageError, OSError) as error:  # what was not done is done the next time
                report("sweep_failed", error=str(error))

    def _reconcile(self) -> None:
        """Forget checkpoints whose files are gone and remove files of which there is no record.

        A process that was killed leaves such. A save that was not recorded will be executed again.
        """
        known = self.store.ask(checkpoint_records.every)
        lost = {path for path in known if not self.checkpoints.is_there(path)}
        for path in lost:
            self.store.submit(partial(records.forget_checkpoint, path=str(path))).result()
        for path in set(self.checkpoints.found()) - (known - lost):
            self.checkpoints.remove(path)

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns; for what would hold the event loop up."""
        return await asyncio.to_thread(work, *arguments)

    def model_added(self, model_id: str, base: str) -> None:
        """Take a model's operations from now on."""
        self._base_of_model[model_id] = base
        self.executor.open_model(model_id, -1)

    def check_base(self, name: str) -> None:
        """Nothing if `name` is a base model that can be loaded, and clients may have it.

        What a server can read is more than what its clients should: a directory must lie under one that is
        permitted, and nothing is said of any other, not even whether it is there.

        Raises:
            RefusedError: 400, it is none.
        """
        try:
            if name not in model_names() and Path(name).is_absolute() and not self._may_serve(name):
                raise RefusedError(
                    400,
                    f"base_model must be one of {', '.join(model_names())}, or lie under a directory of models that"
                    f" this server was started with, got {name!r}; permit more with --models DIRECTORY",
                )
            model_config(name)
            get_tokenizer(name)
        except ValidationError as error:
            raise RefusedError(400, str(error)) from error

    def _may_serve(self, name: str) -> bool:
        try:
            place = Path(name).resolve()
        except (OSError, ValueError):  # a loop of links, a null character
            return False
        permitted = (self.options.data, *self.options.models)
        return any(place.is_relative_to(directory.resolve()) for directory in permitted)

    def config_of_model(self, model_id: str) -> ModelConfig:
        """The shape of a model's base.

        Raises:
            RefusedError: 404, there is no such model.
        """
        base = self._base_of_model.get(model_id)
        if base is None:
            raise RefusedError(404, f"there is no model {model_id}")
        return model_config(base)

    async def config_of_sampler(self, sampling_session_id: str) -> ModelConfig:
        """The shape of the base that a sampling session samples from.

        Raises:
            RefusedError: 404, there is no such sampling session.
        """
        base = self._base_of_sampler.get(sampling_session_id)
        if base is None:
            base = (await self.ask(lambda db: records.sampler(db, sampling_session_id))).base_model
            self._base_of_sampler[sampling_session_id] = base
        return model_config(base)
