"""The training program that the trials of recovery kill, lose the model of, and start again."""

import gc
import random
import signal
import tracemalloc
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from crash_points import CrashPoints
from harness import KEY, WAIT_S, example

import tinker_actors as ta
from tinker_actors.wire.calls import Answer
from tinker_actors.wire.http import HttpTransport

STEPS = 12
WORDS = [
    "apple",
    "brave",
    "cedar",
    "delta",
    "eagle",
    "flint",
    "grape",
    "honey",
    "ivory",
    "jolly",
    "koala",
    "lemon",
]
POLICY = ta.RecoveryPolicy(checkpoint_every_steps=5, max_attempts=10, backoff_s=0.01, max_backoff_s=0.1)
"""Restores that follow one another at once, as often as the trials lose a model."""


def batches(number: int) -> tuple[list[ta.Datum], list[ta.Datum]]:
    """Data of one optimizer step; no two steps have the same."""
    word, lap = WORDS[number % len(WORDS)], number // len(WORDS)
    question = f"{word} {lap}" if lap else word
    return [example(question, f"{word[1:]}{word[0]}ay"), example(word[::-1], word)], [example(word * 2, word)]


def adam(number: int) -> ta.AdamParams:
    """Of one optimizer step; no two steps have the same."""
    return ta.AdamParams(learning_rate=2e-3 / (1 + number))


def train(
    service: ta.ServiceClient,
    points: CrashPoints,
    *,
    steps: int = STEPS,
    run: str | None = None,
    base_model: str = "local/tiny",
) -> None:
    """Take the steps that are left, with a save every three and a sampler every four."""
    named: dict[str, Any] = {} if run is None else {"run": run}
    training = service.create_lora_training_client(base_model, rank=4, seed=3, **named).result(WAIT_S)
    for number in training.steps(steps):
        if number and number % 3 == 0:
            training.save_state(f"step-{number:02d}").result(WAIT_S)
        if number and number % 4 == 0:
            training.save_weights_for_sampler(f"sampler-{number:02d}").result(WAIT_S)
        forwards = [training.forward_backward(data, "cross_entropy") for data in batches(number)]
        if number % 2:  # the other steps have all their requests under way together
            _ = [forward.result(WAIT_S) for forward in forwards]
            points.reach("program between gradient and update")
        training.optim_step(adam(number)).result(WAIT_S)
        points.reach("program after update")
    training.save_state("final").result(WAIT_S)
    points.reach("program after the last save")


def main(
    url: str,
    run_dir: str,
    trace: str,
    point: str,
    nth: int,
    steps: int = STEPS,
    twice: int | None = None,
    number: int = signal.SIGKILL,
    base_model: str = "local/tiny",
) -> None:
    """One process; with `twice`, a seed, the network delivers half of all requests two times."""
    points = CrashPoints(Path(trace), point, nth, number)
    points.install()
    if twice is not None:
        deliver_twice(random.Random(twice))
    with ta.ServiceClient(base_url=url, api_key=KEY, run_dir=run_dir, recovery=POLICY) as service:
        train(service, points, steps=steps, base_model=base_model)


def side_by_side(url: str, run_dir: str, trace: str, point: str, nth: int, runs: list[str]) -> None:
    """One process that trains several models at the same time, each in a thread of its own."""
    points = CrashPoints(Path(trace), point, nth)
    points.install()
    with (
        ta.ServiceClient(base_url=url, api_key=KEY, run_dir=run_dir, recovery=POLICY) as service,
        ThreadPoolExecutor(len(runs)) as threads,
    ):
        for _ in threads.map(lambda run: train(service, points, run=run), runs):
            pass


def at_length(url: str, run_dir: str, trace: str, point: str, nth: int, steps: int) -> None:
    """One process that takes many small steps, and writes its memory down every fifty, in bytes of Python's objects."""
    _ = point, nth
    with ta.ServiceClient(base_url=url, api_key=KEY, run_dir=run_dir, recovery=POLICY) as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
        tracemalloc.start()
        for number in training.steps(steps):
            training.forward_backward(batches(number)[1], "cross_entropy")
            training.optim_step(adam(number)).result(WAIT_S)
            if number % 50 == 0:
                gc.collect()
                with Path(trace).open("a") as file:
                    file.write(f"{tracemalloc.get_traced_memory()[0]}\n")


def deliver_twice(generator: random.Random) -> None:
    """Have some requests arrive a second time, and be answered as that one is."""
    send: Callable[..., Awaitable[Answer]] = HttpTransport.send

    async def sent(*arguments: Any, **named: Any) -> Answer:
        answer = await send(*arguments, **named)
        return await send(*arguments, **named) if generator.random() < 0.5 else answer

    HttpTransport.send = sent  # type: ignore[method-assign]  # in this process alone


def go_wrong(fault: str, **arguments: Any) -> None:
    """One process that does not do what it should; what its judge is tested with."""
    original = batches, adam
    match fault:
        case "another batch":
            globals()["batches"] = lambda number: original[0](4 if number == 5 else number)
        case "a gradient doubled":
            globals()["batches"] = lambda number: (*original[0](number), *original[0](number)[number != 5 :])
        case "another update":
            globals()["adam"] = lambda number: original[1](4 if number == 5 else number)
    main(**arguments)
