"""Whose turn it is: pure rules, not locked.

Operations of a model go in the order of their seq_ids, samples as they come. Sessions take turns, and so do
the models of a session: a thousand samples of one session hold up nobody else's one.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from tinker_actors.local.specs import Ticket

__all__ = ["FairQueue", "Shares", "session_of"]


def session_of(queue: str) -> str:
    """The session that a model or a sampling session belongs to."""
    return queue.rpartition(":")[0].rpartition(":")[0] or queue


@dataclass(slots=True)
class _Line:
    """What waits for one model."""

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
    """Tickets that wait: of each session and of each model in it one at a time, then the next one's."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._ready: OrderedDict[str, deque[str]] = OrderedDict()
        self._samples: OrderedDict[str, OrderedDict[str, Ticket]] = OrderedDict()
        self.samples_waiting = 0

    @property
    def has_operation(self) -> bool:
        """Whether an operation's turn has come."""
        return bool(self._ready)

    def open_model(self, model_id: str, executed: int) -> None:
        """A line in strict order after `executed`; an open one stays as it is."""
        self._lines.setdefault(model_id, _Line(following=executed + 1))

    def put(self, ticket: Ticket) -> None:
        """Line a ticket up; those of a model in any order, those without a seq_id in front."""
        if ticket.kind == "sample":
            waiting = self._samples.setdefault(session_of(ticket.queue), OrderedDict())
            self.samples_waiting += ticket.request_id not in waiting
            waiting[ticket.request_id] = ticket
            return
        line = self._lines.setdefault(ticket.queue, _Line())
        was_ready = line.is_ready
        line.put(ticket)
        if line.is_ready and not was_ready:
            self._ready.setdefault(session_of(ticket.queue), deque()).append(ticket.queue)

    def take(self) -> Ticket | None:
        """The next operation, or None if all that waits waits for an earlier one."""
        if not self._ready:
            return None
        session, names = self._ready.popitem(last=False)
        name = names.popleft()
        line = self._lines[name]
        ticket = line.take()
        if line.is_ready:
            names.append(name)
        elif line.following is None:
            del self._lines[name]
        if names:
            self._ready[session] = names
        return ticket

    def take_sample(self, may: Callable[[str], bool]) -> Ticket | None:
        """The next sample of the first session that `may` have one now; that session is the last one then."""
        for session, waiting in self._samples.items():
            if may(session):
                _, ticket = waiting.popitem(last=False)
                self._samples.move_to_end(session)
                self._sample_left(session)
                return ticket
        return None

    def remove_sample(self, queue: str, request_id: str) -> Ticket | None:
        """Take a sample out before its turn; None if it does not wait."""
        session = session_of(queue)
        ticket = self._samples.get(session, OrderedDict()).pop(request_id, None)
        if ticket is not None:
            self._sample_left(session)
        return ticket

    def waits(self, queue: str, request_id: str) -> bool:
        """Whether a sample's turn has not come."""
        return request_id in self._samples.get(session_of(queue), ())

    def samples_of(self, session: str) -> int:
        """Samples of a session that wait."""
        return len(self._samples.get(session, ()))

    def close_model(self, model_id: str) -> list[Ticket]:
        """Remove a model's line; what still waited in it, in order."""
        line = self._lines.pop(model_id, _Line())
        session = session_of(model_id)
        names = self._ready.get(session, deque())
        if model_id in names:
            names.remove(model_id)
            if not names:
                del self._ready[session]
        return [line.ordered[seq_id] for seq_id in sorted(line.ordered)] + list(line.unordered)

    def _sample_left(self, session: str) -> None:
        self.samples_waiting -= 1
        if not self._samples[session]:
            del self._samples[session]


class Shares:
    """Which of several kinds of work comes next, so that those that have work get equal time.

    A kind that has none saves nothing up: it begins level with the others when it has some again.
    """

    def __init__(self, *kinds: str) -> None:
        self._used_s = dict.fromkeys(kinds, 0.0)

    def next(self, ready: Collection[str]) -> str | None:
        """The kind among `ready` that got the least time; None if there is none."""
        if not ready:
            return None
        chosen = min(ready, key=lambda kind: self._used_s[kind])
        for kind, used_s in self._used_s.items():
            if kind not in ready:
                self._used_s[kind] = max(used_s, self._used_s[chosen])
        return chosen

    def charge(self, kind: str, seconds: float) -> None:
        """A kind has had so much time."""
        self._used_s[kind] += seconds
