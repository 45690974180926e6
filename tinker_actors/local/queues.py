"""Whose turn it is: models in the order of their seq_ids, sampling sessions as they come, all in rotation."""

from collections import deque
from dataclasses import dataclass, field

from tinker_actors.local.specs import Ticket

__all__ = ["FairQueue"]


@dataclass(slots=True)
class _Line:
    """What waits for one model or sampling session."""

    following: int | None = None
    """The only seq_id that may come next; None: no order."""
    ordered: dict[int, Ticket] = field(default_factory=dict)
    unordered: deque[Ticket] = field(default_factory=deque)

    def put(self, ticket: Ticket) -> None:
        if self.following is None or ticket.seq_id is None:
            self.unordered.append(ticket)
        else:
            self.ordered[ticket.seq_id] = ticket

    @property
    def is_ready(self) -> bool:
        return bool(self.unordered) or self.following in self.ordered

    def take(self) -> Ticket:
        if self.unordered or self.following is None:
            return self.unordered.popleft()
        self.following += 1
        return self.ordered.pop(self.following - 1)


class FairQueue:
    """Tickets in lines; each line that has one ready gives one, then the next line does. Not locked."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._ready: deque[str] = deque()

    def open_model(self, model_id: str, executed: int) -> None:
        """A line in strict order after `executed`; an open one stays as it is."""
        self._lines.setdefault(model_id, _Line(following=executed + 1))

    def put(self, ticket: Ticket) -> None:
        """Line a ticket up; those of a model in any order, those without a seq_id in front."""
        line = self._lines.setdefault(ticket.queue, _Line())
        was_ready = line.is_ready
        line.put(ticket)
        if line.is_ready and not was_ready:
            self._ready.append(ticket.queue)

    def take(self) -> Ticket | None:
        """The next ticket, or None if all that waits waits for an earlier one."""
        if not self._ready:
            return None
        name = self._ready.popleft()
        line = self._lines[name]
        ticket = line.take()
        if line.is_ready:
            self._ready.append(name)
        elif line.following is None:
            del self._lines[name]
        return ticket

    def close_model(self, model_id: str) -> list[Ticket]:
        """Remove a model's line; what still waited in it, in order."""
        line = self._lines.pop(model_id, _Line())
        if model_id in self._ready:
            self._ready.remove(model_id)
        return [line.ordered[seq_id] for seq_id in sorted(line.ordered)] + list(line.unordered)
