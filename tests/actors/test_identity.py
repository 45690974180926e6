"""Keys and tokens: what each request carries, and how tokens are renewed."""

import asyncio
import base64
import json
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from tinker_actors.actors.identity import Identity, is_token_rejected
from tinker_actors.config import Credential, Secret
from tinker_actors.errors import APIConnectionError, AuthenticationError, ConfigError, TinkerActorsError
from tinker_actors.wire.calls import Answer

T = TypeVar("T")
KEY = Credential(key=Secret("tml-key"))


def token(number: int, life_s: float = 1000.0) -> str:
    claims = json.dumps({"n": number, "iat": 0, "exp": life_s}).encode()
    return f"eyJ.{base64.urlsafe_b64encode(claims).decode()}.s"


class Service:
    """Gives a token for each exchange, or an error when it is told to."""

    def __init__(self, credential: Credential = KEY) -> None:
        self.now = 0.0
        self.given = 0
        self.keys: list[str] = []
        self.error: TinkerActorsError | None = None
        self.identity = Identity(credential, self.exchange, lambda: self.now, random.Random(1))
        self.identity.uses_tokens = True

    async def exchange(self, key: Secret) -> str:
        self.keys.append(key.reveal())
        await asyncio.sleep(0)  # lets others ask meanwhile
        if self.error is not None:
            raise self.error
        self.given += 1
        return token(self.given)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def test_without_tokens_each_request_carries_the_key() -> None:
    service = Service()
    service.identity.uses_tokens = False
    assert run(service.identity.secret()) == "tml-key"
    assert service.keys == []


def test_a_token_is_exchanged_once_for_all_who_need_it() -> None:
    service = Service()

    async def work() -> list[str]:
        return await asyncio.gather(*(service.identity.secret() for _ in range(5)))

    assert run(work()) == [token(1)] * 5
    assert service.keys == ["tml-key"]


def test_a_token_is_renewed_in_the_background_at_half_of_its_life() -> None:
    service = Service()

    async def work() -> list[str]:
        first = await service.identity.secret()
        service.now = 560.0
        old = await service.identity.secret()
        for _ in range(10):
            await asyncio.sleep(0)
        return [first, old, await service.identity.secret()]

    assert run(work()) == [token(1), token(1), token(2)]


def test_a_token_is_not_renewed_before() -> None:
    service = Service()

    async def work() -> None:
        await service.identity.secret()
        service.now = 440.0
        await service.identity.secret()
        await asyncio.sleep(0)

    run(work())
    assert service.given == 1


def test_a_token_about_to_end_is_renewed_at_once() -> None:
    service = Service()

    async def work() -> str:
        await service.identity.secret()
        service.now = 950.0
        return await service.identity.secret()

    assert run(work()) == token(2)


def test_a_token_serves_on_while_it_cannot_be_renewed() -> None:
    service = Service()

    async def work() -> str:
        await service.identity.secret()
        service.now, service.error = 950.0, APIConnectionError("down")
        return await service.identity.secret()

    assert run(work()) == token(1)


def test_a_token_that_ended_is_no_use() -> None:
    service = Service()

    async def work() -> str:
        await service.identity.secret()
        service.now, service.error = 1000.0, APIConnectionError("down")
        return await service.identity.secret()

    with pytest.raises(APIConnectionError):
        run(work())


def test_a_key_the_service_refuses_is_an_error_at_once() -> None:
    service = Service()

    async def work() -> str:
        await service.identity.secret()
        service.now, service.error = 950.0, AuthenticationError("no", status=401, body=None)
        return await service.identity.secret()

    with pytest.raises(AuthenticationError):
        run(work())


def test_a_refusal_in_the_background_is_not_asked_for_again_with_each_request() -> None:
    service = Service()

    async def work() -> str:
        await service.identity.secret()
        service.now, service.error = 600.0, AuthenticationError("no", status=401, body=None)
        for _ in range(20):
            await service.identity.secret()
            await asyncio.sleep(0)  # a turn for what is done in the background
        return await service.identity.secret()

    assert run(work()) == token(1)
    assert len(service.keys) == 2


def test_a_service_that_is_down_is_asked_every_five_seconds_at_the_end() -> None:
    service = Service()

    async def work() -> None:
        await service.identity.secret()
        service.error = APIConnectionError("down")
        for service.now in (950.0, 951.0, 954.0, 955.0, 956.0):
            await service.identity.secret()

    run(work())
    assert len(service.keys) == 3


@pytest.mark.parametrize(
    ("key", "prefers_command", "used"),
    [
        ("tml-key", False, "tml-key"),
        ("tml-key", True, "tml-cmd"),
        (token(7, life_s=4e9), True, token(7, life_s=4e9)),
    ],
    ids=["key", "command", "JWT"],
)
def test_the_service_may_want_tokens_for_what_the_command_prints(
    key: str, prefers_command: bool, used: str
) -> None:
    credential = Credential(key=Secret(key), command=Secret("echo tml-cmd"))
    service = Service(credential)
    service.identity.prefers_command = prefers_command
    run(service.identity.secret())
    assert service.keys == [used]


def test_a_jwt_that_expired_meanwhile_is_not_sent() -> None:
    service = Service(Credential(key=Secret(token(7, life_s=1000.0))))
    with pytest.raises(ConfigError, match="expired"):
        run(service.identity.secret())
    assert service.keys == []


def test_concurrent_rejections_share_one_exchange() -> None:
    service = Service()

    async def work() -> list[bool]:
        rejected = await service.identity.secret()
        return await asyncio.gather(*(service.identity.replace(rejected) for _ in range(5)))

    assert run(work()) == [True] * 5
    assert service.given == 2


def test_a_rejected_key_cannot_be_replaced() -> None:
    service = Service()
    service.identity.uses_tokens = False
    assert not run(service.identity.replace("tml-key"))


@pytest.mark.parametrize(
    ("status", "challenge", "is_rejected"),
    [
        (401, 'Bearer error="invalid_token"', True),
        (401, 'Bearer error="insufficient_scope"', False),
        (401, "", False),
        (403, 'Bearer error="invalid_token"', False),
    ],
)
def test_only_an_invalid_token_is_worth_another(status: int, challenge: str, is_rejected: bool) -> None:
    answer = Answer(status, {"www-authenticate": challenge} if challenge else {}, b"")
    assert is_token_rejected(answer) is is_rejected
