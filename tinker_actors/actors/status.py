"""What a service client is doing, read off what its actors publish: none is asked, so none can hold it up."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

from tinker_actors.actors.futures import Submissions
from tinker_actors.actors.liveness import Pulse
from tinker_actors.actors.requests import SAMPLES, Request
from tinker_actors.supervision import Circuit
from tinker_actors.supervision.breaker import Closed, HalfOpen, Open, mode_of
from tinker_actors.types import BreakerStatus, ClientStatus, ServiceStatus, SessionStatus

__all__ = ["Client", "Hold", "status_of"]


class Hold(msgspec.Struct, frozen=True):
    """What keeps a client from sending anything."""

    reason: str
    since: float | None = None
    """On the tree's clock; None where it is for good."""
    behind: str = ""
    """Path of the actor whose requests it hangs on, where that is another one."""


class Client(Protocol):
    """A run or a sampler, whatever incarnation serves it."""

    submissions: Submissions[Any]
    hold: Hold | None
    busy: str | None
    """What of the caller's own it waits for."""

    def close(self, error: BaseException) -> None:
        """It will never work again."""


def status_of(
    clients: Mapping[str, Client],
    requests: Iterable[Request],
    circuits: Mapping[str, Circuit],
    pulse: Pulse | None,
    now: float,
    paused_until: float = 0.0,
) -> ServiceStatus:
    """What everybody waits for.

    Args:
        clients: by the paths of their actors, in the order to list them in.
        requests: under way.
        circuits: by operation.
        pulse: of the session.
        now: the time, in seconds on the tree's clock.
        paused_until: when samples may be submitted again, on the same clock.
    """
    of_client: dict[str, list[Request]] = {}
    for one in sorted(requests, key=lambda one: one.since):
        of_client.setdefault(one.client, []).append(one)
    hangs_on = {path: (client.hold and client.hold.behind) or path for path, client in clients.items()}
    breakers = {operation: _breaker(circuit, now) for operation, circuit in circuits.items()}
    session = None
    if pulse is not None:
        age_s = now - pulse.good_at
        session = SessionStatus(session_id=pulse.session_id, health=pulse.health, last_good_beat_s=age_s)
    return ServiceStatus(
        session=session,
        clients=tuple(
            _client(path, client, of_client.get(hangs_on[path], []), breakers, now, paused_until - now)
            for path, client in clients.items()
        ),
        breakers=breakers,
    )


def _breaker(circuit: Circuit, now: float) -> BreakerStatus:
    refused = circuit.refused
    match circuit.state:
        case Open(until=until):
            return BreakerStatus(state="open", retry_in_s=max(0.0, until - now), refused=refused)
        case HalfOpen():
            return BreakerStatus(state="half_open", refused=refused)
        case Closed(outcomes=outcomes, slowness=slowness, is_forced=is_forced):
            calls, failures = outcomes.counts(now)
            slow = 0 if slowness is None else slowness.counts(now)[1]
            state = "forced_closed" if is_forced else "closed"
            return BreakerStatus(state=state, refused=refused, calls=calls, failures=failures, slow=slow)
        case state:
            return BreakerStatus(state=mode_of(state), refused=refused)


def _client(
    path: str,
    client: Client,
    requests: list[Request],
    breakers: Mapping[str, BreakerStatus],
    now: float,
    pause_s: float,
) -> ClientStatus:
    unanswered = client.submissions.count()
    oldest = requests[0] if requests else None
    waits_for, since = client.busy or "nothing", now
    if oldest is not None and unanswered:
        waits_for, since = _waits_for(oldest, breakers, now, pause_s), oldest.since
    hold = client.hold
    if hold is not None:
        waits_for = hold.reason if oldest is None else f"{hold.reason}: {waits_for}"
        since = now if hold.since is None else hold.since
    queue = (None, "") if oldest is None or oldest.queue is None else oldest.queue
    return ClientStatus(
        name=path.rpartition("/")[2],
        unanswered=unanswered,
        waits_for=waits_for,
        since_s=now - since,
        operation=None if oldest is None else oldest.operation,
        requests=len(requests),
        queue_state=queue[0],
        queue_reason=queue[1],
    )


def _waits_for(request: Request, breakers: Mapping[str, BreakerStatus], now: float, pause_s: float) -> str:
    """In words, what the answer to `request` hangs on."""
    if request.is_queued:
        if request.operation in SAMPLES and not request.is_accepted and pause_s > 0:
            return f"a shared pause after 429, for another {pause_s:.1f} s"
        return "its turn to be sent"
    breaker = breakers.get("retrieve_future" if request.is_accepted else request.operation)
    if request.repeats is not None:
        at, why = request.repeats
        return f"another try of {request.operation} in {max(0.0, at - now):.1f} s, after: {why}"
    if breaker is not None and breaker.state == "open":
        return f"the circuit of {request.operation}, open for another {breaker.retry_in_s:.1f} s"
    if breaker is not None and breaker.state == "forced_open":
        return f"the circuit of {request.operation}, which is held open"
    if request.queue is not None:
        state, reason = request.queue
        return f"its turn on the service ({state}{f': {reason}' if reason else ''})"
    if request.is_accepted:
        return f"the result of {request.operation}"
    return f"the answer to {request.operation}"
