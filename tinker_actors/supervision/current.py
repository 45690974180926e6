"""Which incarnation this thread runs: for self-asks, and for handing a newborn its mailbox."""

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinker_actors.supervision.incarnation import Incarnation

__all__ = ["current_incarnation", "enter", "leave"]


class _Current(threading.local):
    incarnation: "Incarnation | None" = None


_current = _Current()


def current_incarnation() -> "Incarnation | None":
    """The incarnation whose thread this is, or None outside of actors."""
    return _current.incarnation


def enter(incarnation: "Incarnation") -> None:
    """Say that this thread runs `incarnation`."""
    _current.incarnation = incarnation


def leave() -> None:
    """Say that this thread runs no actor any more."""
    _current.incarnation = None
