"""Settings: where they come from, and what is refused."""

from pathlib import Path

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


@pytest.mark.parametrize("wrong", [{"max_attempts": 0}, {"checkpoint_every_steps": -1}])
def test_a_policy_out_of_range_is_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RecoveryPolicy(**wrong)


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
