"""Named moments at which a process of the trials kills itself; nothing of them is in the product.

The process that runs a program under test has a few of the product's methods wrapped, so that each passes its points:

```text
write WHAT before|after         one transaction of the journal
compact before|after            bodies that no recovery can need are forgotten
mark|unmark before|after        it is noted that a batch is being handled, or is so no more
send OPERATION                  the intent is in the journal, the bytes have not left
accept|answer OPERATION         the service's word came, and nobody wrote it down yet
hand over before|after          a result is given to its caller
program MOMENT                  between two calls of the training loop
```
"""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tinker_actors.actors.futures import Submissions
from tinker_actors.actors.session import SessionActor
from tinker_actors.actors.training import TrainingActor
from tinker_actors.actors.transport import Accepted, Answered, Send, TransportActor
from tinker_actors.journal.marks import Marks
from tinker_actors.journal.records import (
    ModelRecord,
    OperationRecord,
    PartRecord,
    Record,
    ResultRecord,
    SendRecord,
    State,
)
from tinker_actors.journal.store import Store

Method = Callable[..., Any]


class CrashPoints:
    """Counts the points that this process passes, writes each down, and dies at one of them.

    Args:
        trace: the file that gets a line for each point, whatever becomes of the process.
        point: where to die; "*" is any.
        nth: at which passage of it; 0 never.
        number: of the signal that it gets there.
    """

    def __init__(self, trace: Path, point: str, nth: int, number: int = signal.SIGKILL) -> None:
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._point = point
        self._left = nth
        self._number = number

    def reach(self, point: str) -> None:
        """Pass a point, or not."""
        os.write(self._trace, f"{point}\n".encode())
        if self._point in ("*", point):
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), self._number)

    def install(self) -> None:
        """Wrap the product's methods, in this process alone."""
        self._wrap(Store, "write", lambda _, records, **__: f"write {named(records)}", is_both=True)
        self._wrap(Store, "compact", lambda *_, **__: "compact", is_both=True)
        self._wrap(Marks, "put", lambda *_: "mark", is_both=True)
        self._wrap(Marks, "remove", lambda *_: "unmark", is_both=True)
        self._wrap(Submissions, "settle", lambda *_: "hand over", is_both=True)
        for actor in (TrainingActor, SessionActor, TransportActor):
            self._wrap(actor, "on_receive", lambda _, message: heard(message))

    def _wrap(self, owner: type, name: str, point_of: Callable[..., str], *, is_both: bool = False) -> None:
        original: Method = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            point = point_of(*arguments, **named)
            if point:
                self.reach(f"{point} before" if is_both else point)
            result = original(*arguments, **named)
            if point and is_both:
                self.reach(f"{point} after")
            return result

        setattr(owner, name, wrapped)


def named(records: Sequence[Record]) -> str:
    """What a transaction of the journal is about, whatever else goes with it."""
    by_rank = sorted(
        filter(None, map(_named, records)), key=lambda name: not name.startswith(("intent", "result"))
    )
    return by_rank[0] if by_rank else "replayed"


def _named(record: Record) -> str:
    match record:
        case OperationRecord(kind=kind, state=State.PLACED):
            return f"intent of {kind}"
        case OperationRecord(kind=kind, state=State.DONE):
            return f"result of {kind}"
        case OperationRecord(state=state):
            return str(state)
        case ModelRecord(model_id=None):
            return "model wanted"
        case ModelRecord():
            return "model known"
        case SendRecord(ended=0):
            return "numbers"
        case SendRecord() | PartRecord() | ResultRecord():
            return ""
        case _:
            return record.table


def heard(message: object) -> str:
    """The point at which an actor stands that receives a message; empty where it is none."""
    match message:
        case Send(call):
            return f"send {call.operation}"
        case Accepted(tag):
            return f"accept {_kind(tag)}"
        case Answered(tag):
            return f"answer {_kind(tag)}"
        case _:
            return ""


def _kind(tag: object) -> str:
    """What a request was for, by its tag: its own name, or the type of the tag."""
    name = getattr(tag, "name", tag)
    return name if isinstance(name, str) else type(tag).__name__.strip("_").lower()
