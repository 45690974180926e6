"""What one model is being sent: operations in order, the requests they consist of, the ids those have.

A data structure without I/O; the training actor owns it.
"""

from collections import deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from tinker_actors.api.training import SaveContent
from tinker_actors.errors import TinkerActorsError
from tinker_actors.journal.records import (
    EXECUTED,
    Kind,
    ModelRecord,
    OperationRecord,
    ResultRecord,
    SendRecord,
)
from tinker_actors.wire.calls import Answer

__all__ = ["Outbox", "Part", "Pending"]

Part = tuple[int, int]
"""Place of the operation and number of the request in it."""


@dataclass(slots=True)
class Pending:
    """An operation without a result from this model."""

    record: OperationRecord
    contents: list[bytes]
    """Bodies without ids, one per request."""
    recorded: list[ResultRecord]
    """The results from an earlier model without their bodies, one per request; empty when there were none."""
    sends: list[SendRecord]
    """One per request."""
    answers: list[Answer | None] = field(default_factory=list)
    """One per request, None before it came."""
    lost: dict[int, TinkerActorsError] = field(default_factory=dict)
    """Requests that were executed and whose answers are gone, by number, with what the service said."""
    kind: Kind = field(init=False)
    """What it does."""

    def __post_init__(self) -> None:
        self.answers = [None] * len(self.contents)
        self.kind = Kind(self.record.kind)

    @property
    def is_named(self) -> bool:
        """Whether it saves under a name, which somebody may have taken before."""
        if self.kind not in (Kind.SAVE_WEIGHTS, Kind.SAVE_FOR_SAMPLER):
            return False
        return msgspec.json.decode(self.contents[0], type=SaveContent).name is not None

    @property
    def is_complete(self) -> bool:
        """Whether every answer is there."""
        return all(answer is not None or part in self.lost for part, answer in enumerate(self.answers))


class Outbox:
    """Operations on their way to one model.

    Requests are posted one after another in order; an id is used up only by a request that the service accepted.
    What may have been accepted keeps its id whatever happens: under another the service would do it twice.

    In parallel, all requests of one forward_backward but its first go out together, and the first when the service
    has them: until then it begins none of them, so that nothing is computed where one is refused.

    Args:
        model: with its `model_id`.
        next_seq_id: the first id never used on it.
        parallel: whether the service takes ids out of order.
    """

    def __init__(self, model: ModelRecord, next_seq_id: int, *, parallel: bool = False) -> None:
        self.model = model
        self._posting: dict[Part, int] = {}
        """Requests whose acceptance is awaited, with their ids."""
        self.failing: dict[int, TinkerActorsError] = {}
        """By place, why an operation fails, until it is known which of its requests the service has."""
        self._parallel = parallel
        self._next_seq_id = next_seq_id
        self._pending: dict[int, Pending] = {}
        self._queue: deque[Part] = deque()
        self._touched: set[Part] = set()
        """Requests that were posted, also those that wait to be posted again."""
        self._refused: set[Part] = set()
        """Requests that the service did not take, of operations that are still here."""
        self._refused_id = 0
        """The id that a refused request gave up last; services may count it as used."""
        self.is_doubted = False
        """Whether the latest request that the service took lost its result: it must show that it takes another."""

    @property
    def model_id(self) -> str:
        """The service's id of the model."""
        assert self.model.model_id is not None  # noqa: S101 - an outbox is made when it is known
        return self.model.model_id

    def __bool__(self) -> bool:
        """Whether anything is pending."""
        return bool(self._pending)

    def __contains__(self, place: int) -> bool:
        return place in self._pending

    def __getitem__(self, place: int) -> Pending:
        return self._pending[place]

    def places(self) -> list[int]:
        """Of all pending operations, in order."""
        return list(self._pending)

    def number(self, place: int, parts: int, offset: int = 0) -> list[SendRecord]:
        """Sends for `parts` requests of a new operation, `offset` requests behind those already queued."""
        first = self._next_seq_id + offset
        return [
            SendRecord(
                run=self.model.run,
                generation=self.model.generation,
                place=place,
                part=part,
                seq_id=first + part,
            )
            for part in range(parts)
        ]

    def put(self, pending: Pending) -> None:
        """Queue an operation; what `number` gave it is then in the journal."""
        place = pending.record.place
        self._pending[place] = pending
        self._queue.extend((place, part) for part in range(len(pending.contents)))
        self._next_seq_id = max(self._next_seq_id, pending.sends[-1].seq_id + 1)

    def post(self) -> Part | None:
        """The next request to post, if one may be."""
        part = self._next()
        if part is not None:
            self._queue.remove(part)
            self._touched.add(part)
            self._posting[part] = self._pending[part[0]].sends[part[1]].seq_id
        return part

    def _next(self) -> Part | None:
        if not self._queue:
            return None
        first = self._queue[0]
        overtaking = self._overtaking(first)
        if overtaking is None:
            return None if self._posting else first
        return overtaking if all(place == first[0] for place, _ in self._posting) else None

    def _overtaking(self, first: Part) -> Part | None:
        """The request that goes before the first one of its operation."""
        place, part = first
        if not self._parallel or part != 0 or len(self._queue) == 1 or self._queue[1][0] != place:
            return None
        pending = self._pending[place]
        # Whether the service will take that id is not known: none may wait there behind it.
        is_in_doubt = pending.sends[0].seq_id == self._refused_id
        return None if is_in_doubt or pending.kind is not Kind.FORWARD_BACKWARD else self._queue[1]

    @property
    def is_replaying(self) -> bool:
        """Whether anything that had its result from an earlier model is still to be repeated."""
        return any(pending.record.state in EXECUTED for pending in self._pending.values())

    def is_posting(self, place: int) -> bool:
        """Whether the acceptance of a request of an operation is awaited."""
        return any(one == place for one, _ in self._posting)

    def accepted(self, part: Part) -> None:
        """A request was accepted."""
        self._posting.pop(part, None)
        self.is_doubted = False

    def refused(self, part: Part) -> None:
        """A request was refused: the service does not have it."""
        if self._posting.pop(part, None) is not None:
            self._touched.discard(part)
            self._refused.add(part)

    def post_again(self, part: Part) -> None:
        """Whether a request was accepted is not known: it takes its turn again, with the id it has."""
        self._posting.pop(part, None)
        self._queue = deque(sorted((part, *self._queue)))

    def is_untouched(self, place: int) -> bool:
        """Whether the service can have no request of an operation."""
        return not any(part in self._touched for part in self._parts_of(place))

    def lose(self, part: Part, error: TinkerActorsError) -> None:
        """A request was executed, and its answer is gone."""
        self._pending[part[0]].lost[part[1]] = error
        later = (other for place in self._pending for other in self._parts_of(place) if other > part)
        self.is_doubted = not any(one in self._touched and one not in self._posting for one in later)

    def _parts_of(self, place: int) -> Iterator[Part]:
        return ((place, part) for part in range(len(self._pending[place].contents)))

    def finished(self) -> Iterator[Pending]:
        """Complete operations at the head of the order; results count only in order."""
        for pending in self._pending.values():
            if not pending.is_complete:
                return
            yield pending

    def forgive(self, acknowledged: Container[int]) -> list[OperationRecord]:
        """Something was acknowledged: whatever brought us down, no other operation did so three times in a row.

        Returns:
            What is to be written of that.
        """
        forgiven = []
        for place, pending in self._pending.items():
            if pending.record.crashes and place not in acknowledged:
                pending.record = msgspec.structs.replace(pending.record, crashes=0)
                forgiven.append(pending.record)
        return forgiven

    def remove(self, places: Iterable[int]) -> list[SendRecord]:
        """Forget operations; what is to be written of the ids that this frees.

        Requests that were refused or not posted yet give up their ids (0 stands for none), and those behind move up.
        Ids of requests that may have been accepted are used up.
        """
        gone = set(places)
        given_up = [part for part in self._queue if part[0] in gone and part not in self._touched]
        refused = sorted(part for part in self._refused if part[0] in gone)
        if refused:
            place, part = refused[0]
            self._refused_id = self._pending[place].sends[part].seq_id
            self._refused.difference_update(refused)
            given_up.extend(refused)
        freed = [self._pending[place].sends[part] for place, part in given_up]
        self._queue = deque(part for part in self._queue if part[0] not in gone)
        self._touched = {part for part in self._touched if part[0] not in gone}
        self._posting = {part: seq_id for part, seq_id in self._posting.items() if part[0] not in gone}
        for place in gone:
            self._pending.pop(place, None)
        moved = self._renumber(min(send.seq_id for send in freed)) if freed else []
        return [*(msgspec.structs.replace(send, seq_id=0) for send in freed), *moved]

    def has_the_id_of_a_refused_one(self, part: Part) -> bool:
        """Whether the id of the request being posted was given up by one that the service refused."""
        return self._posting.get(part) == self._refused_id

    def skip_id(self, part: Part) -> list[SendRecord]:
        """The service counts that id as used: the request takes its turn again with the next one.

        Returns:
            What is to be written before anything is posted.
        """
        seq_id, self._refused_id = self._refused_id, 0
        self._touched.discard(part)
        self.post_again(part)
        return self._renumber(seq_id + 1, upwards=True)

    def _renumber(self, seq_id: int, *, upwards: bool = False) -> list[SendRecord]:
        moved = []
        for place, part in self._queue:
            sends = self._pending[place].sends
            if upwards and (place, part) in self._touched:
                continue
            if (sends[part].seq_id < seq_id) if upwards else (sends[part].seq_id > seq_id):
                sends[part] = msgspec.structs.replace(sends[part], seq_id=seq_id)
                moved.append(sends[part])
                seq_id += 1
        self._next_seq_id = seq_id
        return moved
