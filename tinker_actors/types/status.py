"""Why one is waiting: what a service client is doing at a moment."""

from collections.abc import Mapping

import msgspec

__all__ = ["BreakerStatus", "ClientStatus", "ServiceStatus", "SessionStatus"]


class SessionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The session on the service."""

    session_id: str
    health: str
    """ok, late, at_risk or lost."""
    last_good_beat_s: float
    """Seconds since the last good beat was sent."""


class BreakerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The circuit breaker of one operation."""

    state: str
    """closed, open, half_open, forced_open, forced_closed or disabled."""
    retry_in_s: float = 0.0
    """How long it will stay open; 0 where it is not."""
    refused: int = 0
    """Calls that it ever refused."""
    calls: int = 0
    """Those that it remembers; only while it is closed."""
    failures: int = 0
    """How many of them failed."""
    slow: int = 0
    """How many were slow, those included that are still under way."""


class ClientStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One training or sampling client."""

    name: str
    """Such as "training:1"."""
    unanswered: int
    """Calls without a result."""
    waits_for: str
    """In words; "nothing" where all is answered."""
    since_s: float
    """For how long, in seconds."""
    operation: str | None = None
    """The request under way for longest."""
    requests: int = 0
    """Requests under way."""
    queue_state: str | None = None
    """Where the service says that this request waits: paused_capacity, paused_rate_limit, or unknown."""
    queue_reason: str = ""
    """The service's words for it."""


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A service client, its clients, and what they depend on."""

    session: SessionStatus | None
    """None before anything needed one."""
    clients: tuple[ClientStatus, ...]
    """In the order in which they were made."""
    breakers: Mapping[str, BreakerStatus]
    """By operation, in the order of the first calls."""
    stopped: str | None = None
    """Why the whole tree is down."""

    def __str__(self) -> str:
        """A line for the session, for each client and for each circuit that is not closed."""
        lines = [f"stopped: {self.stopped}"] if self.stopped else []
        if self.session is not None:
            lines.append(
                f"session {self.session.session_id}: {self.session.health}, "
                f"last good beat {self.session.last_good_beat_s:.0f} s ago"
            )
        lines += [
            f"{one.name}: {one.unanswered} unanswered, waits for {one.waits_for} since {one.since_s:.1f} s"
            if one.unanswered or one.waits_for != "nothing"
            else f"{one.name}: idle"
            for one in self.clients
        ]
        lines += [
            f"breaker {operation}: {one.state}, {one.refused} refused"
            + (f", tries again in {one.retry_in_s:.1f} s" if one.retry_in_s else "")
            for operation, one in self.breakers.items()
            if one.state not in ("closed", "disabled")
        ]
        return "\n".join(lines)
