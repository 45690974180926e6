"""What a forked child lets go of at once: it is a copy of its parent, and holds what keeps other processes alive."""

import os
from collections.abc import Callable

__all__ = ["in_forked_children"]

_release: dict[object, Callable[[], object]] = {}


def in_forked_children(release: Callable[[], object]) -> Callable[[], None]:
    """Call `release` in every child that is forked from now on, before anything else runs there.

    It must take no lock: whoever held it is not there. Returns the way to end that.
    """
    token = object()
    _release[token] = release
    return lambda: _release.pop(token, None) and None


def _let_go() -> None:
    releases = list(_release.values())
    _release.clear()
    for release in releases:
        release()


os.register_at_fork(after_in_child=_let_go)
