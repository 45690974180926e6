"""How much is on its way to the service at a time: asked before each attempt. On the network's loop only."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from tinker_actors.actors.loops import call_soon
from tinker_actors.actors.pauses import shared_pause
from tinker_actors.actors.published import Published
from tinker_actors.actors.quotas import Quota
from tinker_actors.actors.requests import Request
from tinker_actors.errors import APIStatusError
from tinker_actors.events import RequestRetried, SamplingPaused
from tinker_actors.supervision import Context
from tinker_actors.wire.calls import Answer, Call, Pool
from tinker_actors.wire.http import MAX_IN_FLIGHT
from tinker_actors.wire.retry import is_repeatable

__all__ = ["Limits"]

RESERVED_POLLS = 100
"""Of the polls that are under way at a time; for clients that have few, so that none waits behind thousands."""
_TOO_MANY, _UNPAID = 429, 402

Send = Callable[[Call[Any]], Awaitable[Answer]]
Check = Callable[[Call[Any]], object]


class Limits:
    """Holds back what would be too much, each client in its turn. Beats, and whatever else is rare, are never held back.

    Args:
        published: the limits, and the service's own.
        context: of the actor that sends.
        check: raises the error of a call that had better not wait.
    """

    def __init__(self, published: Published, context: Context, check: Check) -> None:
        self._published = published
        self._context = context
        self._check = check
        self._settings = published.limits
        self._pause = published.pause = published.pause or shared_pause(published.settings, context.clock)
        self.samples = Quota(
            places=self._sample_places,
            budget=self._sample_budget,
            weight=lambda: self._settings.throttled_weight if self._is_throttled() else 1,
            changes_at=self._changes_at,
            alarm=self._call_at,
        )
        self.streams = Quota(
            places=lambda: 0 if self._is_paused() else MAX_IN_FLIGHT[Pool.STREAM],
            changes_at=self._changes_at,
            alarm=self._call_at,
        )
        """Apart from other samples: whoever reads a stream may ask for samples meanwhile."""
        self.polls = Quota(places=lambda: MAX_IN_FLIGHT[Pool.FUTURE], reserved=RESERVED_POLLS)
        self.training = Quota(budget=lambda: published.config.fwdbwd_dispatch_bytes_semaphore_size)
        """Of training data while they are being submitted, over all models."""
        self.answers = Quota(budget=lambda: published.config.inflight_response_bytes_semaphore_size)
        """Of large results while they are being fetched."""

        self.at_work = Quota(each=lambda: published.config.sample_max_concurrent_requests)
        """Samples from their submission to their result."""

        self.cancels = Quota(places=lambda: published.dynamic_config.sample_cancel_max_batch_size)
        """Words to the service that nobody waits for a sample any more."""

        self._quotas = {"asample": self.samples, "stream_sample": self.streams}

    async def attempt(self, request: Request, call: Call[Any], send: Send) -> Answer:
        """Send `call` once it may go; a sample that is too many goes again after the pause that all samples keep.

        Raises:
            TinkerActorsError: whatever `send` raises, or the reason not to wait.
        """
        if call.pool is Pool.FUTURE:
            return await self._send(self.polls, request, call, send)
        quota = self._quotas.get(call.operation)
        if quota is None or not self._settings.is_enabled:
            return await send(call)
        is_first = True
        while True:
            answer = await self._send(quota, request, call, send, again=not is_first)
            if answer.status not in (_TOO_MANY, _UNPAID):
                return answer
            is_first = False
            error = self._pause_all(call, answer)
            if not is_repeatable(call.retry, error):
                return answer
            delay_s = max(0.0, self._pause.until - self._context.clock.now())
            self._context.emit(RequestRetried(operation=call.operation, reason=str(error), delay_s=delay_s))

    async def _send(
        self, quota: Quota, request: Request, call: Call[Any], send: Send, *, again: bool = False
    ) -> Answer:
        price = quota.try_enter(request.client, call.size)
        if price is None:
            self._check(call)
            price = await self.enter(quota, request, call.size, again=again)
        try:
            return await send(call)
        finally:  # also when the task is cancelled
            quota.leave(request.client, price)

    @asynccontextmanager
    async def at_work_for(self, request: Request, call: Call[Any]) -> AsyncIterator[None]:
        """Hold a sample back while the service has as many of its sampler's as it takes at a time.

        Raises:
            TinkerActorsError: the reason not to wait.
        """
        if call.operation != "asample" or not self._settings.is_enabled:
            yield
            return
        price = self.at_work.try_enter(request.client)
        if price is None:
            self._check(call)
            price = await self.enter(self.at_work, request, 0)
        try:
            yield
        finally:
            self.at_work.leave(request.client, price)

    async def enter(self, quota: Quota, request: Request, size: int, *, again: bool = False) -> int:
        """Room in `quota`, in the turn of the request's client; what its `leave` is to be told."""
        price = quota.try_enter(request.client, size)
        if price is not None:
            return price
        request.is_queued = True
        try:
            return await quota.wait(request.client, size, again=again)
        finally:
            request.is_queued = False

    def _pause_all(self, call: Call[Any], answer: Answer) -> APIStatusError:
        """Have all samples wait after this answer."""
        settings = self._settings
        error = answer.failure()
        is_large = call.size > settings.large_bytes
        delay_s = max(settings.large_pause_s if is_large else settings.pause_s, error.retry_after_s or 0.0)
        if self._pause.extend(self._context.clock.now(), delay_s):
            self._context.emit(SamplingPaused(pause_s=delay_s, reason=str(error)))
        return error

    def _is_throttled(self) -> bool:
        return self._context.clock.now() < self._pause.until + self._settings.throttled_s

    def _is_paused(self) -> bool:
        return self._context.clock.now() < self._pause.until

    def _changes_at(self) -> float:
        now, until = self._context.clock.now(), self._pause.until
        relaxes_at = until + self._settings.throttled_s
        return min((at for at in (until, relaxes_at) if now < at), default=math.inf)

    def _sample_places(self) -> int:
        if self._is_paused():
            return 0
        limits = self._settings
        most = limits.throttled_submissions if self._is_throttled() else limits.max_submissions
        return min(most, MAX_IN_FLIGHT[Pool.SAMPLE])

    def _sample_budget(self) -> int:
        own = self._settings.max_bytes
        return self._published.config.sample_dispatch_bytes_semaphore_size if own is None else own

    def _call_at(self, at: float, callback: Callable[[], object]) -> None:
        loop, clock = asyncio.get_running_loop(), self._context.clock
        clock.schedule(at - clock.now(), partial(call_soon, loop, callback))
