"""Who is answered: any key, one key, or tokens in place of keys; and where the server may listen."""

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

import tinker_actors as ta
from tinker_actors.local.access import Access
from tinker_actors.local.options import Options, parse_options
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.tokens import Signer, TokenError

NOW = 1000.0
JWT_LIFE_S = 60.0
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is tested is who may ask then


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def signer(clock: Clock) -> Signer:
    return Signer(b"s" * 32, clock)


def exchanging(signer: Signer) -> Access:
    return Access(Options(data=Path("x"), jwt=True, jwt_life_s=JWT_LIFE_S), signer)


# Keys


@pytest.mark.parametrize("key", ["tml-anything", "eyJ.anything"])
def test_whatever_looks_like_a_key_is_one_unless_told_otherwise(signer: Signer, key: str) -> None:
    Access(Options(data=Path("x")), signer).check(key)


@pytest.mark.parametrize("key", ["", "sk-other", "tml", "Tml-a"])
def test_what_no_client_sends_is_no_key(signer: Signer, key: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        Access(Options(data=Path("x")), signer).check(key)
    assert refusal.value.status == 401


@pytest.mark.parametrize("key", ["tml-other", "tml-secre", "tml-secretx", "tml-ä", "eyJ.x"])
def test_another_key_than_the_one_wanted_is_refused_and_neither_is_told(signer: Signer, key: str) -> None:
    access = Access(Options(data=Path("x"), api_key="tml-secret"), signer)
    access.check("tml-secret")
    with pytest.raises(RefusedError) as refusal:
        access.check(key)
    assert refusal.value.status == 401
    assert "secret" not in refusal.value.detail
    assert key not in refusal.value.detail


@pytest.mark.parametrize("key", ["sk-other", "eyJ.x", "tml-a b", "tml-\n", "tml-ä"])
def test_a_key_that_clients_cannot_send_is_refused_at_the_start(key: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(["--data", "x", "--api-key", key])
    assert ended.value.code == 2
    assert "starts with tml-" in capsys.readouterr().err


def test_a_key_may_stand_in_a_file_where_no_other_user_sees_it(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "key").write_text("tml-mine\n")
    (tmp_path / "wrong").write_text("hidden")
    assert parse_options(["--data", "x", "--api-key", f"@{tmp_path / 'key'}"]).api_key == "tml-mine"
    for name, wanted in (("wrong", "starts with tml-"), ("none", "must be a file that holds a key")):
        with pytest.raises(SystemExit):
            parse_options(["--data", "x", "--api-key", f"@{tmp_path / name}"])
        errors = capsys.readouterr().err
        assert wanted in " ".join(errors.split())
        assert "hidden" not in errors


def test_the_key_shows_in_no_repr() -> None:
    assert "hidden" not in repr(Options(data=Path("x"), api_key="tml-hidden"))


# Tokens


def test_a_token_is_accepted_until_it_expires_and_then_to_be_exchanged_again(
    signer: Signer, clock: Clock
) -> None:
    access = exchanging(signer)
    token = access.token()
    access.check(token)
    clock.now += JWT_LIFE_S
    with pytest.raises(RefusedError, match="expired") as refusal:
        access.check(token)
    assert refusal.value.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}


@pytest.mark.parametrize("place", [5, 40, -3])
def test_a_token_that_was_altered_is_worth_nothing(signer: Signer, place: int) -> None:
    token = exchanging(signer).token()
    changed = "A" if token[place] != "A" else "B"
    with pytest.raises(TokenError):
        signer.read("api", token[:place] + changed + (token[place + 1 :] if place != -1 else ""))


def test_a_token_of_another_server_or_for_another_use_is_worth_nothing(signer: Signer, clock: Clock) -> None:
    for token in (Signer(b"t" * 32, clock).sign("api", {}, 60), signer.sign("file", {}, 60), "eyJ.e30.x", ""):
        with pytest.raises(TokenError):
            signer.read("api", token)


def test_a_token_without_a_signature_is_worth_nothing(signer: Signer) -> None:
    import jwt

    unsigned = jwt.encode({"use": "api", "exp": NOW + 60}, None, "none")
    with pytest.raises(TokenError):
        signer.read("api", unsigned)


def test_a_key_is_no_token(signer: Signer) -> None:
    with pytest.raises(RefusedError, match="token of auth/token"):
        exchanging(signer).check("tml-key")


# Over the wire


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, start_shared: Any) -> Any:
    """A server that wants one key, exchanged."""
    return start_shared(tmp_path_factory.mktemp("guarded"), "--api-key", "tml-mine", "--jwt")


def get(process: Any, path: str, key: str) -> httpx.Response:
    return httpx.get(f"{process.url}/{path}", headers={"X-API-Key": key})


def post(process: Any, path: str, key: str) -> httpx.Response:
    return httpx.post(f"{process.url}/{path}", headers={"X-API-Key": key}, json={})


def test_flags_are_told_to_the_key_and_everything_else_to_its_token(guarded: Any) -> None:
    assert post(guarded, "client/config", "tml-mine").json() == {"pjwt_auth_enabled": True}
    assert get(guarded, "get_server_capabilities", "tml-mine").status_code == 401
    token = post(guarded, "auth/token", "tml-mine").json()["jwt"]
    assert get(guarded, "healthz", token).status_code == 200
    assert post(guarded, "client/dynamic_config", token).json() == {"sample_cancel_enabled": True}


@pytest.mark.parametrize("path", ["client/config", "auth/token"])
def test_another_key_gets_no_flags_and_no_token(guarded: Any, path: str) -> None:
    response = post(guarded, path, "tml-other")
    assert response.status_code == 401
    assert "www-authenticate" not in response.headers


def test_a_refused_token_is_told_so_by_a_header(guarded: Any) -> None:
    response = get(guarded, "healthz", "eyJ.e30.x")
    assert response.status_code == 401
    assert 'error="invalid_token"' in response.headers["www-authenticate"]


def test_our_client_exchanges_its_key_and_knows_whose_it_is(guarded: Any) -> None:
    with ta.RestClient(base_url=guarded.url.removesuffix("/api/v1"), api_key="tml-mine") as client:
        assert client.get_server_capabilities().result(30).supported_models
        token = post(guarded, "auth/token", "tml-mine").json()["jwt"]
    with ta.RestClient(base_url=guarded.url.removesuffix("/api/v1"), api_key=token) as client:
        who = client.whoami().result(30)
    assert (who.user_urn, who.org_urn, who.email) == ("local", "tml:organization:local", None)


def test_a_server_that_takes_keys_as_they_are_exchanges_none(process: Any) -> None:
    assert post(process, "auth/token", "tml-x").status_code == 404


def test_the_record_of_a_key_does_not_repeat_it_and_it_cannot_be_deleted(process: Any, caller: Any) -> None:
    record = caller.http.get("auth/apikey/me").json()
    assert isinstance(record["key_id"], int)
    assert record["details"].keys() == {"org_details", "user_details"}
    assert "tml-test" not in str(record)
    assert caller.http.delete("auth/apikey/me").status_code == 403
    assert get(process, "auth/apikey/me", "sk-x").status_code == 401


# Where it listens


@pytest.mark.parametrize("host", [EVERYWHERE, "192.0.2.1"])
def test_beyond_this_machine_a_key_is_insisted_on(refused: Any, tmp_path: Path, host: str) -> None:
    assert "--api-key" in refused(tmp_path / "s", "--host", host)


def test_with_a_key_every_address_is_listened_on(start: Any, tmp_path: Path) -> None:
    process = start(tmp_path / "s", "--host", EVERYWHERE, "--api-key", "tml-mine")
    url = f"http://127.0.0.1:{process.listening['port']}/api/v1/healthz"
    assert httpx.get(url, headers={"X-API-Key": "tml-mine"}).json() == {"status": "ok"}
    assert httpx.get(url, headers={"X-API-Key": "tml-other"}).status_code == 401


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
def test_the_loopback_of_ipv6_needs_no_key(start: Any, tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 loopback here")
    assert start(tmp_path / "s", "--host", "::1").listening["host"] == "::1"


def test_the_secret_is_private_and_stays_the_same(start: Any, tmp_path: Path) -> None:
    start(tmp_path / "s").stop()
    file = tmp_path / "s" / "secret"
    before = file.read_bytes()
    assert (len(before), file.stat().st_mode & 0o777) == (32, 0o600)
    start(tmp_path / "s").stop()
    assert file.read_bytes() == before
