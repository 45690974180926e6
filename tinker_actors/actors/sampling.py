"""A sampler: its sampling session on the service, and the requests to it."""

import contextlib
import secrets
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import msgspec

from tinker_actors.actors.futures import Settler, Submission, Submissions
from tinker_actors.actors.journal import AllocateSampler
from tinker_actors.actors.published import HEARTBEAT, JOURNAL, TRANSPORT, Published
from tinker_actors.actors.session import AwaitSession, SessionFailed, SessionReady
from tinker_actors.actors.status import Hold
from tinker_actors.actors.streams import Channel
from tinker_actors.actors.tracing import Fact, Facts, Span, Tracing, followed
from tinker_actors.actors.transport import Accepted, Answered, Cancel, CancelAll, Failed, Send, Stream
from tinker_actors.actors.unnamed import UnnamedWeights
from tinker_actors.api.futures import sample_result
from tinker_actors.api.rest import get_sampler
from tinker_actors.api.sampling import (
    SampleOptions,
    asample,
    complete,
    create_sampling_session,
    stream_sample,
)
from tinker_actors.errors import (
    APIResponseValidationError,
    APIStatusError,
    FutureExpiredError,
    NotFoundError,
    OutcomeUnknownError,
    SamplerLostError,
    StreamUnsupportedError,
    TinkerActorsError,
)
from tinker_actors.supervision import Stop, SupervisedActor
from tinker_actors.types import ModelInput, SamplingParams
from tinker_actors.wire.calls import NO_ENDPOINT, Answer

__all__ = ["SampleOrder", "Sampler", "SamplingActor", "Woken"]

CLONE = 1_000_000_000
"""Numbers of requests of one incarnation begin at a multiple of this, so that none is used twice."""


class SampleOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What one call of `sample` or `sample_stream` asks for."""

    prompt: ModelInput
    sampling_params: SamplingParams
    options: SampleOptions
    channel: Channel | None = None
    """Where the chunks of a stream go; None for samples that come as a whole."""

    def facts(self) -> Facts:
        """What may be told of it: no tokens, and nothing that ends them."""
        params, length = self.sampling_params, self.prompt.known_length
        facts: dict[str, Fact | None] = {
            "num_samples": self.options.num_samples,
            "max_tokens": params.max_tokens,
            "seed": params.seed,
            "temperature": params.temperature,
            "top_k": None if params.top_k < 0 else params.top_k,
            "top_p": params.top_p,
            "input_tokens": length,
        }
        return {name: fact for name, fact in facts.items() if fact is not None}


class Woken:
    """There is something to take, or nobody holds the sampler any more."""


@dataclass(frozen=True, slots=True)
class _Cancelled:
    """The caller does not want the samples any more."""

    number: int


@dataclass(frozen=True, slots=True)
class _StreamTag:
    """Names a stream to whatever incarnation hears of its end."""

    ticket: str


@dataclass(frozen=True, slots=True)
class _StreamLeft:
    """Nobody reads the stream any more."""

    ticket: str


@dataclass(frozen=True, slots=True)
class _SessionProbe:
    """Whether the sampling session is there, asked because a stream was answered 404."""

    ticket: str
    error: APIStatusError


class Sampler:
    """What a sampler is, whatever incarnation serves it.

    Args:
        name: within its service client.
        settler: settles its futures.
        base_model: sample from this base model,
        model_path: or from these saved weights,
        sampling_session_id: or from an ephemeral save.
        record_stability_info: have the service keep what `stable_reinforce` needs of each sequence.
        trained_from: the base model of the weights; empty lets the service be asked.
        is_clone: whether another process samples from the same sampling session.
        step: optimizer steps in the weights, where that is known.
        tracing: makes spans of its operations.
        weights: of the ephemeral save, where its run may save them again.
    """

    def __init__(
        self,
        name: str,
        settler: Settler,
        *,
        base_model: str | None = None,
        model_path: str | None = None,
        sampling_session_id: str | None = None,
        record_stability_info: bool = False,
        trained_from: str = "",
        is_clone: bool = False,
        step: int | None = None,
        tracing: Tracing | None = None,
        weights: UnnamedWeights | None = None,
    ) -> None:
        self.name = name
        self.base_model = base_model
        self.model_path = model_path
        self.sampling_session_id = sampling_session_id
        self.record_stability_info = record_stability_info
        self.step = step
        self.weights = weights
        if weights is not None:
            weights.is_needed = lambda: not self.is_retired
        self.trained_from = base_model or trained_from
        """Name of the base model, as far as it is known; set before `ready`."""
        self.submissions: Submissions[SampleOrder] = Submissions(settler, cancellable=True)
        self.ready: Future[None] = Future()
        """Done once the service knows the sampler."""
        self.busy: str | None = None
        self.hold: Hold | None = None
        """What keeps it from sending; None while nothing does."""
        self.is_clone = is_clone
        self.session_id: str | None = sampling_session_id
        """Its present sampling session."""
        self.is_retired = False
        """Whether nobody can ask it anything any more."""
        self.is_unstreamed = False
        """Whether its service is known to stream no samples."""
        self._settler = settler
        self._tracing = tracing
        self._opening: Span | None = None
        """Of the creation of the client."""
        if tracing is not None:
            self._opening = tracing.begin("create_sampling_client", self._facts)
            followed(self._opening, lambda: self.ready)

    @property
    def _facts(self) -> Facts:
        return {"sampler": self.name, "model": self.trained_from}

    @property
    def opening(self) -> Span | None:
        """What its creation belongs to; None once it was created, and where nobody looks."""
        return None if self.ready.done() else self._opening

    def submit(self, order: SampleOrder) -> "Future[Any]":
        """Ask for samples; the future of what comes.

        Raises:
            TinkerActorsError: the sampler is closed.
        """
        if self._tracing is None:
            return self.submissions.add(order)
        name = "sample" if order.channel is None else "sample_stream"
        span = self._tracing.begin(name, {**self._facts, **order.facts()})
        return followed(span, lambda: self.submissions.add(order, span))

    def leave(self, future: "Future[Any]", channel: Channel) -> None:
        """Nobody reads a stream any more. Callable from a finalizer."""

        def cancel() -> None:
            future.cancel()
            channel.drop()

        self._settler.run(cancel)

    @property
    def is_ephemeral(self) -> bool:
        """Whether nothing but its session holds its weights."""
        return self.base_model is None and self.model_path is None

    def note_ready(self) -> None:
        """The service knows it."""
        self._settler.settle(self.ready, None)

    def close(self, error: BaseException) -> None:
        """It will never work again."""
        self.hold = Hold(f"nothing more: {error}")
        self.is_retired = True
        self._settler.fail(self.ready, error)
        self.submissions.close(error)


class SamplingActor(SupervisedActor):
    """Keeps one sampler alive. Sampling changes nothing, so what was under way at a crash is asked again."""

    def __init__(self, sampler: Sampler, published: Published) -> None:
        super().__init__()
        self._sampler = sampler
        self._published = published
        self._session_id: str | None = None
        self._created: str | None = None
        """The sampling session whose base model is being looked up."""
        self._under_way: dict[int, Submission[SampleOrder]] = {}
        self._sequence_ids: dict[int, Sequence[str]] = {}
        self._streams: dict[str, Submission[SampleOrder]] = {}
        self._next = 0
        self._home: str | None = None
        """The session that the service has, while that is asked for unnamed weights."""
        self._doubted: list[tuple[Submission[SampleOrder], TinkerActorsError]] = []
        """Samples that were answered 404, until it is known whether their weights are gone."""

    def on_start(self) -> None:
        self._transport = self.context.address(TRANSPORT)
        # Numbers that neither another process nor an earlier incarnation gives; the official SDK draws alike.
        part = 1 + secrets.randbelow(CLONE) if self._sampler.is_clone else self.context.epoch - 1
        self._next = part * CLONE
        if self.context.epoch > 1:  # what an earlier incarnation asked is asked again
            self._transport.tell(CancelAll(self.context.path))
        submissions = self._sampler.submissions
        submissions.restart(known=set())
        address = self.context.address(self.context.path)
        submissions.bind(lambda: address.tell_if_there(Woken()))
        weights, ephemeral = self._sampler.weights, self._sampler.sampling_session_id
        if weights is not None:
            weights.wake = lambda: address.tell_if_there(Woken())
        if ephemeral is not None and self._sampler.is_ephemeral and (weights is None or self._is_first):
            self._serve_session(ephemeral)
        else:
            self._sampler.hold = Hold("the session", self.context.clock.now(), HEARTBEAT)
            self.context.address(HEARTBEAT).tell(AwaitSession(self.context.me))

    def on_receive(self, message: Any) -> None:
        self._handle(message)
        if self._sampler.is_retired and self._sampler.submissions.is_idle():
            self._published.drop_client(self.context.path)
            raise Stop  # a client that is gone leaves no thread behind, once what it asked for is answered

    def _handle(self, message: Any) -> None:
        match message:
            case Woken():
                self._look_for_weights()
                self._take()
            case SessionReady(session_id):
                self._note_session(session_id)
            case SessionFailed(error):
                self._sampler.close(error)
            case Answered("create", answer):
                self._note_created(answer)
            case Failed("create", OutcomeUnknownError()):
                self._send_creation()
            case Failed("create", error):
                self._sampler.close(error)
            case Answered("look up", answer):
                self._note_base_model(answer)
            case Failed("look up", OutcomeUnknownError()):
                self._look_up()
            case Failed("look up", _) if self._created is not None:
                self._serve_session(self._created)  # a service that cannot say; it checks tokens itself
            case _:
                self._receive(message)

    def _receive(self, message: Any) -> None:
        """What is about one request, unless its caller gave it up meanwhile."""
        match message:
            case _Cancelled(number) if number in self._under_way:
                self._give_up(number)
            case Accepted(int(number), handle) if number in self._under_way:
                if handle.sample_sequence_ids is not msgspec.UNSET:
                    self._sequence_ids[number] = handle.sample_sequence_ids
            case Answered(int(number), answer) if number in self._under_way:
                self._settle(number, answer)
            case Failed(int(number), error) if number in self._under_way:
                self._note_failure(number, error)
            case _:
                self._receive_of_stream(message)

    def _receive_of_stream(self, message: Any) -> None:
        """What is about a stream; it may have been asked for by an earlier incarnation."""
        match message:
            case _StreamLeft(ticket):
                self._transport.tell(Cancel(self._owner(ticket)))
                self._streams.pop(ticket, None)
                self._sampler.submissions.drop(ticket)
            case Answered(_StreamTag(ticket), _):
                _note_streamed(self._streams.pop(ticket, None))
                self._sampler.submissions.settle(ticket, None)
            case Failed(_StreamTag(ticket), error):
                self._note_stream_failure(ticket, error)
            case Answered(_SessionProbe(ticket), _):
                self._refuse_stream(ticket)
            case Failed(_SessionProbe(ticket, error), why) if ticket in self._streams:
                self._note_probe(ticket, error, why)

    @property
    def _is_first(self) -> bool:
        return self.context.epoch == 1

    def _note_session(self, session_id: str) -> None:
        if self._sampler.weights is None:
            self._create(session_id)
        else:
            self._note_home(session_id)

    # Unnamed weights ------------------------------------------------------------------------------

    def _note_home(self, session_id: str) -> None:
        """The service has this session: whatever is in another one is gone."""
        self._home = session_id
        doubted, self._doubted = self._doubted, []
        for submission, error in doubted:
            self._fail_lost(submission, error)  # the session is there, and they are not
        self._look_for_weights()

    def _look_for_weights(self) -> None:
        """Sample from the weights where they are by now, or say that they are nowhere."""
        weights = self._sampler.weights
        if weights is None or self._home is None or self._session_id is not None:
            return
        session_id, sampling_session_id = weights.home
        if session_id == self._home and sampling_session_id is not None:
            self._serve_session(sampling_session_id)
        elif weights.is_lost:
            self._sampler.hold = None
            self._sampler.note_ready()
            for submission in self._sampler.submissions.untaken():
                self._sampler.submissions.take(submission.ticket)
                self._fail_lost(submission, None)
        else:
            self._sampler.hold = Hold("its weights, which its run saves again", self.context.clock.now())

    def _fail_lost(self, submission: Submission[SampleOrder], error: TinkerActorsError | None) -> None:
        step = self._sampler.step
        of_step = "" if step is None else f" of step {step}"
        lost = SamplerLostError(
            f"the service no longer has this unnamed sampler{of_step}; save weights under a name to sample from them"
            " for long",
            step=step,
        )
        lost.__cause__ = error
        self._sampler.submissions.fail(submission.ticket, lost)

    # Sampling sessions ----------------------------------------------------------------------------

    def _create(self, session_id: str) -> None:
        self._sampler.hold = Hold("its sampling session", self.context.clock.now())
        number = self.context.address(JOURNAL).call(AllocateSampler(session_id))
        self._creating = create_sampling_session(
            session_id, number, base_model=self._sampler.base_model, model_path=self._sampler.model_path
        )
        self._send_creation()

    def _send_creation(self) -> None:
        self._transport.tell(Send(self._creating, "create", self.context.me, span=self._sampler.opening))

    def _note_created(self, answer: Answer) -> None:
        try:
            created = self._creating.read(answer)
        except APIResponseValidationError as error:
            self._sampler.close(error)
            return
        if self._sampler.trained_from:
            self._serve_session(created.sampling_session_id)
        else:
            self._created = created.sampling_session_id
            self._look_up()

    def _look_up(self) -> None:
        """Ask what the weights were trained from, for the tokenizer and the checks that need it."""
        assert self._created is not None  # noqa: S101 - looked up when it is there
        asked = get_sampler(self._created)
        self._transport.tell(Send(asked, "look up", self.context.me, span=self._sampler.opening))

    def _note_base_model(self, answer: Answer) -> None:
        assert self._created is not None  # noqa: S101 - looked up when it is there
        with contextlib.suppress(APIResponseValidationError):
            self._sampler.trained_from = get_sampler(self._created).read(answer).base_model
        self._serve_session(self._created)

    def _serve_session(self, sampling_session_id: str) -> None:
        self._session_id = self._sampler.session_id = sampling_session_id
        self._sampler.hold = None
        self._sampler.note_ready()
        self._take()

    def _take(self) -> None:
        if self._session_id is None:
            return
        for submission in self._sampler.submissions.untaken():
            self._sampler.submissions.take(submission.ticket)
            self._ask(submission)

    def _ask(self, submission: Submission[SampleOrder]) -> None:
        assert self._session_id is not None  # noqa: S101 - asked only while there is one
        number, self._next = self._next, self._next + 1
        order = submission.request
        if order.channel is not None:
            self._ask_for_stream(submission, order.channel, number)
            return
        self._under_way[number] = submission
        call = asample(
            self._session_id,
            number,
            order.prompt,
            order.sampling_params,
            order.options,
            when_open=self._published.circuits.sampling,
        )
        self._transport.tell(
            Send(
                call,
                number,
                self.context.me,
                owner=self._owner(number),
                expected=sample_result,
                span=submission.span,
            )
        )
        here = self.context.me
        submission.future.add_done_callback(
            lambda done: here.tell_if_there(_Cancelled(number)) if done.cancelled() else None
        )

    def _ask_for_stream(self, submission: Submission[SampleOrder], channel: Channel, number: int) -> None:
        """Have a stream go into its channel. One that goes there already goes on: incarnations come and go."""
        assert self._session_id is not None  # noqa: S101 - asked only while there is one
        ticket, order = submission.ticket, submission.request
        self._streams[ticket] = submission
        if self._sampler.is_unstreamed:
            self._refuse_stream(ticket)
            return
        call = stream_sample(
            self._session_id,
            number,
            order.prompt,
            order.sampling_params,
            order.options,
            when_open=self._published.circuits.sampling,
        )
        me = self.context.address(self.context.path)
        tag, owner = _StreamTag(ticket), self._owner(ticket)
        self._transport.tell(Stream(call, tag, me, owner, channel, span=submission.span))

        def look(done: "Future[Any]") -> None:
            if done.cancelled():
                me.tell_if_there(_StreamLeft(ticket))

        submission.future.add_done_callback(look)

    def _note_stream_failure(self, ticket: str, error: TinkerActorsError) -> None:
        submission = self._streams.get(ticket)
        match error:
            case OutcomeUnknownError() | NotFoundError() if submission is None:
                return  # it waits to be taken, and is asked for then
            case OutcomeUnknownError() if submission is not None:
                self._ask(submission)
            case NotFoundError() if self._session_id is not None:
                probe = _SessionProbe(ticket, error)
                self._transport.tell(Send(get_sampler(self._session_id), probe, self.context.me))
            case APIStatusError(status=status) if status in NO_ENDPOINT:
                self._refuse_stream(ticket)
            case _:
                self._streams.pop(ticket, None)
                self._sampler.submissions.fail(ticket, error)

    def _note_probe(self, ticket: str, error: APIStatusError, why: TinkerActorsError) -> None:
        """Tell a service that forgot the session from one that has no such endpoint: each says 404 to a stream."""
        channel = self._streams[ticket].request.channel
        match why:
            case OutcomeUnknownError():
                self._note_stream_failure(ticket, error)
            case NotFoundError() if channel is not None and not channel.is_asked_anew:
                channel.is_asked_anew = True
                self._lose_session(self._streams.pop(ticket), error)
            case APIStatusError(status=status) if status in NO_ENDPOINT:
                self._refuse_stream(ticket)
            case _:  # nobody knows: the next stream may
                self._streams.pop(ticket)
                self._sampler.submissions.fail(ticket, why)

    def _refuse_stream(self, ticket: str) -> None:
        self._sampler.is_unstreamed = True
        self._streams.pop(ticket, None)
        error = StreamUnsupportedError(
            "the service streams no samples; call sample, or sample_stream with in_one_burst=True"
        )
        self._sampler.submissions.fail(ticket, error)

    def _owner(self, number: int | str) -> str:
        return f"{self.context.path}/{number}"

    def _give_up(self, number: int) -> None:
        self._transport.tell(Cancel(self._owner(number)))
        self._sequence_ids.pop(number, None)
        self._sampler.submissions.drop(self._under_way.pop(number).ticket)

    def _settle(self, number: int, answer: Answer) -> None:
        submission, ids = self._under_way.pop(number), self._sequence_ids.pop(number, None)
        try:
            response = complete(sample_result.read(answer), submission.request.options, ids)
        except APIResponseValidationError as error:
            self._sampler.submissions.fail(submission.ticket, error)
        else:
            if submission.span is not None:
                sequences = response.sequences
                submission.span.note(
                    {
                        "output_tokens": sum(len(one.tokens) for one in sequences),
                        "finish_reasons": [str(one.stop_reason) for one in sequences],
                    }
                )
            self._sampler.submissions.settle(submission.ticket, response)

    def _note_failure(self, number: int, error: TinkerActorsError) -> None:
        submission = self._under_way.pop(number)
        self._sequence_ids.pop(number, None)
        match error:
            case FutureExpiredError() | OutcomeUnknownError() if self._session_id is not None:
                self._ask(submission)
            case NotFoundError():
                self._lose_session(submission, error)
            case _:
                self._sampler.submissions.fail(submission.ticket, error)

    def _lose_session(self, submission: Submission[SampleOrder], error: TinkerActorsError) -> None:
        """The service forgot the sampling session: get another one, or say that there is none to get."""
        weights = self._sampler.weights
        if weights is not None and not weights.is_lost:
            self._doubted.append((submission, error))
            if len(self._doubted) == 1:  # its session may be gone, too; then there is hope
                self.context.address(HEARTBEAT).tell(AwaitSession(self.context.me, is_doubted=True))
            return
        if self._sampler.is_ephemeral:
            self._fail_lost(submission, error)
            return
        raise error  # a new incarnation creates a session and asks everything again


def _note_streamed(submission: Submission[SampleOrder] | None) -> None:
    if submission is not None and submission.span is not None and submission.request.channel is not None:
        submission.span.note({"output_tokens": submission.request.channel.tokens})
