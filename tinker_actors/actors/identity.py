"""Who we are to the service: the key as it was given, or a token that the service gives for it.

Lives on the network's loop. A token is renewed in the background at about half of its life, at once when it is
about to end, and once after the service rejected it.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

from tinker_actors.config import Credential, Secret
from tinker_actors.config.credentials import claims_of
from tinker_actors.errors import AuthenticationError, TinkerActorsError
from tinker_actors.wire.calls import Answer

__all__ = ["Identity", "is_token_rejected"]

_URGENT_S = 60.0
_RETRY_S = 60.0
_URGENT_RETRY_S = 5.0
"""With each request that comes, a service that is down would be asked once more."""
_UNKNOWN_LIFE_S = 120.0

Exchange = Callable[[Secret], Awaitable[str]]


def is_token_rejected(answer: Answer) -> bool:
    """Whether a 401 says that another token may do."""
    return answer.status == 401 and 'error="invalid_token"' in answer.headers.get("www-authenticate", "")  # noqa: PLR2004


class Identity:
    """The credential of one client.

    Args:
        credential: where the key comes from.
        exchange: asks the service for a token.
        clock: monotonic seconds.
        generator: spreads the renewals of many clients.
    """

    def __init__(
        self,
        credential: Credential,
        exchange: Exchange,
        clock: Callable[[], float],
        generator: random.Random,
    ) -> None:
        self.uses_tokens = False
        """Whether the service wants tokens; set from its flags."""
        self.prefers_command = False
        """Whether it wants them for what the command prints, although there is a key; likewise."""
        self._credential = credential
        self._exchange = exchange
        self._clock = clock
        self._random = generator
        self._lock = asyncio.Lock()
        self._token = ""
        self._renew_at = 0.0
        self._ends_at = 0.0
        self._urgent_at = 0.0
        self._renewal: asyncio.Task[None] | None = None

    async def key(self) -> Secret:
        """The credential itself; a command runs in a thread, so that nobody waits for it.

        Raises:
            ConfigError: the command gave none, or it is a JWT that expired.
        """
        if self._credential.is_at_hand(prefers_command=self.prefers_command):
            return self._credential.read(prefers_command=self.prefers_command)
        return await asyncio.to_thread(self._credential.read, prefers_command=self.prefers_command)

    async def secret(self) -> str:
        """What the next request is to carry.

        Raises:
            TinkerActorsError: there is no token, and none to be had.
        """
        if not self.uses_tokens:
            return (await self.key()).reveal()
        now = self._clock()
        if not self._token or now >= self._ends_at:
            await self._renew(self._token)
        elif now >= self._ends_at - _URGENT_S:
            if now >= self._urgent_at:
                await self._try_to_renew(self._token)
        elif now >= self._renew_at and self._renewal is None:
            self._renewal = asyncio.create_task(self._renew_in_time(self._token))
        return self._token

    async def replace(self, rejected: str) -> bool:
        """After a rejection of `rejected`: whether there is another secret to try, got by one exchange for all."""
        if not self.uses_tokens:
            return False
        await self._renew(rejected)
        return self._token != rejected

    async def _renew_in_time(self, old: str) -> None:
        """In the background: whatever the service says, the old one does until it ends."""
        try:
            await self._renew(old)
        except TinkerActorsError:
            self._renew_at = self._clock() + _RETRY_S
        finally:
            self._renewal = None

    async def _try_to_renew(self, old: str) -> None:
        """At the last moment: what the service refuses is told, what fails otherwise may pass."""
        try:
            await self._renew(old)
        except AuthenticationError:
            raise
        except TinkerActorsError:
            self._urgent_at = self._clock() + _URGENT_RETRY_S  # until it ends, the old one does

    async def _renew(self, old: str) -> None:
        async with self._lock:
            if self._token != old:
                return  # somebody else was faster
            token = await self._exchange(await self.key())
            now, claims = self._clock(), claims_of(token)
            begin, end = claims.get("iat"), claims.get("exp")
            self._token = token
            if isinstance(begin, int | float) and isinstance(end, int | float) and end > begin:
                self._renew_at = now + (end - begin) * self._random.uniform(0.45, 0.55)
                self._ends_at = now + (end - begin)
            else:
                self._renew_at, self._ends_at = now + _RETRY_S, now + _UNKNOWN_LIFE_S
