"""When a failed request is sent again: rules as data, the decision as a pure function."""

import random
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import msgspec

from tinker_actors.errors import APIConnectionError, APIStatusError, StreamBrokenError, TLSError

__all__ = [
    "BRIEF",
    "NEVER",
    "PATIENT",
    "RetryRule",
    "delay_after",
    "is_repeatable",
    "retry_after_s",
]

MAX_RETRY_AFTER_S = 60.0
"""Longer wishes of the service are cut to this."""


MOST_EDGE_REFUSALS = 16
"""Repetitions of what a proxy in front of the service refuses without a word; the official SDK's number."""


class RetryRule(msgspec.Struct, frozen=True, kw_only=True):
    """Which failures of a request are worth another try, and for how long."""

    statuses: frozenset[int] = frozenset()
    """These statuses; 500 stands for every 5xx."""
    connection: bool = False
    """Also when no answer came."""
    base_s: float = 0.1
    """Wait before the first repetition; doubles each time."""
    max_s: float = 10.0
    """Longest wait."""
    max_elapsed_s: float = 0.0
    """No repetition begins later than this after the first failure; before that, a request may wait for its turn."""


NEVER = RetryRule()
PATIENT = RetryRule(statuses=frozenset({408, 429, 500}), connection=True, max_elapsed_s=3600.0)
"""For what must get through: outlives an hour of outage. A 409 is never repeated."""
BRIEF = RetryRule(statuses=frozenset({408, 429, 500}), connection=True, max_elapsed_s=300.0)
"""For what a caller waits for: outlives a restart of the service, and tells of a longer outage."""


def delay_after(
    rule: RetryRule, error: Exception, attempt: int, elapsed_s: float, generator: random.Random
) -> float | None:
    """Seconds to wait before trying again, or None to give up.

    The wait is `min(max_s, base_s * 2**attempt)` times a draw from [0.75, 1), or what the service asked for
    if that is longer.

    Args:
        rule: what is worth repeating.
        error: how the last try failed.
        attempt: tries before the last one.
        elapsed_s: seconds since the first failure.
        generator: of the jitter.
    """
    if not is_repeatable(rule, error):
        return None
    if isinstance(error, APIStatusError) and error.is_of_an_edge and attempt >= MOST_EDGE_REFUSALS:
        return None
    delay_s = min(rule.max_s, rule.base_s * 2.0 ** min(attempt, 30)) * (0.75 + 0.25 * generator.random())
    wish_s = error.retry_after_s if isinstance(error, APIStatusError) else None
    delay_s = max(delay_s, wish_s or 0.0)
    return delay_s if elapsed_s + delay_s <= rule.max_elapsed_s else None


def is_repeatable(rule: RetryRule, error: Exception) -> bool:
    """Whether `rule` names this failure, or the service asks for another try.

    A 409 is repeated by nobody's wish: it says that another request has the ids of this one.
    """
    if isinstance(error, APIStatusError):
        if error.is_of_an_edge:
            return rule.connection
        if rule.statuses and error.should_retry is not None and error.status != 409:  # noqa: PLR2004
            return error.should_retry
        return error.status in rule.statuses or (error.status >= 500 and 500 in rule.statuses)  # noqa: PLR2004
    return (
        rule.connection
        and isinstance(error, APIConnectionError)
        and not isinstance(error, StreamBrokenError | TLSError)
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the service asks to wait: `retry-after-ms`, else `retry-after` in seconds or as a date.

    A date is counted from the answer's own, whatever our clock says.

    Args:
        headers: of the answer, by lower-case name.
    """
    try:
        if "retry-after-ms" in headers:
            wish_s = float(headers["retry-after-ms"]) / 1000
        elif "retry-after" in headers:
            wish_s = float(headers["retry-after"])
        else:
            return None
    except ValueError:
        try:
            start = parsedate_to_datetime(headers["date"])
            wish_s = (parsedate_to_datetime(headers["retry-after"]) - start).total_seconds()
        except (KeyError, ValueError, TypeError):
            return None
    return min(wish_s, MAX_RETRY_AFTER_S) if wish_s > 0 else None
