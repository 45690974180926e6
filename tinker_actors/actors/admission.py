"""Whether an attempt of a request may go: asked before each, and told how each ended. On the event loop only."""

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Self

from tinker_actors.actors.breaker import breaker_spec
from tinker_actors.actors.loops import call_soon
from tinker_actors.actors.published import BREAKERS, Published
from tinker_actors.errors import (
    APIConnectionError,
    APITimeoutError,
    CircuitOpenError,
    TinkerActorsError,
    TLSError,
)
from tinker_actors.supervision import Circuit, Context, Outcome, Permit, Refusal, StartChild
from tinker_actors.supervision.breaker import refusal
from tinker_actors.wire.calls import Answer, Call, Pool, WhenOpen
from tinker_actors.wire.retry import retry_after_s

__all__ = ["Admission", "outcome_of"]

HELD_S = 6.0
"""A long poll that did not fail in this time is held by a service that lives; connecting takes 5 s at most."""
TTL_MARGIN_S = 30.0
"""How much longer a probe may take than its call waits for a byte."""
_LASTS_ON_PURPOSE = frozenset({Pool.FUTURE, Pool.STREAM})
"""The service holds long polls until there is something to tell, and streams until their last token."""
_UNCOUNTED = Permit(-1)
"""Of a call that goes whatever the circuit says."""


def outcome_of(call: Call[Any], result: Answer | TinkerActorsError) -> Outcome:
    """What the end of one attempt says about its endpoint.

    No answer, a 5xx, and no answer in time to what is no long poll are failures. A status below 400 is a success, and
    so is the 408 by which a long poll says "not yet". Any other 4xx says nothing: it is about the caller, or about
    a limit; and where there is no TLS, waiting does not help.
    """
    match result:
        case Answer(status=status):
            if status >= 500:  # noqa: PLR2004
                return Outcome.FAILURE
            is_not_yet = status == 408 and call.pool is Pool.FUTURE  # noqa: PLR2004
            return Outcome.SUCCESS if status < 400 or is_not_yet else Outcome.IGNORED  # noqa: PLR2004
        case APITimeoutError():
            return Outcome.IGNORED if call.pool is Pool.FUTURE else Outcome.FAILURE
        case APIConnectionError() if not isinstance(result, TLSError):
            return Outcome.FAILURE
        case _:
            return Outcome.IGNORED


class Admission:
    """Guards attempts by the circuits of their operations.

    Args:
        published: where the circuits are.
        context: of the actor that sends.
        generator: of the jitter.
    """

    def __init__(self, published: Published, context: Context, generator: random.Random) -> None:
        self._published = published
        self._context = context
        self._random = generator
        self._counts_connections = not published.settings.is_local
        self._pulses: dict[str, asyncio.Event] = {}
        """By operation: set for a moment when those who wait there should ask again."""
        self._unwatch: list[Callable[[], None]] = []

    async def attempt(self, call: Call[Any], send: Callable[[Call[Any]], Awaitable[Answer]]) -> Answer:
        """Send `call` once, when and if its circuit lets it; however that ends, the permit goes back.

        Raises:
            CircuitOpenError: the circuit is open, and the call does not wait, or waited as long as it would have
                been repeated.
            TinkerActorsError: whatever `send` raises.
        """
        circuit = self._published.circuits.find(call.operation) or self._make(call.operation)
        ttl_s = call.timeout_s + TTL_MARGIN_S
        permit = circuit.admit(ttl_s)
        if isinstance(permit, Refusal):
            permit = await self._refused(call, circuit, permit, ttl_s)
        held = self._take_for_held(call, circuit, permit)
        watch = _Stopwatch.of(call, circuit, permit)
        outcome, wish_s = Outcome.IGNORED, None
        try:
            answer = await send(call)
            outcome = outcome_of(call, answer)
            if outcome is Outcome.FAILURE:
                wish_s = retry_after_s(answer.headers)
        except APIConnectionError as error:
            # An embedded server is watched by an actor of its own, which knows better why it does not answer.
            outcome = outcome_of(call, error) if self._counts_connections else Outcome.IGNORED
            raise
        else:
            return answer
        finally:  # also when the task is cancelled
            if held is not None:
                held.cancel()
            circuit.settle(permit, outcome, wish_s, None if watch is None else watch.stop())

    def check(self, call: Call[Any]) -> None:
        """Refuse a call that would be refused now, and that had better not wait for anything before.

        Raises:
            CircuitOpenError: its circuit is open, and it does not wait for circuits.
        """
        circuit = self._published.circuits.find(call.operation)
        if call.when_open is not WhenOpen.FAIL or circuit is None:
            return
        refused = refusal(circuit.state, self._context.clock.now(), circuit.settings)
        if refused is not None:
            raise _error(call, refused)

    def close(self) -> None:
        """Watch no circuit any more."""
        for unwatch in self._unwatch:
            unwatch()

    def _take_for_held(self, call: Call[Any], circuit: Circuit, permit: Permit) -> asyncio.TimerHandle | None:
        """A long poll must not keep all others waiting for the half minute that the service may hold it."""
        if call.pool is not Pool.FUTURE or permit.expires_at == math.inf:
            return None
        return asyncio.get_running_loop().call_later(HELD_S, partial(circuit.settle, permit, Outcome.SUCCESS))

    async def _refused(self, call: Call[Any], circuit: Circuit, refused: Refusal, ttl_s: float) -> Permit:
        """The permit of a call that was refused at first.

        Raises:
            CircuitOpenError: there is none for it.
        """
        if call.when_open is WhenOpen.SEND:
            return _UNCOUNTED
        clock = self._context.clock
        pulse = self._pulse(call.operation, circuit)
        give_up_at = clock.now() + (call.retry.max_elapsed_s if call.when_open is WhenOpen.WAIT else 0.0)
        while (left_s := give_up_at - clock.now()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(refused.retry_after_s, left_s)):
                    await pulse.wait()
            answer = circuit.admit(ttl_s)
            if isinstance(answer, Permit):
                return answer
            refused = answer
        raise _error(call, refused)

    def _pulse(self, operation: str, circuit: Circuit) -> asyncio.Event:
        """What those who wait for the circuit of `operation` wait for."""
        pulse = self._pulses.get(operation)
        if pulse is None:
            pulse = self._pulses[operation] = asyncio.Event()
            loop = asyncio.get_running_loop()
            self._unwatch.append(circuit.watch(partial(call_soon, loop, partial(_beat, pulse))))
        return pulse

    def _make(self, operation: str) -> Circuit:
        """The first call of `operation`: a circuit, and an actor to look after it."""
        circuit = self._published.circuits.make(
            operation, self._context.clock.now, random.Random(self._random.random())
        )
        spec = breaker_spec(operation, circuit)
        self._published.add_child(BREAKERS, spec)
        # An error is no matter: the supervisor takes the child from the published table when it starts.
        self._context.address(BREAKERS).ask(StartChild(spec))
        return circuit


class _Stopwatch:
    """How long one attempt takes; tells its circuit as soon as that is too long."""

    def __init__(self, circuit: Circuit, permit: Permit, slow_s: float) -> None:
        self._circuit, self._permit = circuit, permit
        loop = asyncio.get_running_loop()
        self._now, self._began = loop.time, loop.time()
        self._timer = loop.call_later(slow_s, self._note_slow)
        self._is_told = False

    @classmethod
    def of(cls, call: Call[Any], circuit: Circuit, permit: Permit) -> Self | None:
        """None where nobody asks how long a call takes, or it lasts on purpose."""
        slow_s = circuit.settings.slow_call_s
        if slow_s is None or call.pool in _LASTS_ON_PURPOSE:
            return None
        return cls(circuit, permit, slow_s)

    def stop(self) -> float | None:
        """Seconds since the start; None if the circuit was told that they are too many."""
        self._timer.cancel()
        return None if self._is_told else self._now() - self._began

    def _note_slow(self) -> None:
        self._is_told = True
        self._circuit.note_slow(self._permit)


def _error(call: Call[Any], refused: Refusal) -> CircuitOpenError:
    return CircuitOpenError(call.operation, refused.retry_after_s, is_forced=refused.is_forced)


def _beat(pulse: asyncio.Event) -> None:
    pulse.set()  # whoever waits goes on, once
    pulse.clear()
