"""The base class of supervised actors: the hooks a subclass writes, and what it says about itself."""

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pykka import ActorRef, ThreadingActor

from tinker_actors.errors import ConfigError
from tinker_actors.supervision.context import Context
from tinker_actors.supervision.current import current_incarnation
from tinker_actors.supervision.exits import ExitReason
from tinker_actors.supervision.loop import Loop
from tinker_actors.supervision.mailbox import Mailbox
from tinker_actors.supervision.proxy import check_exposed

if TYPE_CHECKING:
    from tinker_actors.supervision.incarnation import Incarnation

__all__ = ["SupervisedActor"]

logger = logging.getLogger(__name__)

_KIT = __name__.rpartition(".")[0]


class SupervisedActor(ThreadingActor):
    """An actor that a supervisor starts, watches and restarts.

    An exception in a handler ends the incarnation, also while it serves an ask: the asker gets the error, and
    the state that the error left behind is thrown away. `on_stop` runs after a clean end, `on_failure` after a
    crash, `on_exit` after each; by then the mailbox is closed.

    Raises:
        ConfigError: at the definition of a subclass, when it has a method that belongs to the kit or to Pykka,
            or exposes what it does not have.
    """

    use_daemon_thread: ClassVar[bool] = True
    reply_errors: ClassVar[tuple[type[Exception], ...]] = ()
    """Errors that are answers: they go to the asker and the actor lives on."""
    crash_on_ask_error: ClassVar[bool] = True
    """Whether any other error, answered to the asker, also ends the actor."""
    exposed: ClassVar[tuple[str, ...]] = ()
    """What a proxy offers: methods, attributes, and methods of attributes as `attribute.method`."""

    context: Context
    """Bound after `__init__`, before `on_start`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith(_KIT + "."):
            return
        for name in vars(cls):
            is_private = name.startswith("_") and not name.startswith("__")
            if name.startswith("_kit_") or (is_private and hasattr(SupervisedActor, name)):
                raise ConfigError(
                    f"{cls.__qualname__}.{name} would replace a method of the kit; give it another name"
                )
        check_exposed(cls)
        _check_answers(cls)

    @classmethod
    def start(cls, *_args: Any, **_kwargs: Any) -> ActorRef[Self]:
        """Refuse: only supervisors start supervised actors.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{cls.__name__} is started by a supervisor; give it a ChildSpec")

    @staticmethod
    def _create_actor_inbox() -> Mailbox:
        here = current_incarnation()
        taken = None if here is None else here.take_mailbox()
        return Mailbox(1) if taken is None else taken

    def _kit_loop(self, incarnation: "Incarnation") -> Loop:
        return Loop(self, incarnation)

    def on_receive(self, message: Any) -> Any:
        """Handle a message; what it returns is the answer to an ask.

        An actor without one of its own takes no messages but those of its proxy. Others are logged by their
        type; Pykka would log what is in them.
        """
        logger.warning(
            "supervision.unexpected_message: %s got %s", self.context.path, type(message).__qualname__
        )

    def on_exit(self, reason: ExitReason) -> None:
        """Release what the incarnation holds. Runs once, however it ended, after the mailbox closed."""


def _check_answers(cls: type[SupervisedActor]) -> None:
    answers: Any = cls.reply_errors
    if not isinstance(answers, tuple) or not all(
        isinstance(kind, type) and issubclass(kind, Exception) for kind in answers
    ):
        raise ConfigError(
            f"{cls.__qualname__}.reply_errors must be a tuple of exception classes, got {answers!r}"
        )
