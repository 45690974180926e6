"""Credentials: which one is used, and what is refused before anything is sent."""

import base64
import copy
import json
import pickle
import time
from pathlib import Path

import msgspec
import pytest

from tinker_actors.config import Settings
from tinker_actors.config.credentials import Credential, Secret, check_key, claims_of, stored_key
from tinker_actors.errors import ConfigError


def jwt(**claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJub25lIn0.{payload}.signature"


def store(home: Path, document: object) -> None:
    (home / ".tinker").mkdir()
    (home / ".tinker" / "credentials.json").write_text(json.dumps(document))


STORED = {
    "version": 1,
    "default": "b",
    "keys": {"a": {"key": "tml-a"}, "b": {"type": "manual", "key": "tml-b"}},
}


@pytest.mark.parametrize(
    ("argument", "environment", "key"),
    [
        ("tml-argument", {"TINKER_API_KEY": "tml-env"}, "tml-argument"),
        (None, {"TINKER_API_KEY": "tml-env", "TINKER_CREDENTIAL_CMD": "echo tml-cmd"}, "tml-env"),
        (None, {"TINKER_API_KEY": "", "TINKER_CREDENTIAL_CMD": "echo tml-cmd"}, "tml-cmd"),
        ("sk-wrong", {"TINKER_CREDENTIAL_CMD": "echo ' tml-cmd '"}, "tml-cmd"),
        (None, {}, "tml-b"),
    ],
    ids=["argument", "variable", "command", "command for a key that is none", "stored"],
)
def test_the_first_credential_of_the_order_is_used(
    argument: str | None, environment: dict[str, str], key: str, tmp_path: Path
) -> None:
    store(tmp_path, STORED)
    settings = Settings.resolve(api_key=argument, environment=environment, home=tmp_path)
    assert settings.credential.read().reveal() == key


def test_a_command_is_run_for_each_key(tmp_path: Path) -> None:
    counter = tmp_path / "count"
    credential = Credential(command=Secret(f"echo x >> {counter}; echo tml-$(wc -l < {counter})"))
    assert [credential.read().reveal() for _ in range(2)] == ["tml-1", "tml-2"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exit 3", "exit with 0, got 3"),
        ("true", "got nothing"),
        ("echo sk-secret", "another prefix"),
        ("printf 'tml-a\\ntml-b'", "one word"),
    ],
)
def test_a_command_that_gives_no_key_is_refused_without_its_output(command: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Credential(command=Secret(command)).read()
    assert "secret" not in str(caught.value)


def test_an_expired_jwt_is_refused_with_its_age() -> None:
    with pytest.raises(ConfigError, match="expired 60 s ago"):
        check_key(jwt(exp=1000), now=1060.0)


def test_a_jwt_that_is_good_for_a_while_is_used(tmp_path: Path) -> None:
    key = jwt(exp=time.time() + 100)
    assert Settings.resolve(api_key=key, environment={}, home=tmp_path).credential.read().reveal() == key


@pytest.mark.parametrize("token", ["eyJ", "eyJ.x", "eyJ.%%%.y", "eyJ.e30.y", "tml-1.e30.y", "eyJ.WzFd.y"])
def test_a_token_that_says_nothing_has_no_claims(token: str) -> None:
    assert claims_of(token) == {}


def test_claims_are_read_without_their_padding() -> None:
    assert claims_of(jwt(sub="a"))["sub"] == "a"
    assert claims_of(jwt(sub="ab"))["sub"] == "ab"


def test_without_a_stored_file_there_is_no_stored_key(tmp_path: Path) -> None:
    assert stored_key(tmp_path) is None


def test_a_stored_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".tinker").mkdir()
    (tmp_path / ".tinker" / "credentials.json").write_text("{")
    with pytest.raises(ConfigError, match="log in anew"):
        stored_key(tmp_path)


def test_a_default_that_is_not_among_the_stored_keys_is_none(tmp_path: Path) -> None:
    store(tmp_path, {"default": "c", "keys": {}})
    assert stored_key(tmp_path) is None


def test_no_secret_shows_in_settings(tmp_path: Path) -> None:
    settings = Settings.resolve(
        api_key="tml-hidden1",
        proxy="http://user:hidden2@proxy",
        default_headers={"authorization": "hidden3"},
        environment={"CLOUDFLARE_ACCESS_CLIENT_SECRET": "hidden4"},
        home=tmp_path,
    )
    assert "hidden" not in repr(settings) + str(settings)


def test_a_secret_leaves_by_no_serializer(tmp_path: Path) -> None:
    settings = Settings.resolve(api_key="tml-hidden", environment={}, home=tmp_path)
    for write in (pickle.dumps, copy.deepcopy, msgspec.json.encode, msgspec.to_builtins):
        with pytest.raises(TypeError):
            write(settings)


def test_a_key_beside_a_command_is_used_unless_the_command_is_preferred(tmp_path: Path) -> None:
    environment = {"TINKER_API_KEY": "tml-env", "TINKER_CREDENTIAL_CMD": "echo tml-cmd"}
    credential = Settings.resolve(environment=environment, home=tmp_path).credential
    assert credential.read().reveal() == "tml-env"
    assert credential.read(prefers_command=True).reveal() == "tml-cmd"


def test_a_password_in_the_address_is_refused_unseen(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="default_headers") as caught:
        Settings.resolve(base_url="https://user:hidden@host", api_key="tml-1", environment={}, home=tmp_path)
    assert "hidden" not in str(caught.value)


def test_headers_come_from_cloudflare_and_the_caller_in_this_order(tmp_path: Path) -> None:
    settings = Settings.resolve(
        api_key="tml-1",
        default_headers={"CF-Access-Client-Id": "mine", "X-Number": 3, "X-None": None},
        environment={"CLOUDFLARE_ACCESS_CLIENT_ID": "id", "CLOUDFLARE_ACCESS_CLIENT_SECRET": "secret"},
        home=tmp_path,
    )
    assert {name: value.reveal() for name, value in settings.headers} == {
        "cf-access-client-id": "mine",
        "cf-access-client-secret": "secret",
        "x-number": "3",
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"default_headers": {"X-API-Key": "tml-1"}}, "goes into api_key"),
        ({"default_headers": {"": "x"}}, "not blank"),
        ({"default_headers": {"a": object()}}, "text or a number"),
        ({"default_headers": {"a": "x\r\ny: z"}}, "printable ASCII"),
        ({"default_query": {"a": [1]}}, "text or a number"),
        ({"proxy": "socks://x"}, "proxy must be"),
    ],
)
def test_what_cannot_be_sent_is_refused(wrong: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings.resolve(api_key="tml-1", environment={}, home=tmp_path, **wrong)  # type: ignore[arg-type] # on purpose


def test_tags_come_from_the_environment(tmp_path: Path) -> None:
    settings = Settings.resolve(base_url="local", environment={"TINKER_TAGS": "a, b,,"}, home=tmp_path)
    assert settings.tags == ("a", "b")
