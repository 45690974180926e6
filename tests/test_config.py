"""Settings: where they come from, and what is refused."""

import random
from pathlib import Path
from typing import Any

import pytest

from tinker_actors.config import DEFAULT_BASE_URL, RecoveryPolicy, Settings
from tinker_actors.errors import ConfigError

KEY = {"TINKER_API_KEY": "tml-env"}


@pytest.mark.parametrize(
    ("argument", "environment", "url"),
    [
        (None, {}, DEFAULT_BASE_URL),
        (None, {"TINKER_BASE_URL": "http://env/"}, "http://env"),
        ("http://arg", {"TINKER_BASE_URL": "http://env"}, "http://arg"),
        (None, {"TINKER_BASE_URL": ""}, DEFAULT_BASE_URL),
        ("http://host/prefix/", {}, "http://host/prefix"),
        ("local", {}, "local"),
    ],
)
def test_an_argument_goes_before_the_environment(
    argument: str | None, environment: dict[str, str], url: str
) -> None:
    assert Settings.resolve(base_url=argument, environment=KEY | environment).base_url == url


def test_the_embedded_server_needs_no_key() -> None:
    assert Settings.resolve(base_url="local", environment={}).is_local


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "TINKER_API_KEY or TINKER_CREDENTIAL_CMD"),
        ({"api_key": "sk-123"}, "starts with tml-"),
        ({"api_key": "tml-1", "base_url": "ftp://x"}, "must be an http"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings.resolve(**arguments, environment={}, home=Path("/nowhere"))  # type: ignore[arg-type] # mixed on purpose


def test_a_key_shows_in_no_text() -> None:
    settings = Settings.resolve(base_url="local", api_key="tml-very-secret", environment={})
    assert "very-secret" not in repr(settings) + str(settings) + str(settings.credential)
    assert settings.credential.read().reveal() == "tml-very-secret"


def test_a_wrong_key_is_not_repeated_in_its_error() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.resolve(api_key="sk-very-secret", environment={})
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", 2.5),
        ("checkpoint_every_steps", -1),
        ("keep_checkpoints", 0),
        ("max_journal_bytes", 1000),
        ("backoff_s", -1.0),
        ("backoff_s", float("nan")),
        ("max_backoff_s", 1.0),
        ("max_backoff_s", float("inf")),
        ("checkpoint_every_s", 0.0),
        ("poll_interval_s", "soon"),
        ("restore_optimizer", 1),
        ("checkpoint_strategy", "best"),
        ("on_divergence", "ignore"),
        ("on_poison", "ignore"),
        ("max_skipped", -1),
        ("divergence_nats", -0.1),
        ("divergence_nats", "few"),
        ("checkpoint_strategy", None),
        ("on_recovery", "call me"),
        ("on_failure", 3),
        ("checkpoint_ttl_s", 60),
        ("checkpoint_ttl_s", 7200.0),
        ("checkpoint_ttl_s", 10**9),
    ],
)
def test_a_policy_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"RecoveryPolicy.{name} must be .*, got "):
        RecoveryPolicy(**{name: value})


@pytest.mark.parametrize(
    ("argument", "variable", "codec"),
    [(None, None, None), (None, "json", "json"), ("protobuf", "json", "protobuf"), (None, "", None)],
)
def test_the_codec_is_found_out_unless_it_is_chosen(
    argument: str | None, variable: str | None, codec: str | None
) -> None:
    environment = {} if variable is None else {"TINKER_ACTORS_CODEC": variable}
    settings = Settings.resolve(base_url="local", codec=argument, environment=environment)
    assert settings.codec == codec


def test_a_codec_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="codec must be"):
        Settings.resolve(base_url="local", codec="xml", environment={})


def test_restores_without_progress_are_further_and_further_apart() -> None:
    policy, generator = RecoveryPolicy(backoff_s=5.0, max_backoff_s=60.0), random.Random(1)
    longest = [0.0, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    for restores, most in enumerate(longest, start=1):
        draws = [policy.pause_s(restores, generator) for _ in range(200)]
        assert all(0.75 * most <= draw <= most for draw in draws)
        assert most == 0 or max(draws) > min(draws)
