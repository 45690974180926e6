"""How sizes and times read."""

import doctest
from datetime import UTC, datetime, timedelta

import pytest

from tinker_actors.cli import formats

NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)


def test_examples_give_what_they_show() -> None:
    assert doctest.testmod(formats).failed == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KB"),
        (2**20, "1.0 MB"),
        (3 * 2**29, "1.5 GB"),
        (2**60, "1048576.0 TB"),
    ],
)
def test_sizes_go_from_bytes_to_terabytes(count: int, text: str) -> None:
    assert formats.size(count) == text


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=1), "1 minute ago"),
        (timedelta(minutes=59), "59 minutes ago"),
        (timedelta(hours=23), "23 hours ago"),
        (timedelta(days=6), "6 days ago"),
        (timedelta(days=7), "1 week ago"),
        (timedelta(days=29), "4 weeks ago"),
        (timedelta(days=30), "2026-07-02"),
        (timedelta(days=-2), "in 2 days"),
    ],
)
def test_times_are_told_by_their_distance(ago: timedelta, text: str) -> None:
    assert formats.moment(NOON - ago, NOON) == text


def test_what_is_no_time_is_told_as_it_came() -> None:
    assert (formats.moment("soon", NOON), formats.moment(None, NOON), formats.expiry(None, NOON)) == (
        "soon",
        "-",
        "Never",
    )


def test_a_day_without_a_zone_is_one_of_utc() -> None:
    assert formats.as_date("2026-08-01") == NOON - timedelta(hours=12)
    assert formats.as_date("2026-08-01T14:00:00+02:00") == NOON
