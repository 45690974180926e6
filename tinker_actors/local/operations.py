"""What each kind of request does when its turn comes."""

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tinker_actors.local import ledger, records
from tinker_actors.local.bodies import decode
from tinker_actors.local.checkpoints import Checkpoints, encode, encode_named
from tinker_actors.local.live_models import Models, train
from tinker_actors.local.queues import session_of
from tinker_actors.local.specs import Result, Ticket, as_json, failure
from tinker_actors.local.store import Store
from tinker_actors.types import CheckpointKind, CheckpointPath, ForwardBackwardOutput, TensorData
from tinker_actors.wire.documents import (
    LoadWeightsRequest,
    SaveWeightsExternalRequest,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
)
from tinker_actors.wire.protobuf import encode_output

__all__ = ["NamedSave", "Operations", "Outcome", "checkpoint_of", "sampler_of"]

Write = Callable[[sqlite3.Connection], None]


class Outcome(msgspec.Struct, frozen=True):
    """A result, and what is written in the same transaction."""

    result: Result
    also: Write | None = None


NamedSave = SaveWeightsRequest | SaveWeightsForSamplerRequest | SaveWeightsExternalRequest
_KINDS: dict[type[NamedSave], CheckpointKind] = {
    SaveWeightsRequest: "weights",
    SaveWeightsForSamplerRequest: "sampler_weights",
    SaveWeightsExternalRequest: "external_weights",
}


def checkpoint_of(request: NamedSave) -> CheckpointPath:
    """The checkpoint a save writes; a training checkpoint without a name is called by its place."""
    name = request.path if isinstance(request.path, str) else f"{request.seq_id:08d}"
    return CheckpointPath(request.model_id, _KINDS[type(request)], name)


def sampler_of(request: SaveWeightsForSamplerRequest) -> str:
    """The sampling session that a save without a name makes."""
    return f"{session_of(request.model_id)}:sample:{request.sampling_session_seq_id}"


class Operations:
    """Executes tickets, one at a time, on the executor's thread.

    Every method may raise: `ValidationError` and `RefusedError` are the caller's mistakes, all else is
    the server's.
    """

    def __init__(self, store: Store, checkpoints: Checkpoints, models: Models) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._models = models

    def execute(self, ticket: Ticket) -> Outcome:
        """What `ticket` comes to."""
        execute = getattr(self, f"_{ticket.kind}")
        outcome: Outcome = execute(ticket)
        return outcome

    # Models

    def _create_model(self, ticket: Ticket) -> Outcome:
        self._models.create(ticket.queue)
        source = self._models.spec(ticket.queue).source
        if source is None:
            return _json(model_id=ticket.queue, type="create_model")
        return _json(model_id=ticket.queue, path=source, type="load_weights")

    def _load_weights(self, ticket: Ticket) -> Outcome:
        self._models.change(self._models.trainer(ticket), ticket)
        request = self._read(ticket, LoadWeightsRequest)
        return _json(path=request.path, model_id=ticket.queue, type="load_weights")

    def _unload_model(self, ticket: Ticket) -> Outcome:
        self._models.unload(ticket.queue)
        return _json(model_id=ticket.queue, type="unload_model")

    def _forward_backward(self, ticket: Ticket) -> Outcome:
        return _output(self._models.change(self._models.trainer(ticket), ticket))

    def _forward(self, ticket: Ticket) -> Outcome:
        media, body, _ = self._store.ask(lambda db: ledger.body_of(db, ticket.request_id))
        return _output(train(self._models.trainer(ticket), media, body))

    def _optim_step(self, ticket: Ticket) -> Outcome:
        metrics = self._models.change(self._models.trainer(ticket), ticket)
        return _json(metrics=metrics, type="optim_step")

    def _refused(self, ticket: Ticket) -> Outcome:
        _, detail, _ = self._store.ask(lambda db: ledger.body_of(db, ticket.request_id))
        return Outcome(failure(f"{ticket.request_id} was refused: {detail.decode()}", "user"))

    # Saves

    def _save_weights(self, ticket: Ticket) -> Outcome:
        request = self._read(ticket, SaveWeightsRequest)
        return self._save_named(ticket, request, overwrite=request.overwrite)

    def _save_weights_for_sampler(self, ticket: Ticket) -> Outcome:
        request = self._read(ticket, SaveWeightsForSamplerRequest)
        if not isinstance(request.sampling_session_seq_id, int):
            return self._save_named(ticket, request, overwrite=False)
        sampling_session_id = sampler_of(request)
        content = encode(self._models.spec(ticket.queue), self._models.trainer(ticket), optimizer=False)
        self._checkpoints.save_sampler(sampling_session_id, content)
        outcome = _json(sampling_session_id=sampling_session_id, type="save_weights_for_sampler")
        return Outcome(outcome.result, lambda db: records.sampler_ready(db, sampling_session_id))

    def _save_weights_external(self, ticket: Ticket) -> Outcome:
        request = self._read(ticket, SaveWeightsExternalRequest)
        return self._save_named(ticket, request, overwrite=False)

    def _save_named(self, ticket: Ticket, request: NamedSave, *, overwrite: bool) -> Outcome:
        path = checkpoint_of(request)
        if not overwrite:
            self._store.ask(lambda db: records.check_name(db, str(path), ticket.request_id))
        files = encode_named(path.kind, self._models.spec(ticket.queue), self._models.trainer(ticket))
        self._checkpoints.save(path, files)
        size_bytes = sum(map(len, files.values()))
        given = {name: getattr(request, name, msgspec.UNSET) for name in ("ttl_seconds", "user_metadata")}
        facts: dict[str, Any] = {name: value for name, value in given.items() if value is not msgspec.UNSET}

        def also(db: sqlite3.Connection) -> None:
            records.add_checkpoint(db, path, ticket.request_id, size_bytes, **facts)

        size = {"size_bytes": size_bytes} if path.kind == "external_weights" else {}
        return Outcome(_json(path=str(path), type=ticket.kind, **size).result, also)

    def _read(self, ticket: Ticket, kind: type[Any]) -> Any:
        _, body, _ = self._store.ask(lambda db: ledger.body_of(db, ticket.request_id))
        return decode(body, kind)[0]


def _json(**document: Any) -> Outcome:
    return Outcome(Result(form="json", body=as_json(document)))


def _output(computed: Any) -> Outcome:
    logprobs: list[npt.NDArray[np.floating[Any]]]
    metrics: Mapping[str, float]
    logprobs, metrics = computed
    output = ForwardBackwardOutput(
        loss_fn_outputs=[{"logprobs": TensorData(values)} for values in logprobs], metrics=dict(metrics)
    )
    return Outcome(Result(form="output", body=encode_output(output)))
