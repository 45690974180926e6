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
        self._credential = credential
        self._exchange = exchange
        self._clock = clock
        self._random = generator
        self._lock = asyncio.Lock()
        self._token = ""
        self._renew_at = 0.0
        self._ends_at = 0.0
        self._renewal: asyncio.Task[None] | None = None

    async def key(self) -> Secret:
        """The credential itself; a command runs in a thread, so that nobody waits for it.

        Raises:
            AuthenticationError: the command gave none.
        """
        if self._credential.key is not None:
            return self._credential.key
        return await asyncio.to_thread(self._credential.read)

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
            await self._try_to_renew(self._token)
        elif now >= self._renew_at and self._renewal is None:
            self._renewal = asyncio.create_task(self._try_to_renew(self._token))
            self._renewal.add_done_callback(self._note_renewed)
        return self._token

    async def replace(self, rejected: str) -> bool:
        """After a rejection of `rejected`: whether there is another secret to try, got by one exchange for all."""
        if not self.uses_tokens:
            return False
        await self._renew(rejected)
        return self._token != rejected

    def _note_renewed(self, _task: "asyncio.Task[None]") -> None:
        self._renewal = None

    async def _try_to_renew(self, old: str) -> None:
        try:
            await self._renew(old)
        except AuthenticationError:
            raise
        except TinkerActorsError:
            self._renew_at = self._clock() + _RETRY_S  # until it ends, the old one does

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
