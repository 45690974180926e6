"""One poll for all requests of a sampler: which of them ended. Their results are then retrieved one by one."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from tinker_actors.wire.calls import Call, Pool, json_body, read_json

__all__ = ["Completion", "Completions", "retrieve_futures"]

POLL_TIMEOUT_S = 45.0
"""The service holds a poll for about 30 s; the official SDK gives it 45."""
QUICK_TIMEOUT_S = 5.0
"""Of a poll that only acknowledges."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one request."""

    request_id: str
    """The service's id of it."""
    state: Literal["finished", "failed"]
    """Whether there is a result."""
    response_payload_uncompressed_size: int | None = None
    """Bytes of the result, where the service says so."""


class Completions(msgspec.Struct, frozen=True, kw_only=True):
    """What ended since the cursor before."""

    completions: list[Completion]
    """In the order of their ends."""
    cursor: int
    """For the next poll, which acknowledges all of these."""


def retrieve_futures(
    sampling_session_id: str, clone: int, cursor: int, retrieved: Sequence[str] = (), *, is_held: bool = True
) -> Call[Completions]:
    """Which requests of one client of a sampler ended.

    Args:
        sampling_session_id: of the sampler.
        clone: number of the client: the billions in the `seq_id`s of its requests.
        cursor: of the answer before; 0 at first.
        retrieved: requests whose results are not needed any more; repeated until a poll with them succeeds.
        is_held: whether the service waits until something ended; else it answers at once.
    """
    request = {
        "target": {
            "type": "sampling_session",
            "sampling_session_id": sampling_session_id,
            "cloned_sampler_id": clone,
        },
        "prev_cursor": cursor,
        "retrieved_request_ids": list(retrieved),
    }
    return Call(
        operation="retrieve_futures",
        path="retrieve_futures",
        body=json_body(request if is_held else {**request, "timeout": 0.0}),
        pool=Pool.FUTURE,
        timeout_s=POLL_TIMEOUT_S if is_held else QUICK_TIMEOUT_S,
        read=read_json(Completions),
    )
