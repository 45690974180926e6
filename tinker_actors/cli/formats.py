"""How sizes, times and states read in a table."""

from datetime import UTC, datetime, timedelta

__all__ = ["as_date", "expiry", "moment", "size", "word"]

_UNITS = ("B", "KB", "MB", "GB", "TB")
_STEP = 1024
_DAY = timedelta(days=1)
_SPANS = (
    (timedelta(minutes=1), timedelta(hours=1), "minute"),
    (timedelta(hours=1), _DAY, "hour"),
    (_DAY, 7 * _DAY, "day"),
    (7 * _DAY, 30 * _DAY, "week"),
)
"""One such, up to what, and its name."""


def word(value: object) -> str:
    """A value as a word; a dash where there is none.

    >>> word(True), word(False), word(None), word(8)
    ('yes', 'no', '-', '8')
    """
    if value is None:
        return "-"
    return str(value) if not isinstance(value, bool) else "yes" if value else "no"


def size(count: int | None) -> str:
    """Bytes, with one decimal from a kilobyte of 1,024 on; a dash where nobody knows.

    >>> size(512), size(1536), size(5 * 2**40), size(None)
    ('512 B', '1.5 KB', '5.0 TB', '-')
    """
    if count is None:
        return "-"
    if count < _STEP:
        return f"{count} B"
    value, unit = float(count), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{value:.1f} {_UNITS[unit]}"


def moment(time: datetime | str | None, now: datetime) -> str:
    """How far `time` is from `now`; its date where that is more than thirty days.

    >>> noon = datetime(2026, 8, 1, 12, tzinfo=UTC)
    >>> moment(noon - timedelta(hours=3), noon), moment(noon + timedelta(days=15), noon)
    ('3 hours ago', 'in 2 weeks')
    >>> moment(noon, noon), moment(noon - timedelta(days=40), noon)
    ('just now', '2026-06-22')
    """
    if not isinstance(time, datetime):
        return time or "-"
    gap = abs(now - time)
    for one, limit, name in _SPANS:
        if one <= gap < limit:
            count = gap // one
            words = f"{count} {name}{'' if count == 1 else 's'}"
            return f"in {words}" if time > now else f"{words} ago"
    return "just now" if gap < _SPANS[0][0] else time.astimezone(UTC).date().isoformat()


def expiry(time: datetime | str | None, now: datetime) -> str:
    """When something will be deleted."""
    return "Never" if time is None else moment(time, now)


def as_date(text: str) -> datetime:
    """A day or a time in ISO 8601; UTC where it does not say.

    Raises:
        ValueError: it is none.
    """
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
