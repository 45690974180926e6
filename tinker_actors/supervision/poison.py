"""Messages that bring their receiver down again and again: counted by the key their sender gave them."""

from collections import OrderedDict
from collections.abc import Hashable

__all__ = ["Quarantine"]

_MAX_KEYS = 10_000


class Quarantine:
    """Attempts by key, for one child over all its incarnations; used by the child's own thread only.

    An attempt counts from before its handler begins, and is forgotten when the handler returns, so that what is
    left are attempts that took the incarnation with them.
    """

    def __init__(self) -> None:
        self._attempts: OrderedDict[Hashable, int] = OrderedDict()

    def attempts(self, key: Hashable) -> int:
        """How often a handler of `key` has ended its incarnation since it last returned."""
        return self._attempts.get(key, 0)

    def begin(self, key: Hashable) -> None:
        """Count an attempt."""
        self._attempts[key] = self._attempts.pop(key, 0) + 1
        if len(self._attempts) > _MAX_KEYS:
            self._attempts.popitem(last=False)

    def returned(self, key: Hashable) -> None:
        """Forget the attempts of `key`: it did no harm."""
        self._attempts.pop(key, None)
