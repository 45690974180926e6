"""Sampling: the weights sampled from, the batches they grow in, and what has room there."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np

from tinker_actors.errors import ValidationError
from tinker_actors.local import ledger, records
from tinker_actors.local.bodies import read_sample, sample_spec
from tinker_actors.local.checkpoints import Checkpoints, adapter_arrays
from tinker_actors.local.engine.batching import Batch, Generation, Token
from tinker_actors.local.engine.catalog import BaseModel
from tinker_actors.local.engine.lora import Adapter
from tinker_actors.local.engine.sampling import SampledSequence as Drawn
from tinker_actors.local.engine.sampling import SampleSpec
from tinker_actors.local.live_models import base_model
from tinker_actors.local.queues import session_of
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.reports import report_failure
from tinker_actors.local.specs import Result, Ticket, failure
from tinker_actors.local.store import Store
from tinker_actors.tokenization import get_tokenizer
from tinker_actors.types import (
    CheckpointPath,
    PromptAltTokens,
    SampledSequence,
    SampleResponse,
    TensorData,
    TopkLogprobs,
)
from tinker_actors.wire.documents import SampleRequest, TensorDocument
from tinker_actors.wire.json import read_tensor
from tinker_actors.wire.protobuf import encode_sample

__all__ = ["Finished", "Samplers", "Stream"]

ADAPTERS_KEPT = 8
ADAPTER_BYTES = 2**30
"""Most memory that the weights of all adapters may take, unless one alone takes more."""

MOST_PASSES = 64
"""Requests that may begin before one for which there was no room; then they wait until it has begun."""

Finished = tuple[Ticket, Result]


@dataclass(frozen=True, slots=True)
class Stream:
    """A request whose tokens are told as they are made; nothing of it is stored."""

    request: SampleRequest
    seed: int
    told: Callable[[Token], None]
    """Called on the executor's thread."""


@dataclass(slots=True, eq=False)
class _Job:
    """A request on its way through a batch."""

    ticket: Ticket
    request: SampleRequest
    spec: SampleSpec
    base: BaseModel
    weights: str
    """Which weights it samples from."""
    cache_bytes: int
    told: Callable[[Token], None] | None = None
    generation: Generation | None = None
    passed: int = 0
    """Requests that began while it waited for room."""

    @property
    def session(self) -> str:
        return session_of(self.ticket.queue)


@dataclass(slots=True)
class _Group:
    """The jobs of one batch."""

    batch: Batch
    jobs: list[_Job] = field(default_factory=list)


class Samplers:
    """What sampling sessions sample from. Only the executor's thread may call it.

    Args:
        store: where requests and samplers are kept.
        checkpoints: where weights are kept.
        together: whether requests that sample from the same weights share a batch.
        most_rows: samples that may grow at once. A quarter is left to sessions that have none.
        most_bytes: memory that keys and values may take; left over as `most_rows`.
    """

    def __init__(
        self, store: Store, checkpoints: Checkpoints, *, together: bool, most_rows: int, most_bytes: int
    ) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._together = together
        self._most_rows = most_rows
        self._most_bytes = most_bytes
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        self._held: OrderedDict[str, _Job] = OrderedDict()

    @property
    def is_busy(self) -> bool:
        """Whether anything grows, or waits for room that it will have."""
        return bool(self._groups or self._held)

    def may_take(self, session: str) -> bool:
        """Whether a session's next request should be taken: it has none that waits, and one row is free."""
        if session in self._held or self._overdue() is not None:
            return False
        return self._has_room(session, rows=1, cache_bytes=0)

    def admit(self, take: Callable[[], Ticket | None], streams: dict[str, Stream]) -> list[Finished]:
        """Let requests into the batches for which there is room; those that fail at once.

        Args:
            take: gives the next request whose session `may_take` one.
            streams: requests that are not stored, by id; those taken are removed.
        """
        failed: list[Finished] = []
        for session, job in list(self._held.items()):
            if self._fits(job):
                del self._held[session]
                self._try(job.ticket, failed, partial(self._begin, job))
        while (ticket := take()) is not None:
            self._try(ticket, failed, partial(self._enter, ticket, streams))
        return failed

    def step(self) -> list[Finished]:
        """Draw a token for each sample of the batch whose turn it is; the requests that have ended."""
        if not self._groups:
            return []
        key, group = self._groups.popitem(last=False)
        try:
            ended = group.batch.step()
        except ValidationError as error:
            return [(job.ticket, failure(str(error), "user")) for job in group.jobs]
        except Exception as error:  # noqa: BLE001 - the batch is lost, the server is not
            report_failure("batch_failed", error, requests=[job.ticket.request_id for job in group.jobs])
            reason = failure(f"sample failed: {type(error).__name__}: {error}", "server")
            return [(job.ticket, reason) for job in group.jobs]
        finished: list[Finished] = []
        for job in [job for job in group.jobs if job.generation in ended]:
            group.jobs.remove(job)
            finished.append((job.ticket, _result(job)))
        if group.jobs:
            self._groups[key] = group
        return finished

    def cancel(self, request_id: str) -> Ticket | None:
        """Take a request out of its batch; None if it is in none."""
        for session, job in self._held.items():
            if job.ticket.request_id == request_id:
                del self._held[session]
                return job.ticket
        for key, group in self._groups.items():
            for job in group.jobs:
                if job.ticket.request_id == request_id and job.generation is not None:
                    group.batch.leave(job.generation)
                    group.jobs.remove(job)
                    if not group.jobs:
                        del self._groups[key]
                    return job.ticket
        return None

    def _try(self, ticket: Ticket, failed: list[Finished], work: Callable[[], None]) -> None:
        try:
            work()
        except (ValidationError, RefusedError) as error:
            failed.append((ticket, failure(str(error), "user")))
        except Exception as error:  # noqa: BLE001 - one request's fault must not reach the others
            report_failure("request_failed", error, request_id=ticket.request_id)
            failed.append((ticket, failure(f"sample failed: {type(error).__name__}: {error}", "server")))

    def _enter(self, ticket: Ticket, streams: dict[str, Stream]) -> None:
        job = self._job(ticket, streams.pop(ticket.request_id, None))
        if self._fits(job):
            self._begin(job)
        else:
            self._held[job.session] = job

    def _job(self, ticket: Ticket, stream: Stream | None) -> _Job:
        if stream is None:
            _, body, drawn = self._store.ask(lambda db: ledger.body_of(db, ticket.request_id))
            request, seed, told = read_sample(body)[0], drawn, None
        else:
            request, seed, told = stream.request, stream.seed, stream.told
        sampler = self._store.ask(lambda db: records.sampler(db, request.sampling_session_id))
        base = base_model(sampler.base_model)
        spec = sample_spec(request, seed)
        return _Job(
            ticket=ticket,
            request=request,
            spec=spec,
            base=base,
            weights=_weights_key(sampler),
            cache_bytes=spec.cache_bytes(base.config),
            told=told,
        )

    def _begin(self, job: _Job) -> None:
        key = job.weights if self._together else job.ticket.request_id
        group = self._groups.get(key)
        if group is None:
            tokenizer = get_tokenizer(job.base.name)
            weights = job.base.weights
            if job.weights != job.base.name:
                weights = self._adapter(job).merged(job.base)
            batch = Batch(weights, tokenizer.eos_token_id, tokenizer.decode)
            group = self._groups[key] = _Group(batch)
        job.generation = group.batch.join(job.spec, job.told)
        group.jobs.append(job)
        for waiting in self._held.values():
            waiting.passed += 1

    # Room

    def _running(self) -> Iterator[_Job]:
        return chain.from_iterable(group.jobs for group in self._groups.values())

    def _overdue(self) -> _Job | None:
        """What others may not begin before, so that a stream of small requests does not keep out a large one."""
        return next((job for job in self._held.values() if job.passed >= MOST_PASSES), None)

    def _fits(self, job: _Job) -> bool:
        if self._overdue() not in (None, job):
            return False
        return self._has_room(
            job.session, rows=job.spec.num_samples, cache_bytes=job.cache_bytes
        ) and self._has_adapter_room(job)

    def _has_room(self, session: str, *, rows: int, cache_bytes: int) -> bool:
        running = list(self._running())
        if not running:
            return True
        share = 1.0 if all(job.session != session for job in running) else 0.75
        return (
            sum(job.spec.num_samples for job in running) + rows <= share * self._most_rows
            and sum(job.cache_bytes for job in running) + cache_bytes <= share * self._most_bytes
        )

    def _has_adapter_room(self, job: _Job) -> bool:
        """Whether the weights of what is in batches leave room for those of one more adapter."""
        used = {other.weights for other in self._running() if other.weights != other.base.name}
        if job.weights == job.base.name or job.weights in used or not used:
            return True
        return len(used) < ADAPTERS_KEPT and (len(used) + 1) * _weight_bytes(job.base) <= ADAPTER_BYTES

    # Weights

    def _adapter(self, job: _Job) -> Adapter:
        key = job.weights
        if key not in self._adapters:
            most = max(1, min(ADAPTERS_KEPT, ADAPTER_BYTES // _weight_bytes(job.base)))
            while len(self._adapters) >= most:
                self._adapters.popitem(last=False)
            self._adapters[key] = self._loaded(job.request.sampling_session_id, job.base)
        self._adapters.move_to_end(key)
        return self._adapters[key]

    def _loaded(self, sampling_session_id: str, base: BaseModel) -> Adapter:
        files = self._checkpoints
        sampler = self._store.ask(lambda db: records.sampler(db, sampling_session_id))
        if sampler.path is None:
            facts = files.sampler_facts(sampler.sampling_session_id)
            arrays = files.sampler_arrays(sampler.sampling_session_id)
        else:
            path = CheckpointPath.parse(sampler.path, kind="sampler_weights")
            facts, arrays = files.facts(path), files.arrays(path)
        adapter = facts.make(base.config)
        adapter.fill(adapter.flat, adapter_arrays(arrays))
        adapter.version += 1
        return adapter


def _weights_key(sampler: records.Sampler) -> str:
    if sampler.ephemeral:
        return sampler.sampling_session_id
    if sampler.path is None:
        return sampler.base_model
    if sampler.saved_by is None:
        raise ValidationError(
            f"checkpoint {sampler.path} is gone, and with it what {sampler.sampling_session_id} samples from"
        )
    return f"{sampler.path} of {sampler.saved_by}"


def _weight_bytes(base: BaseModel) -> int:
    return base.weights.embedding.nbytes + sum(
        matrix.nbytes
        for layer in base.weights.layers
        for matrix in (layer.qkv, layer.o, layer.gate_up, layer.down)
    )


def _result(job: _Job) -> Result:
    assert job.generation is not None  # noqa: S101 - it has ended
    return Result(form="sample", body=encode_sample(_response(job.request, job.generation)))


def _response(request: SampleRequest, generation: Generation) -> SampleResponse:
    asked, scores = generation.spec.questions, generation.scores
    response = SampleResponse(sequences=[_sequence(drawn) for drawn in generation.sequences])
    if asked.logprobs:
        response.prompt_logprobs = [None if np.isnan(one) else float(one) for one in scores.logprobs]
    if asked.topk:
        response.topk_prompt_logprobs_np = TopkLogprobs(scores.topk_ids, scores.topk_logprobs)
    if isinstance(request.target_prompt_logprobs, TensorDocument):
        asked_for = read_tensor(request.target_prompt_logprobs)
        response.target_prompt_logprobs = TensorData(
            scores.target_logprobs,
            shape=asked_for.shape,
            sparse_crow_indices=asked_for.sparse_crow_indices,
            sparse_col_indices=asked_for.sparse_col_indices,
        )
    if asked.alternatives:
        response.prompt_alt_tokens = PromptAltTokens(
            tokens=TensorData(scores.alternative_ids), logprobs=TensorData(scores.alternative_logprobs)
        )
    return response


def _sequence(drawn: Drawn) -> SampledSequence:
    sequence = SampledSequence(tokens=drawn.tokens, logprobs=drawn.logprobs, stop_reason=drawn.stop_reason)
    if drawn.likeliest:
        ids, logprobs = (np.stack(column) for column in zip(*drawn.likeliest, strict=True))
        sequence.topk_logprobs_np = TopkLogprobs(ids, logprobs)
    return sequence
