"""Batches that bring us down: how often handling their bytes ended in a crash, also across the death of the process.

An attempt is open only while this process sends or reads an operation's bytes, not while it waits for the service.
That is in the journal, so that the next incarnation knows what its predecessor was at when it ended.
"""

from collections.abc import Iterable

import msgspec

from tinker_actors.actors.journal import Append
from tinker_actors.actors.outbox import Outbox, Part
from tinker_actors.errors import PoisonedBatchError
from tinker_actors.journal.records import COMMITTED, EXECUTED, OperationRecord, Record, SendRecord
from tinker_actors.journal.store import RunImage
from tinker_actors.supervision import Address

__all__ = ["MOST", "Attempts", "crashed", "poisoned_error"]

MOST = 3
"""Attempts that may end in a crash; there is no further one."""


class Attempts:
    """Notes in the journal whose bytes are being handled.

    Args:
        journal: its address.
    """

    def __init__(self, journal: Address) -> None:
        self._journal = journal
        self._unwritten: dict[Part, SendRecord] = {}

    def open(self, outbox: Outbox, part: Part) -> None:
        """Its bytes are about to be handled; `write` must come before that."""
        self._set(outbox, part, 1)

    def close(self, outbox: Outbox, part: Part) -> None:
        """They were, and we are still here."""
        self._set(outbox, part, 0)

    def close_all(self, outbox: Outbox) -> None:
        """Nothing is handled any more."""
        for place in outbox.places():
            for part in range(len(outbox[place].sends)):
                self._set(outbox, (place, part), 0)

    def _set(self, outbox: Outbox, part: Part, handled: int) -> None:
        place, number = part
        if place not in outbox or not outbox[place].kind.has_data:
            return
        sends = outbox[place].sends
        if sends[number].handled != handled:
            sends[number] = self._unwritten[part] = msgspec.structs.replace(sends[number], handled=handled)

    def write(self) -> None:
        """Write what changed.

        Raises:
            JournalError: the journal cannot be written.
        """
        if self._unwritten:
            records = tuple(self._unwritten.values())
            self._unwritten.clear()
            self._journal.call(Append(records, durable=False))

    def note_crash(self, outbox: Outbox, part: Part) -> None:
        """Whoever sent it crashed, and it was not us; that counts once, however many of its requests were on their way.

        Raises:
            JournalError: the journal cannot be written.
        """
        place, number = part
        pending = outbox[place]
        if pending.sends[number].handled:
            for other in range(len(pending.sends)):
                self.close(outbox, (place, other))
            pending.record = msgspec.structs.replace(pending.record, crashes=pending.record.crashes + 1)
            closed = tuple(self._unwritten.values())
            self._unwritten.clear()
            self._journal.call(Append((pending.record, *closed), durable=False))  # else it would count twice


def crashed(image: RunImage, *, is_crash: bool) -> list[Record]:
    """What an incarnation writes of the attempts that its predecessor left open.

    Args:
        image: of the run.
        is_crash: whether the predecessor crashed, and did not only begin anew.
    """
    left_open = [send for send in image.sends if send.handled]
    places = {send.place for send in left_open}
    closed: list[Record] = [msgspec.structs.replace(send, handled=0) for send in left_open]
    counted: Iterable[OperationRecord] = (
        msgspec.structs.replace(one, crashes=one.crashes + 1)
        for one in image.operations
        if is_crash and one.place in places and one.state in COMMITTED
    )
    return [*closed, *counted]


def poisoned_error(record: OperationRecord) -> PoisonedBatchError:
    """Why an operation is not tried again."""
    advice = (
        "its result was given out, so that the run has no model without it"
        if record.state in EXECUTED
        else "it is not tried again; look at its data, and leave them out"
    )
    return PoisonedBatchError(
        f"{record.kind} at place {record.place} brought the program down {record.crashes} times while its data were "
        f"sent or its result was read: {advice}",
        attempts=record.crashes,
    )
