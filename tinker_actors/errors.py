"""Every exception of the project, in one tree.

Branches say who must act; facts are attributes, not text. All survive `pickle`. Classes and attributes that the
official SDK has, too, have its names: `TinkerError` is the root, `APIError` the base of what comes of the network and of
the service's answers.

```text
TinkerActorsError = TinkerError
├── the caller
│   ├── ValidationError (ValueError)            an argument is wrong; nothing was sent
│   │   ├── ChatTemplateError                   a chat template refused, is wrong, or wanted too much
│   │   ├── ShapeError                          arrays whose shapes do not fit together
│   │   └── TinkerPathError                     not a tinker:// path of the kind wanted
│   ├── ConfigError (ValueError)                settings, run directories, child specs
│   ├── CustomLossError                         a loss of the caller's own failed; nothing of it counts
│   └── MissingExtraError (ImportError)         a package that an extra installs is not there; `extra` names it
│       └── MissingTorchError                   a torch function, and no PyTorch
├── the network
│   ├── APIConnectionError (ConnectionError)    no answer came
│   │   ├── APITimeoutError (TimeoutError)      no answer came in time
│   │   ├── StreamBrokenError                   a stream broke off after some tokens
│   │   └── TLSError                            no TLS with what listens there: no repetition helps
│   └── CircuitOpenError (ConnectionError)      too many calls failed of late: nothing was sent
├── the service
│   ├── APIStatusError                          an answer with a status that is no success
│   │   ├── BadRequestError 400   AuthenticationError 401   BillingError 402
│   │   ├── PermissionDeniedError 403   NotFoundError 404   ConflictError 409
│   │   ├── FutureExpiredError 410   UnprocessableEntityError 422   RateLimitError 429
│   │   │   └── ResultExpiredError              a training operation was executed; its result is gone
│   │   └── InternalServerError 5xx
│   ├── APIResponseValidationError              an answer that cannot be understood
│   ├── StreamUnsupportedError                  a service that streams no samples
│   └── RequestFailedError                      accepted, then failed while executing
└── the runtime
    ├── NotDeliveredError                       no handler ran: safe to repeat
    │   └── MailboxFullError                    the mailbox was at its bound
    ├── OutcomeUnknownError                     a handler had begun; the outcome is not known
    ├── PoisonedError                           the same message ended its receiver too often: not handled again
    │   └── PoisonedBatchError                  the same data brought the program down too often: left out
    ├── FencedError                             this actor was given up; another serves in its place
    ├── CommandRefusedError                     a supervisor cannot do that to this child now
    ├── HandleClosedError                       the actor was deleted for good
    ├── StartFailedError                        an actor did not start
    ├── RuntimeStoppedError                     the tree is down; `first_cause` says why
    ├── WouldDeadlockError (RuntimeError)       waiting here could never end
    ├── ForkedProcessError (RuntimeError)       a handle used in a forked child
    ├── JournalError                            the run directory cannot be used or trusted
    ├── SamplerLostError                        an unnamed sampler that the service forgot
    ├── StepVoidError                           a part of this optimizer step failed
    └── RunHaltedError                          recovery gave up; nothing was rewound
```
"""

from typing import Any, ClassVar, Self

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BillingError",
    "ChatTemplateError",
    "CircuitOpenError",
    "CommandRefusedError",
    "ConfigError",
    "ConflictError",
    "CustomLossError",
    "FencedError",
    "ForkedProcessError",
    "FutureExpiredError",
    "HandleClosedError",
    "InternalServerError",
    "JournalError",
    "MailboxFullError",
    "MissingExtraError",
    "MissingTorchError",
    "NotDeliveredError",
    "NotFoundError",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "PoisonedBatchError",
    "PoisonedError",
    "RateLimitError",
    "RequestFailedError",
    "ResultExpiredError",
    "RunHaltedError",
    "RuntimeStoppedError",
    "SamplerLostError",
    "ShapeError",
    "StartFailedError",
    "StepVoidError",
    "StreamBrokenError",
    "StreamUnsupportedError",
    "TLSError",
    "TinkerActorsError",
    "TinkerError",
    "TinkerPathError",
    "UnprocessableEntityError",
    "ValidationError",
    "WouldDeadlockError",
]


_CATEGORIES = frozenset({"user", "server", "unknown"})
_MOST_WORDS = 500
"""Characters of an answer that an error's text repeats; the rest is in its `body`."""


def _rebuild(
    cls: type["TinkerActorsError"], args: tuple[Any, ...], facts: dict[str, Any]
) -> "TinkerActorsError":
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(facts)
    return error


class TinkerActorsError(Exception):
    """Root of the tree: catch it to catch everything this project raises."""

    @property
    def message(self) -> str:
        """Its text."""
        return str(self)

    @classmethod
    def recalled(cls, message: str, facts: dict[str, Any]) -> Self:
        """One of this class with these attributes, as it was raised at some time."""
        error = cls.__new__(cls)
        error.args = (message,)
        error.__dict__.update(facts)
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


TinkerError = TinkerActorsError
"""The official SDK's name for the root."""


# The caller -------------------------------------------------------------------------------------


class ValidationError(TinkerActorsError, ValueError):
    """An argument is wrong; nothing was sent."""


class ShapeError(ValidationError):
    """Arrays whose shapes do not fit together."""


class ChatTemplateError(ValidationError):
    """A chat template refused a conversation, is wrong itself, or left its bounds; `__cause__` says more."""


class TinkerPathError(ValidationError):
    """Not a `tinker://` path of the kind that is wanted here."""


class ConfigError(TinkerActorsError, ValueError):
    """A setting, a run directory or a child spec is wrong."""


class CustomLossError(TinkerActorsError):
    """A loss or a regularizer of the caller's own failed, or gave what is no loss; `__cause__` is its own error."""

    category = "user"


class MissingExtraError(TinkerActorsError, ImportError):
    """Something wants a package that is not installed; the text ends in how to install it."""

    extra: str
    """The extra of this package that installs it."""

    def __init__(self, message: str, *, extra: str) -> None:
        super().__init__(f"{message} install the extra tinker-actors[{extra}]")
        self.extra = extra


class MissingTorchError(MissingExtraError):
    """A loss is a torch function, and PyTorch is not installed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, extra="torch")


# The network ------------------------------------------------------------------------------------


class APIError(TinkerActorsError):
    """A request went wrong on its way, or in its answer."""


class APIConnectionError(APIError, ConnectionError):
    """No answer came from the service."""


class APITimeoutError(APIConnectionError, TimeoutError):
    """No answer came in time."""


class StreamBrokenError(APIConnectionError):
    """A stream of samples broke off; what came of it is good, and it cannot be taken up again."""

    tokens: int
    """How many tokens came."""

    def __init__(self, message: str, *, tokens: int) -> None:
        super().__init__(message)
        self.tokens = tokens


class TLSError(APIConnectionError):
    """The two sides cannot agree on TLS, or the certificate is not trusted."""


class CircuitOpenError(TinkerActorsError, ConnectionError):
    """The circuit breaker of this endpoint is open; nothing was sent.

    Too many calls to it failed or took too long, or somebody opened it.
    """

    endpoint: str
    """Name of the operation in the API, such as "asample"."""
    retry_after_s: float
    """Seconds after which it is worth another try."""
    is_forced: bool
    """Whether somebody opened it, and only somebody closes it."""

    def __init__(self, endpoint: str, retry_after_s: float, *, is_forced: bool = False) -> None:
        super().__init__(
            f"the circuit of {endpoint} is held open: nothing was sent; ServiceClient.set_circuit_mode lets it go"
            if is_forced
            else f"too many calls of {endpoint} failed or took too long: nothing was sent; "
            f"try again in {retry_after_s:.1f} s"
        )
        self.endpoint = endpoint
        self.retry_after_s = retry_after_s
        self.is_forced = is_forced


# The service ------------------------------------------------------------------------------------


class APIStatusError(APIError):
    """The service answered with a status that is not a success."""

    status: int
    """The HTTP status."""
    body: Any
    """The decoded body of the answer, or its text."""
    retry_after_s: float | None
    """Seconds the service asks to wait, when it says so."""
    should_retry: bool | None
    """Whether the service says that another try may do; None when it does not say."""

    _by_status: ClassVar[dict[int, type["APIStatusError"]]] = {}

    def __init__(
        self,
        message: str,
        *,
        status: int,
        body: Any = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = body
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry

    def __init_subclass__(cls, status: int | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if status is not None:
            APIStatusError._by_status[status] = cls

    @property
    def status_code(self) -> int:
        """The HTTP status, by the official SDK's name."""
        return self.status

    @property
    def category(self) -> str:
        """Who must act: "user", "server" or "unknown"; what the answer says, else what its status means."""
        told = str(self.body.get("category")).lower() if isinstance(self.body, dict) else ""
        if told in _CATEGORIES:
            return told
        if self.status < 400:  # noqa: PLR2004
            return "unknown"
        return "server" if self.status >= 500 or self.status in (408, 410, 429) else "user"  # noqa: PLR2004

    @property
    def is_of_an_edge(self) -> bool:
        """Whether it looks like a proxy's, before the service saw the request: a 400 without a word."""
        return self.status == 400 and self.body == ""  # noqa: PLR2004

    @classmethod
    def of(
        cls,
        status: int,
        body: Any,
        retry_after_s: float | None = None,
        *,
        should_retry: bool | None = None,
        hint: str = "",
        who: str = "the service",
    ) -> "APIStatusError":
        """The error of the most specific class for `status` that `who` answered; `hint` says what to do about it."""
        kind = cls._by_status.get(status)
        if kind is None:
            kind = InternalServerError if status >= 500 else APIStatusError  # noqa: PLR2004
        message = f"{who} answered {status}: {_words(body)}"
        return kind(
            f"{message}; {hint}" if hint else message,
            status=status,
            body=body,
            retry_after_s=retry_after_s,
            should_retry=should_retry,
        )


def _words(body: Any) -> str:
    """What an answer says, in a line. Services repeat what they were sent in it, which belongs into no log."""
    detail = (
        body.get("detail", body.get("message", body.get("error", body))) if isinstance(body, dict) else body
    )
    if isinstance(detail, list) and all(isinstance(one, dict) and "msg" in one for one in detail):
        detail = "; ".join(_place(one.get("loc")) + str(one["msg"]) for one in detail)
    text = str(detail)
    if text.lstrip()[:1] == "<":
        return "a page for browsers"
    return text if len(text) <= _MOST_WORDS else f"{text[:_MOST_WORDS]}..."


def _place(steps: Any) -> str:
    return f"{'.'.join(str(step) for step in steps)}: " if isinstance(steps, list) and steps else ""


class BadRequestError(APIStatusError, status=400):
    """The service found the request wrong."""


class AuthenticationError(APIStatusError, status=401):
    """The service does not accept the key."""


class BillingError(APIStatusError, status=402):
    """The account cannot pay for the request."""


class PermissionDeniedError(APIStatusError, status=403):
    """The key may not do this."""


class NotFoundError(APIStatusError, status=404):
    """The service does not know what the request names."""


class ConflictError(APIStatusError, status=409):
    """The request contradicts one that came before."""


class FutureExpiredError(APIStatusError, status=410):
    """The service no longer keeps what the request names."""


class ResultExpiredError(FutureExpiredError):
    """The service executed a training operation, and no longer keeps its result; the run goes on without it."""

    executed: bool
    """Whether the operation took effect: it must not be asked for again."""

    def __init__(self, message: str, *, executed: bool = True, status: int = 410, body: Any = None) -> None:
        super().__init__(message, status=status, body=body)
        self.executed = executed


class UnprocessableEntityError(APIStatusError, status=422):
    """The service cannot read the request."""


class RateLimitError(APIStatusError, status=429):
    """Too many requests."""


class InternalServerError(APIStatusError):
    """The service failed (any 5xx)."""


class APIResponseValidationError(APIError):
    """The service's answer cannot be understood."""


class StreamUnsupportedError(APIError):
    """The service has no endpoint that streams samples."""


class RequestFailedError(TinkerActorsError):
    """The service accepted the request and failed while executing it."""

    category: str
    """Who must act: "user", "server" or "unknown"."""
    request_id: str | None
    """The service's id of the request."""

    def __init__(self, message: str, *, category: str = "unknown", request_id: str | None = None) -> None:
        super().__init__(message)
        self.category = category
        self.request_id = request_id


# The runtime ------------------------------------------------------------------------------------


class NotDeliveredError(TinkerActorsError):
    """The message was refused before any handler ran; repeating it is safe."""


class MailboxFullError(NotDeliveredError):
    """The mailbox was at its bound."""


class OutcomeUnknownError(TinkerActorsError):
    """A handler had begun when the actor ended or the deadline passed."""


class PoisonedError(TinkerActorsError):
    """Messages with this key ended their receiver too often; this one was not handled."""

    attempts: int
    """How many incarnations they cost."""

    def __init__(self, message: str, *, attempts: int) -> None:
        super().__init__(message)
        self.attempts = attempts


class PoisonedBatchError(PoisonedError):
    """Handling the data or the result of this operation ended in a crash too often; it is not tried again."""


class FencedError(TinkerActorsError):
    """The actor whose thread this is was given up, and what it does has no effect any more."""


class CommandRefusedError(TinkerActorsError):
    """A supervisor cannot do that to this child now."""

    answer: str
    """OTP's word for why, such as already_started, not_found or running."""

    def __init__(self, message: str, *, answer: str) -> None:
        super().__init__(message)
        self.answer = answer


class HandleClosedError(TinkerActorsError):
    """The actor behind the handle was deleted for good."""


class StartFailedError(TinkerActorsError):
    """An actor did not start; `__cause__` says why."""


class RuntimeStoppedError(TinkerActorsError):
    """The tree is down."""

    first_cause: BaseException | None
    """The failure that began it, or None after an orderly stop."""

    def __init__(self, message: str, *, first_cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.first_cause = first_cause


class WouldDeadlockError(TinkerActorsError, RuntimeError):
    """Waiting on this thread could never end."""


class ForkedProcessError(TinkerActorsError, RuntimeError):
    """A handle was used in a process forked from its owner."""


class JournalError(TinkerActorsError):
    """The run directory cannot be used or cannot be trusted."""


class SamplerLostError(TinkerActorsError):
    """The service forgot a sampler that was saved under no name."""

    step: int | None
    """Optimizer steps in its weights; None where that is not known."""

    def __init__(self, message: str, *, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class StepVoidError(TinkerActorsError):
    """Another part of this optimizer step failed, so the step was not taken."""


class RunHaltedError(TinkerActorsError):
    """Recovery gave up; the run stands where it was."""

    run: str
    """The run's name."""
    resume: str
    """What to do to go on."""

    def __init__(self, message: str, *, run: str, resume: str) -> None:
        super().__init__(message)
        self.run = run
        self.resume = resume
