"""Lists that the service gives in pages."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from tinker_actors.clients.future import APIFuture
from tinker_actors.errors import APIResponseValidationError
from tinker_actors.types.rest import Cursor

__all__ = ["Listing", "Page", "page", "page_without_cursor"]

T = TypeVar("T")


class Page(NamedTuple, Generic[T]):
    """One page, and where the next one begins: an offset, or whatever else the list goes by; None after the last."""

    entries: Sequence[T]
    following: Any


def page(entries: Sequence[T], cursor: Cursor | None, offset: int) -> Page[T]:
    """A page of a list with a cursor.

    Raises:
        APIResponseValidationError: the next page would not be behind this one.
    """
    following = None if cursor is None or not entries else cursor.next_offset
    if following is not None and following <= offset:
        raise APIResponseValidationError(
            f"the page at offset {offset} was wanted, got one that ends before {following}"
        )
    return Page(entries, following)


def page_without_cursor(entries: Sequence[T], offset: int, limit: int) -> Page[T]:
    """A page of a list that has no cursor ends it when it is short."""
    return Page(entries, offset + len(entries) if len(entries) >= limit else None)


class Listing(Generic[T]):
    """All entries of a list, asked for page by page while they are taken: by `for`, or by `async for`.

    Each iteration begins anew, at `first`. It ends with the error of the page that could not be had.
    """

    def __init__(self, ask: Callable[[Any], APIFuture[Page[T]]], first: Any = 0) -> None:
        self._ask = ask
        self._first = first

    def __iter__(self) -> Iterator[T]:
        before, place = None, self._first
        while True:
            page = self._ask(place).result()
            yield from _fresh(page, before)
            if page.following is None:
                return
            before, place = page, page.following

    async def __aiter__(self) -> AsyncIterator[T]:
        before, place = None, self._first
        while True:
            page = await self._ask(place)
            for entry in _fresh(page, before):
                yield entry
            if page.following is None:
                return
            before, place = page, page.following


def _fresh(page: Page[T], before: Page[T] | None) -> Sequence[T]:
    """The page's entries, unless the service gives the same page again and again."""
    if before is not None and page.entries and page.entries == before.entries:
        raise APIResponseValidationError("another page was wanted, got the same one again")
    return page.entries
