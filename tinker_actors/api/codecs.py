"""Both forms of a training request behind one seam: protobuf for servers of today, JSON for those before.

A request is made, journaled and compared in protobuf, whatever the server reads: its content has one form. Which
form travels is in the server's capability record, which the first training request fills in.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import msgspec

from tinker_actors.api.futures import RoundTrips
from tinker_actors.errors import APIStatusError
from tinker_actors.wire.calls import Answer, Call

__all__ = ["Capabilities", "Codec", "in_a_known_codec"]


class Codec(StrEnum):
    """A form of training requests and of results."""

    PROTOBUF = "protobuf"
    """The official SDK's from 0.25 on."""
    JSON = "json"
    """That of older servers."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a server beside its flags."""

    codec: Codec | None = None
    """What training requests come in; None until one was accepted."""
    has_flags: bool = True
    """Whether it answers to client/config, as every server of protobuf's time does."""


def in_a_known_codec(
    call: Call[Any],
    known: Callable[[], Capabilities],
    note: Callable[[Codec], None],
    submit: Callable[[Call[Any]], RoundTrips[Answer]],
) -> RoundTrips[Answer]:
    """Submit `call` in the form that the server reads, and find out which it is where that is not known.

    A server that reads no protobuf says 415, or, before it had flags, 400 or 422: then JSON is tried under the same
    ids, for what was refused was not accepted.

    Args:
        call: the request; only one with a JSON form can take it.
        known: the server's capability record.
        note: called with what the server reads, once that is found out.
        submit: sends a call, by its retry rule.

    Raises:
        TinkerActorsError: as from `submit`, of the form that was tried last.
    """
    if call.in_json is None or known().codec is Codec.PROTOBUF:
        return (yield from submit(call))
    if known().codec is Codec.JSON:
        return (yield from submit(call.in_json()))
    try:
        answer = yield from submit(call)
    except APIStatusError as error:
        if not _may_read_no_protobuf(error, known()):
            raise
        answer = yield from submit(call.in_json())
        note(Codec.JSON)
        return answer
    note(Codec.PROTOBUF)
    return answer


def _may_read_no_protobuf(error: APIStatusError, known: Capabilities) -> bool:
    return error.status == 415 or (not known.has_flags and error.status in (400, 422))  # noqa: PLR2004
