"""A training program whose third batch brings it down, or that is killed while it waits for the service."""

import os
import signal
from typing import Any

from harness import ADAM, BATCHES, KEY, NO_CHECKPOINTS, WAIT_S, step

import tinker_actors as ta
from tinker_actors.actors import results
from tinker_actors.actors.attempts import Attempts
from tinker_actors.actors.exchange import Exchange
from tinker_actors.actors.outbox import Part
from tinker_actors.actors.transport import TransportActor
from tinker_actors.wire.calls import Answer, Call
from tinker_actors.wire.protobuf import decode_training_request

POISON = [*BATCHES[0], *BATCHES[1], *BATCHES[1]]
"""Four data, which no other batch has."""


def is_poison(parts: list[Any]) -> bool:
    """Whether results are those of the poisoned batch."""
    return sum(len(getattr(part, "loss_fn_outputs", ())) for part in parts) == len(POISON)


def carries_poison(call: Call[Any]) -> bool:
    """Whether a request is the poisoned batch."""
    return call.operation == "forward_backward" and len(decode_training_request(call.body).data) == len(
        POISON
    )


def die_reading(url: str, run_dir: str) -> None:
    """The process dies when it reads what came of the poisoned batch."""
    read: Any = vars(results)["read_parts"]

    def read_or_die(*arguments: Any) -> list[Any]:
        parts: list[Any] = read(*arguments)
        if is_poison(parts):
            os.kill(os.getpid(), signal.SIGKILL)
        return parts

    vars(results)["read_parts"] = read_or_die
    _train(url, run_dir)


def die_sending(url: str, run_dir: str) -> None:
    """The process dies when it sends the poisoned batch."""
    once = TransportActor._once

    async def once_or_die(actor: TransportActor, call: Call[Any], *more: Any, **named: Any) -> Answer:
        if carries_poison(call):
            os.kill(os.getpid(), signal.SIGKILL)
        return await once(actor, call, *more, **named)

    setattr(TransportActor, "_once", once_or_die)  # noqa: B010 - a method is not assigned to
    _train(url, run_dir)


def _train(url: str, run_dir: str) -> None:
    """Two steps, and the poisoned one."""
    with ta.ServiceClient(base_url=url, api_key=KEY, run_dir=run_dir, recovery=NO_CHECKPOINTS) as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
        for number in training.steps(2):
            step(training, number)
        training.forward_backward(POISON, "cross_entropy")
        training.optim_step(ADAM).result(WAIT_S)


def die_waiting(url: str, run_dir: str) -> None:
    """The process is killed as soon as the service works on a batch."""
    accept = Exchange._accept

    def accept_and_die(exchange: Exchange, part: Part) -> None:
        accept(exchange, part)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(Exchange, "_accept", accept_and_die)  # noqa: B010 - a method is not assigned to
    _wait(url, run_dir)


def die_unanswered(url: str, run_dir: str, transport: str) -> None:
    """The process is killed once the bytes of a batch have left, while the service gives no answer to them."""
    os.environ["TINKER_ACTORS_TRANSPORT"] = transport
    close = Attempts.close

    def close_and_die(attempts: Attempts, part: Part) -> None:
        close(attempts, part)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(Attempts, "close", close_and_die)  # noqa: B010 - a method is not assigned to
    _wait(url, run_dir)


def _wait(url: str, run_dir: str) -> None:
    with ta.ServiceClient(base_url=url, api_key=KEY, run_dir=run_dir, recovery=NO_CHECKPOINTS) as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
        training.forward_backward(BATCHES[0], "cross_entropy").result(WAIT_S)
