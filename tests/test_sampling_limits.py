"""Settings of what holds samples back."""

import math
from typing import Any

import pytest

import tinker_actors as ta
from tinker_actors.config import SamplingLimits


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("is_enabled", 1),
        ("max_submissions", 0),
        ("max_submissions", 2.5),
        ("max_submissions", True),
        ("max_bytes", 0),
        ("max_bytes", -1),
        ("pause_s", 0),
        ("pause_s", -1.0),
        ("pause_s", math.nan),
        ("pause_s", math.inf),
        ("pause_s", "1"),
        ("large_pause_s", 0.0),
        ("large_bytes", 0),
        ("throttled_s", -1.0),
        ("throttled_submissions", 0),
        ("throttled_submissions", 401),
        ("throttled_weight", 0),
    ],
)
def test_wrong_limit_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ta.ConfigError, match=rf"^SamplingLimits\.{name} must be "):
        SamplingLimits(**{name: value})


def test_client_takes_limits_and_nothing_else() -> None:
    with pytest.raises(ta.ConfigError, match="sampling_limits is SamplingLimits, got 400"):
        ta.ServiceClient(base_url="local", sampling_limits=400)  # type: ignore[arg-type]
