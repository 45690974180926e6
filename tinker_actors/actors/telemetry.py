"""Sends telemetry: every ten seconds what has gathered, and at once what is urgent."""

from typing import Any

from tinker_actors.actors.published import TRANSPORT
from tinker_actors.actors.reporting import Telemetry
from tinker_actors.actors.transport import Answered, Failed, Send
from tinker_actors.api.telemetry import send_telemetry
from tinker_actors.errors import OutcomeUnknownError
from tinker_actors.supervision import SupervisedActor

__all__ = ["PERIOD_S", "TelemetryActor"]

PERIOD_S = 10.0


class _Due:
    """The period is over."""


class _Wanted:
    """Somebody wants what waits to be sent."""


class TelemetryActor(SupervisedActor):
    """One batch on its way at a time. What the service does not take, after some repetitions, is dropped.

    Args:
        telemetry: what is to be told.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        super().__init__()
        self._telemetry = telemetry

    def on_start(self) -> None:
        self._transport = self.context.address(TRANSPORT)
        address = self.context.address(self.context.path)
        self._telemetry.bind(lambda: address.tell_if_there(_Wanted()))
        self.context.send_after(PERIOD_S, _Due())
        if self.context.epoch > 1:
            self.context.me.tell(_Wanted())

    def on_receive(self, message: Any) -> None:
        match message:
            case _Due():
                self._send()
                self.context.send_after(PERIOD_S, _Due())
            case _Wanted():
                self._send()
            case Failed(_, OutcomeUnknownError()):  # nobody knows; the service knows events by their ids
                self._transport.tell(Send(self._call, "batch", self.context.me))
            case Answered() | Failed():
                self._telemetry.settle(is_taken=isinstance(message, Answered))
                self._send()

    def _send(self) -> None:
        batch = self._telemetry.take()
        if batch is not None:
            session_id, events = batch
            self._call = send_telemetry(session_id, self._telemetry.process_uuid, events)
            self._transport.tell(Send(self._call, "batch", self.context.me))
