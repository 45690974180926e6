"""How a run gets its model: attached where it lives, restored where it was lost, created where it never was."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from tinker_actors.actors.journal import AllocateModel, Append, LoadCheckpoints
from tinker_actors.actors.opening import load_run
from tinker_actors.actors.published import HEARTBEAT, JOURNAL, TRANSPORT, Published
from tinker_actors.actors.run import Run
from tinker_actors.actors.session import AwaitSession
from tinker_actors.actors.tracing import Facts
from tinker_actors.actors.transport import Answered, Cancel, Failed, Send
from tinker_actors.api.checkpoints import get_weights_info
from tinker_actors.api.futures import Expectation, json_result
from tinker_actors.api.sessions import get_server_capabilities
from tinker_actors.api.training import create_model, get_info, load_weights, load_weights_into
from tinker_actors.config.recovery import LATEST
from tinker_actors.errors import (
    APIResponseValidationError,
    APIStatusError,
    BadRequestError,
    ConflictError,
    FutureExpiredError,
    NotFoundError,
    OutcomeUnknownError,
    RequestFailedError,
    TinkerActorsError,
    UnprocessableEntityError,
    ValidationError,
)
from tinker_actors.events import CheckpointPassedOver, ModelAttached, ModelRestored, RuntimeEvent
from tinker_actors.events import ModelCreated as ModelMade
from tinker_actors.journal.records import CheckpointRecord, ModelRecord, SendRecord
from tinker_actors.journal.replay import RestorePoint, is_tainted, restore_points
from tinker_actors.journal.store import RunImage
from tinker_actors.supervision import Context
from tinker_actors.types import GetInfoResponse, LoraConfig, ServerCapabilities
from tinker_actors.types.optimizers import ADAMW
from tinker_actors.types.rest import WeightsInfoResponse
from tinker_actors.wire.calls import Answer, Call
from tinker_actors.wire.documents import ModelCreated

__all__ = ["Attached", "Recovery", "RestoreDue", "TurnCame"]

_CREATED: Expectation = json_result("CreateModel", ModelCreated)
_LOADED: Expectation = json_result("LoadWeights", ModelCreated)
_CREATING = frozenset({"create", "weights info", "create to load", "load"})
_CANNOT_BE_LOADED = (
    NotFoundError,
    BadRequestError,
    RequestFailedError,
    FutureExpiredError,
    UnprocessableEntityError,
)
"""What a service may say about a checkpoint that is missing, has expired, is for sampling or has no optimizer."""
_LOAD_SEQ_ID = 1
"""Services load into a model as its first operation alone."""


@dataclass(frozen=True, slots=True)
class Attached:
    """The run has a model that answers."""

    model: ModelRecord
    info: GetInfoResponse
    restored_because: str | None
    """Why it is another model than before; None where it is not."""
    is_fresh: bool
    """Whether it was created just now, and not from a checkpoint."""
    before: str | None = None
    """Id of the model that it replaces."""

    def event(self, run: str, count: int) -> RuntimeEvent:
        """What there is to tell of it; `count` operations of the run are sent to it, or sent again."""
        model_id = self.model.model_id or ""
        if self.restored_because is not None:
            return ModelRestored(
                run=run,
                model_id=model_id,
                checkpoint=self.model.checkpoint,
                replayed=count,
                reason=self.restored_because,
            )
        if self.is_fresh:
            return ModelMade(run=run, model_id=model_id)
        return ModelAttached(run=run, model_id=model_id, sent_again=count)

    def facts(self) -> Facts:
        """The same, for a span."""
        facts = {
            "rung": "re-attach" if self.restored_because is None else "restore",
            "model_id": self.model.model_id,
            "checkpoint": self.model.checkpoint,
        }
        return {name: fact for name, fact in facts.items() if fact is not None}


class _Beginning(msgspec.Struct, frozen=True):
    """The state of the weights that a model begins in."""

    path: str
    optimizer: bool
    """Whether the state of its optimizer is taken, too."""
    access_token: str | None = None


@dataclass(frozen=True, slots=True)
class RestoreDue:
    """The pause before another restore is over."""


@dataclass(frozen=True, slots=True)
class TurnCame:
    """Few enough other runs are being restored."""


class _Step(msgspec.Struct, frozen=True):
    """Tag of a request of recovery."""

    name: str
    generation: int


class Recovery:
    """Climbs the ladder for one run: attach, else restore from the newest usable checkpoint, else say why not.

    Every step is in the journal before it is taken, so that a crash in the middle begins it again.

    Args:
        run: whose model it is about.
        published: of the service client.
        context: of the actor this works for, in whose thread all of it runs.
        attached: called once there is a model.
        stuck: called with the reason when there is nothing left to try; the run stands where it was.
        refused: called with the error when the service will not make the model.
    """

    def __init__(
        self,
        run: Run,
        published: Published,
        context: Context,
        *,
        attached: Callable[[Attached], None],
        stuck: Callable[[TinkerActorsError | str], None],
        refused: Callable[[TinkerActorsError], None],
    ) -> None:
        self._run = run
        self._published = published
        self._policy = published.policy
        self._context = context
        self._journal = context.address(JOURNAL)
        self._transport = context.address(TRANSPORT)
        self._attached = attached
        self._stuck = stuck
        self._refused = refused
        self._wish: str | None = None
        """Why another model is wanted, as soon as it is known in which session."""
        self._session_id = ""
        self._model: ModelRecord | None = None
        self._reason: str | None = None
        self._is_fresh = False
        self._point: RestorePoint | None = None
        """Where the next model begins, while the run waits for its turn."""
        self._before: str | None = None
        self._calls: dict[str, Send] = {}

    def begin(self, session_id: str) -> None:
        """There is a session: find the run's model in it, or bring it there."""
        self._session_id = session_id
        image = load_run(self._run.key, self._journal)
        wish, self._wish = self._wish, None
        if not image.models and self._run.config.from_state is not None:
            self._make_first()
            return
        if not image.models:
            self._ask("capabilities", get_server_capabilities())
            return
        self._model = image.models[-1]
        if wish is None and self._model.session_id != session_id:
            wish = "its session is gone"
        elif wish is None and is_tainted(image):
            wish = "it holds gradients that do not count"
        if wish is not None:
            self._restore(image, wish)
        elif self._model.model_id is None:
            self._create(self._model)
        else:
            self._probe()

    def restore(self, reason: str, *, counts: bool = True) -> None:
        """Give up the present model and make another one in the newest state that can be had.

        Args:
            reason: for events and errors.
            counts: whether this is one of the restores without progress that the policy limits.
        """
        restores = self._run.restores = self._run.restores + counts
        if restores > self._policy.max_attempts:
            self._stuck(f"{restores - 1} restores brought no progress; the last one because {reason}")
            return
        self._transport.tell(Cancel(self._context.path))
        self._wish = reason
        delay_s = self._policy.pause_s(restores, self._context.random) if counts else 0.0
        if delay_s > 0:
            self._context.send_after(delay_s, RestoreDue())
        else:
            self._look_for_session()

    def _look_for_session(self) -> None:
        """Ask for the session that the next model will live in."""
        # What looks like a lost model or checkpoint may be a lost session, which ends all that lives in it.
        self._context.address(HEARTBEAT).tell(AwaitSession(self._context.me, is_doubted=True))

    def _restore(self, image: RunImage, reason: str) -> None:
        self._reason = reason
        strategy = self._policy.checkpoint_strategy
        only = None if strategy == LATEST else strategy
        self._point = next(restore_points(image, only), None)
        if self._point is None:
            which = "checkpoint" if only is None else f"checkpoint {only}"
            self._stuck(f"{reason}, and the journal has no {which} that can serve")
            return
        self._before = self._model.model_id if self._model is not None else None
        me = self._context.me
        self._published.restoring.enter(self._context.path, lambda: me.tell_if_there(TurnCame()))

    def _take_turn(self) -> None:
        """Make the next model; few runs do so at a time."""
        point, self._point = self._point, None
        if point is not None:
            self._create(self._new_model(point))

    def end_turn(self) -> None:
        """Let the next run have its turn; also when this actor ends before its own is over."""
        self._published.restoring.leave(self._context.path)

    def note_progress(self) -> None:
        """The present model does its work: later losses count from nought."""
        self._run.restores = 0

    def receive(self, message: Answered | Failed | RestoreDue | TurnCame) -> bool:
        """Act on a message of this; False when it is none."""
        match message:
            case RestoreDue():
                self._look_for_session()
                return True
            case TurnCame():
                self._take_turn()
                return True
        if not isinstance(message.tag, _Step):
            return False
        if message.tag.generation == self._generation:
            match message:
                case Answered(tag, answer):
                    self._read(tag.name, answer)
                case Failed(tag, OutcomeUnknownError()):
                    self._transport.tell(self._calls[tag.name])
                case Failed(tag, error, accepted):
                    self._fall_back(tag.name, error, accepted=accepted)
        return True

    @property
    def _generation(self) -> int:
        return 0 if self._model is None else self._model.generation

    def _ask(self, name: str, call: Call[Any], expected: Expectation | None = None) -> None:
        tag = _Step(name, self._generation)
        me, path, span = self._context.me, self._context.path, self._run.span_of()
        send = Send(call, tag, me, owner=path, expected=expected, span=span)
        self._calls[name] = send
        self._transport.tell(send)

    def _read(self, name: str, answer: Answer) -> None:
        try:
            self._go_on(name, answer)
        except APIResponseValidationError as error:
            self._stuck(error)

    def _go_on(self, name: str, answer: Answer) -> None:
        model = self._model
        match name:
            case "capabilities":
                self._check_model_is_served(self._calls[name].call.read(answer))
            case "create" if model is not None:
                self._note_created(model, answer)
            case "weights info" if model is not None:
                self._create_for(model, self._calls[name].call.read(answer))
            case "create to load" if model is not None:
                self._load(model, _model_id(model, answer))
            case "load" if model is not None:
                self._note_loaded(model)
            case "probe" if model is not None:
                info: GetInfoResponse = self._calls[name].call.read(answer)
                attached = Attached(model, info, self._reason, self._is_fresh, self._before)
                self._reason, self._is_fresh, self._before = None, False, None
                self.end_turn()
                self._attached(attached)

    def _check_model_is_served(self, capabilities: ServerCapabilities) -> None:
        names = [model.model_name for model in capabilities.supported_models if model.model_name]
        wanted = self._run.config.base_model
        # No list names the directories a service could load.
        if names and wanted not in names and not wanted.startswith("/"):
            self._refused(
                ValidationError(
                    f"a model that the service has is wanted ({', '.join(names)}), got {wanted!r}"
                )
            )
            return
        self._make_first()

    def _make_first(self) -> None:
        self._is_fresh = True
        self._create(self._new_model(RestorePoint(0, None)))

    def _new_model(self, point: RestorePoint) -> ModelRecord:
        number: int = self._journal.call(AllocateModel(self._session_id))
        model = ModelRecord(
            run=self._run.key,
            generation=self._generation + 1,
            session_id=self._session_id,
            model_seq_id=number,
            base_place=point.place,
            checkpoint=point.checkpoint,
            reason=self._reason,
        )
        self._journal.call(Append((model,)))
        return model

    def _create(self, model: ModelRecord) -> None:
        """Ask for the model; the same ids give the same one, however often it is asked for."""
        self._model = model
        config = self._run.config
        ids = model.session_id, model.model_seq_id
        beginning = self._beginning(model)
        if beginning is None:
            call = create_model(
                *ids, config.base_model, config.lora(), config.user_metadata, config.optimizer_config
            )
            self._ask("create", call, _CREATED)
        elif model.checkpoint is not None:
            self._ask("create", load_weights(*ids, beginning.path, optimizer=True), _LOADED)
        else:
            call = load_weights(
                *ids,
                beginning.path,
                optimizer=beginning.optimizer,
                base_model=config.base_model or None,
                user_metadata=config.user_metadata,
                access_token=beginning.access_token,
                optimizer_config=config.optimizer_config,
            )
            self._ask("create", call, _LOADED)

    def _beginning(self, model: ModelRecord) -> _Beginning | None:
        """The checkpoint that a model begins in, if it does in one."""
        config, token = self._run.config, self._run.access_token
        if model.checkpoint is not None:
            return _Beginning(model.checkpoint, optimizer=self._policy.restore_optimizer)
        if config.from_state is None:
            return None
        return _Beginning(
            config.from_state,
            optimizer=config.restores_optimizer,
            access_token=None if token is None else token.reveal(),
        )

    def _create_for(self, model: ModelRecord, info: WeightsInfoResponse) -> None:
        """A fresh model of the kind that a checkpoint is of, on a service that makes none from checkpoints."""
        config = self._run.config
        parts = ("train_unembed", "train_mlp", "train_attn")
        lora = LoraConfig(
            rank=config.rank if info.lora_rank is None else info.lora_rank,
            **{name: getattr(info, name) for name in parts if getattr(info, name) is not None},
        )
        family = info.optimizer_config.type
        call = create_model(
            model.session_id,
            model.model_seq_id,
            config.base_model or info.base_model,
            lora,
            config.user_metadata,
            optimizer=config.optimizer_config or (None if family == ADAMW else {"type": family}),
        )
        self._ask("create to load", call, _CREATED)

    def _load(self, model: ModelRecord, model_id: str) -> None:
        beginning = self._beginning(model)
        assert beginning is not None  # noqa: S101 - else nothing would be loaded
        self._model = msgspec.structs.replace(model, model_id=model_id)  # in the journal once it is loaded
        call = load_weights_into(
            model_id,
            _LOAD_SEQ_ID,
            beginning.path,
            optimizer=beginning.optimizer,
            access_token=beginning.access_token,
        )
        self._ask("load", call, _LOADED)

    def _note_loaded(self, model: ModelRecord) -> None:
        loaded = SendRecord(
            run=model.run, generation=model.generation, place=0, part=0, seq_id=_LOAD_SEQ_ID, ended=1
        )
        self._journal.call(Append((model, loaded)))
        self._probe()

    def _note_created(self, model: ModelRecord, answer: Answer) -> None:
        self._model = msgspec.structs.replace(model, model_id=_model_id(model, answer))
        self._journal.call(Append((self._model,)))
        self._probe()

    def _probe(self) -> None:
        assert self._model is not None  # noqa: S101 - there is one to probe
        assert self._model.model_id is not None  # noqa: S101 - and it has its id
        self._ask("probe", get_info(self._model.model_id))

    def _fall_back(self, name: str, error: TinkerActorsError, *, accepted: bool) -> None:
        model = self._model
        beginning = None if model is None else self._beginning(model)
        if name == "probe" and isinstance(error, NotFoundError):
            self.restore("the service no longer has its model")
        elif name == "create" and beginning is not None and self._wants_a_model_to_load_into(error):
            self._ask("weights info", get_weights_info(beginning.path))
        elif name in _CREATING and _is_about_ids(error, accepted=accepted):
            self.restore(f"the service does not make it under these ids ({error})")
        elif name in _CREATING and model is not None and model.checkpoint is not None:
            self._pass_over(model, error)
        elif name in _CREATING and isinstance(error, APIStatusError | RequestFailedError):
            self._new_model(RestorePoint(0, None))  # under these ids the service would say the same for ever
            self._refused(error)
        elif name == "capabilities" and isinstance(error, APIStatusError):
            self._refused(error)
        else:
            self._stuck(error)

    def _wants_a_model_to_load_into(self, error: TinkerActorsError) -> bool:
        """Whether a refusal may mean that this service makes no models from checkpoints; those before flags differ."""
        if isinstance(error, UnprocessableEntityError):
            return True
        return isinstance(error, BadRequestError) and not self._published.capabilities.has_flags

    def _pass_over(self, model: ModelRecord, error: TinkerActorsError) -> None:
        """A checkpoint cannot be loaded: mark it, so that the next older one is used."""
        if not isinstance(error, _CANNOT_BE_LOADED):
            self._stuck(error)
            return
        self.mark(model.checkpoint or "", str(error))
        # The marks make an end of it.
        self.restore(f"checkpoint {model.checkpoint} cannot be loaded ({error})", counts=False)

    def mark(self, path: str, reason: str) -> None:
        """Let no model begin in a checkpoint any more."""
        known: list[CheckpointRecord] = self._journal.call(LoadCheckpoints(self._run.key))
        unusable = [msgspec.structs.replace(one, usable=0) for one in known if one.path == path]
        self._journal.call(Append(tuple(unusable)))
        self._context.emit(CheckpointPassedOver(run=self._run.name, path=path, reason=reason))


def _is_about_ids(error: TinkerActorsError, *, accepted: bool) -> bool:
    """Whether a model is not to be had under the ids it was asked for with: they are taken, or its future is gone."""
    return isinstance(error, ConflictError) or (isinstance(error, FutureExpiredError) and accepted)


def _model_id(model: ModelRecord, answer: Answer) -> str:
    """The service names models like this; the official SDK relies on it for models from checkpoints."""
    created: ModelCreated = _CREATED.read(answer)
    return created.model_id or f"{model.session_id}:train:{model.model_seq_id}"
