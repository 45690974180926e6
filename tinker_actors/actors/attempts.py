"""Batches that bring us down: how often handling their bytes ended in a crash, also across the death of the process.

An attempt is open only while this process sends or reads an operation's bytes, not while it waits for the service.
Marks beside the journal tell it, so that the next incarnation knows what its predecessor was at when it ended.
"""

from collections.abc import Container

import msgspec

from tinker_actors.actors.journal import Append
from tinker_actors.actors.outbox import Outbox, Part
from tinker_actors.actors.published import JOURNAL
from tinker_actors.errors import PoisonedBatchError
from tinker_actors.journal.marks import Marks
from tinker_actors.journal.records import COMMITTED, EXECUTED, OperationRecord
from tinker_actors.journal.store import RunImage
from tinker_actors.supervision import Context

__all__ = ["MOST", "Attempts", "crashed", "poisoned_error"]

MOST = 3
"""Attempts that may end in a crash; there is no further one."""


class Attempts:
    """Marks whose bytes are being handled.

    Args:
        run: its name.
        marks: of the journal.
        context: of the actor that handles them, or has them handled.
    """

    def __init__(self, run: str, marks: Marks, context: Context) -> None:
        self._run = run
        self._marks = marks
        self._context = context
        self._journal = context.address(JOURNAL)

    def open(self, outbox: Outbox, part: Part) -> None:
        """Its bytes are about to be handled.

        Raises:
            JournalError: the mark cannot be written.
            FencedError: another incarnation may handle them by now.
        """
        if outbox[part[0]].kind.has_data:
            self._context.check_fence()
            self._marks.put(self._run, *part)

    def close(self, part: Part) -> None:
        """They were, or nobody handles them now; we are still here. Callable from any thread."""
        self._marks.remove(self._run, *part)

    def close_all(self) -> set[Part]:
        """Nothing is handled any more; what was until now."""
        return self._marks.take(self._run)

    def note_crash(self, outbox: Outbox, part: Part) -> None:
        """Whoever sent it crashed, and it was not us; that counts once, however many of its requests were on their way.

        Raises:
            JournalError: the journal cannot be written.
        """
        place = part[0]
        pending = outbox[place]
        if self._marks.is_set(self._run, *part):
            for other in range(len(pending.sends)):
                self.close((place, other))
            pending.record = msgspec.structs.replace(pending.record, crashes=pending.record.crashes + 1)
            self._journal.call(Append((pending.record,), durable=False))


def crashed(image: RunImage, left_open: Container[Part]) -> list[OperationRecord]:
    """What an incarnation writes of the attempts that its predecessor left open when it crashed.

    Args:
        image: of the run.
        left_open: requests whose bytes the predecessor handled.
    """
    places = {send.place for send in image.sends if (send.place, send.part) in left_open and not send.ended}
    return [
        msgspec.structs.replace(one, crashes=one.crashes + 1)
        for one in image.operations
        if one.place in places and one.state in COMMITTED
    ]


def poisoned_error(record: OperationRecord) -> PoisonedBatchError:
    """Why an operation is not tried again."""
    advice = (
        "its result was given out before, so that the run has no model without it"
        if record.state in EXECUTED
        else "it is not tried again; look at its data, and leave them out"
    )
    return PoisonedBatchError(
        f"{record.kind} at place {record.place} brought the program down {record.crashes} times while its data were "
        f"sent or its result was read: {advice}",
        attempts=record.crashes,
    )
