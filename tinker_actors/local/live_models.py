"""Models in training, in memory: restored from their last snapshot and what was executed after it."""

from collections import OrderedDict, deque
from threading import Lock
from weakref import WeakValueDictionary

from tinker_actors.errors import ValidationError
from tinker_actors.local import ledger, records
from tinker_actors.local.bodies import adam_params, decode, examples_of, read_training
from tinker_actors.local.checkpoints import Checkpoints, encode
from tinker_actors.local.engine.catalog import BaseModel, load_base_model, model_digest
from tinker_actors.local.engine.training import Trainer
from tinker_actors.local.files import remove
from tinker_actors.local.refusals import RefusedError, StorageError
from tinker_actors.local.reports import report
from tinker_actors.local.specs import ModelSpec, Ticket
from tinker_actors.local.store import Connection, Store
from tinker_actors.types import CheckpointPath
from tinker_actors.wire.documents import LoadWeightsRequest, OptimStepRequest

__all__ = ["Models", "base_model", "train"]


_IN_USE: WeakValueDictionary[str, BaseModel] = WeakValueDictionary()
_RECENT: deque[BaseModel] = deque(maxlen=2)
"""Base models that stay in memory although nothing uses them."""
_LOADING = Lock()


def base_model(name: str) -> BaseModel:
    """A base model, loaded once for all that use it at a time; any thread may ask.

    Raises:
        ValidationError: there is none of that name, or it cannot be loaded.
    """
    with _LOADING:
        base = _IN_USE.get(name)
        if base is None:
            base = _IN_USE[name] = load_base_model(name)
        if base not in _RECENT:
            _RECENT.append(base)
        return base


class Models:
    """The trainers of live models. Only the executor's thread may call it.

    A model that is not in memory is made anew when it is asked for: its snapshot, then the operations
    after it once more, which gives the same bits.

    Args:
        store: where operations are kept.
        checkpoints: where snapshots are kept.
        snapshot_every: operations between two snapshots of a model.
        most: models kept in memory; the one that was used longest ago makes room.
    """

    def __init__(self, store: Store, checkpoints: Checkpoints, snapshot_every: int, most: int) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._snapshot_every = snapshot_every
        self._most = most
        self._trainers: OrderedDict[str, Trainer] = OrderedDict()
        self._specs: dict[str, ModelSpec] = {}
        self._since_snapshot: dict[str, int] = {}
        self._changed_by: dict[str, int] = {}
        """The last operation that changed what is in memory."""

    def spec(self, model_id: str) -> ModelSpec:
        """What a model is made from."""
        if model_id not in self._specs:
            self._specs[model_id] = self._store.ask(lambda db: records.model(db, model_id)).spec
        return self._specs[model_id]

    def create(self, model_id: str) -> Trainer:
        """A model as it is before its first operation.

        One that starts from a checkpoint gets a snapshot at once: the checkpoint may change later.

        Raises:
            ValidationError: its checkpoint cannot be read.
        """
        spec = self.spec(model_id)
        trainer = _untrained(spec)
        if spec.source is not None:
            arrays = self._checkpoints.arrays(CheckpointPath.parse(spec.source, kind="weights"))
            trainer.load_state(arrays, optimizer=spec.optimizer)
            self.snapshot(model_id, trainer, 0)
        return self._keep(model_id, trainer)

    def trainer(self, ticket: Ticket) -> Trainer:
        """The model of an operation, as it is before that.

        Raises:
            StorageError: it must be made anew, and what it is made from could not be stored.
        """
        model_id = ticket.queue
        if model_id not in self._trainers:
            return self._keep(model_id, self._restored(model_id, (ticket.seq_id or 0) - 1))
        self._trainers.move_to_end(model_id)
        return self._trainers[model_id]

    def _keep(self, model_id: str, trainer: Trainer) -> Trainer:
        self._trainers[model_id] = trainer
        for other in list(self._trainers)[: max(0, len(self._trainers) - self._most)]:
            self._evict(other)
        return trainer

    def _evict(self, model_id: str) -> None:
        """Forget a model that can be made anew; with a snapshot, so that this is quick."""
        trainer = self._trainers[model_id]
        try:
            row = self._store.ask(lambda db: records.model(db, model_id))
            if row.executed < self._changed_by.get(model_id, -1):
                return  # results that could not be stored are in memory only
            if self._since_snapshot.get(model_id, 0):
                self.snapshot(model_id, trainer, row.executed)
        except RefusedError:
            pass  # being unloaded
        except (OSError, StorageError) as error:  # operations are kept from the snapshot before
            report("snapshot_failed", model_id=model_id, error=str(error))
        self.forget(model_id)

    def _restored(self, model_id: str, executed: int) -> Trainer:
        row = self._store.ask(lambda db: records.model(db, model_id))
        if row.executed != executed:
            raise StorageError(f"model {model_id} is stored up to seq_id {row.executed}, not {executed}")
        trainer = _untrained(row.spec)
        if row.snapshot >= 0:
            trainer.load_state(self._checkpoints.load_snapshot(model_id, row.snapshot))
        tickets = self._store.ask(lambda db: ledger.replay_after(db, model_id, row.snapshot, executed))
        for ticket in tickets:
            self.change(trainer, ticket)
        self._since_snapshot[model_id] = len(tickets)
        return trainer

    def change(self, trainer: Trainer, ticket: Ticket) -> object:
        """Execute an operation that changes a model; what it gives back."""
        media, body, _ = self._store.ask(lambda db: ledger.body_of(db, ticket.request_id))
        if ticket.kind == "optim_step":
            return _optim_step(trainer, body)
        if ticket.kind == "load_weights":
            self._load(trainer, body)
            return None
        return train(trainer, media, body)

    def _load(self, trainer: Trainer, body: bytes) -> None:
        request, _, _ = decode(body, LoadWeightsRequest)
        arrays = self._checkpoints.arrays(CheckpointPath.parse(request.path, kind="weights"))
        trainer.load_state(arrays, optimizer=request.optimizer)

    def forget(self, model_id: str) -> None:
        """Make a model anew when it is next asked for: after a failure nobody knows what it left behind."""
        self._trainers.pop(model_id, None)
        self._changed_by.pop(model_id, None)

    def unload(self, model_id: str) -> None:
        """Remove a model and its snapshots."""
        self.forget(model_id)
        self._specs.pop(model_id, None)
        self._since_snapshot.pop(model_id, None)
        remove(self._checkpoints.snapshots(model_id))

    def executed(self, ticket: Ticket) -> None:
        """Count an operation that changed a model; now and then take a snapshot after it."""
        self._changed_by[ticket.queue] = ticket.seq_id or 0
        count = self._since_snapshot.get(ticket.queue, 0) + 1
        self._since_snapshot[ticket.queue] = count
        if ticket.kind != "load_weights" and count < self._snapshot_every:
            return
        trainer = self._trainers.get(ticket.queue)
        if trainer is None or ticket.seq_id is None:
            return
        try:
            # Waits for all results before: what a snapshot covers cannot be executed again.
            row = self._store.ask(lambda db: records.model(db, ticket.queue))
            if row.executed == ticket.seq_id:
                self.snapshot(ticket.queue, trainer, ticket.seq_id)
        except RefusedError:
            return  # being unloaded
        except (OSError, StorageError) as error:  # what it would have replaced is still there
            report("snapshot_failed", model_id=ticket.queue, error=str(error))

    def snapshot(self, model_id: str, trainer: Trainer, seq_id: int) -> None:
        """Keep a model's state after `seq_id` and forget what it makes needless."""
        content = encode(self.spec(model_id), trainer, gradient=True)
        self._checkpoints.save_snapshot(model_id, seq_id, content)

        def keep(db: Connection) -> None:
            records.set_snapshot(db, model_id, seq_id)
            ledger.prune_model(db, model_id, seq_id)

        self._store.submit(keep).result()
        self._checkpoints.drop_snapshots(model_id, keep=seq_id)
        self._since_snapshot[model_id] = 0


def train(trainer: Trainer, media: str, body: bytes) -> object:
    """Execute a forward or forward_backward; logprobs by example, and metrics."""
    request = read_training(media, body)
    return trainer.forward_backward(
        examples_of(request), request.loss_fn, request.loss_fn_config, backward=not request.forward_only
    )


def _untrained(spec: ModelSpec) -> Trainer:
    """A model as its seed makes it.

    Raises:
        ValidationError: the files of its base model are gone, or others than when it was made.
    """
    if model_digest(spec.base_model) != spec.base_digest:
        raise ValidationError(
            f"the files in {spec.base_model} must be those that the model was made with, and have changed since;"
            " put them back, or train a new model"
        )
    base = base_model(spec.base_model)
    return Trainer(base, spec.make(base.config))


def _optim_step(trainer: Trainer, body: bytes) -> dict[str, float]:
    params = adam_params(decode(body, OptimStepRequest)[0])
    return trainer.optim_step(
        learning_rate=params.learning_rate,
        beta1=params.beta1,
        beta2=params.beta2,
        eps=params.eps,
        weight_decay=params.weight_decay,
        grad_clip_norm=params.grad_clip_norm,
    )
