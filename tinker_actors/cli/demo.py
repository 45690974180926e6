"""`tinker-actors demo`: a fine-tuning run that loses its training actor and its server, and finishes all the same."""

import os
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, count, islice
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from tinker_actors.cli.curve import draw
from tinker_actors.cli.examples import Example, datum, prompt_tokens, read_examples
from tinker_actors.cli.progress import Progress
from tinker_actors.clients.sampling import SamplingClient
from tinker_actors.clients.service import ServiceClient
from tinker_actors.clients.training import TrainingClient
from tinker_actors.config import LOCAL
from tinker_actors.errors import ConfigError, JournalError
from tinker_actors.events import LocalServerStarted
from tinker_actors.supervision import TreeNode
from tinker_actors.supervision.testing import crash
from tinker_actors.types import AdamParams, Datum, ModelInput, SamplingParams

__all__ = ["demo"]

MODEL = "local/tiny"
RANK = 32
BATCH = 32
LEARNING_RATE = 6e-3
"""At the first step; it falls linearly to nought."""
GRAD_CLIP_NORM = 1.0
STEPS = 240
MAX_ANSWER = 32
MAX_S = 120.0
MAX_MEMORY_MB = 600.0
MIN_EXACT = 3
TRAINING = "service/session/training/training:1"


class Outcome(msgspec.Struct):
    """What a run of the demo found."""

    losses: list[float]
    """Per answer token, nats; one per step."""
    faults: dict[int, str]
    """What was broken at which step."""
    base: list[str]
    """Answers of the base model to the held-out prompts."""
    tuned: list[str]
    """Answers of the tuned model."""
    tree: TreeNode
    """The supervision tree at the end."""
    server_pids: list[int]
    """In order."""


@click.command()
@click.option(
    "--steps", default=STEPS, show_default=True, type=click.IntRange(min=3), help="Optimizer steps."
)
@click.option("--run-dir", type=click.Path(path_type=Path), help="Default: a new one below runs/.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of weights and batches."
)
@click.option("--no-chaos", is_flag=True, help="Break nothing.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the pig latin files.")
def demo(steps: int, run_dir: Path | None, seed: int, no_chaos: bool, data: Path | None) -> None:
    """Fine-tune a small model here, break things on the way, and check that it learned all the same."""
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    folder = data or _data_folder()
    train = read_examples(folder / "pig_latin.jsonl")
    held_out = read_examples(folder / "pig_latin_heldout.jsonl")
    run_dir = run_dir or Path("runs") / f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    console.print(f"run directory: {run_dir}", markup=False)
    outcome = _Demo(console, run_dir, steps=steps, seed=seed, is_chaotic=not no_chaos).run(train, held_out)
    problems = [
        *_report(console, outcome, held_out, run_dir, is_chaotic=not no_chaos),
        *_check_limits(console, time.monotonic() - began),
    ]
    for problem in problems:
        console.print(f"FAILED: {problem}", markup=False)
    sys.exit(1 if problems else 0)


def _data_folder() -> Path:
    for place in (Path(__file__).parents[2] / "examples" / "data", Path("examples") / "data"):
        if (place / "pig_latin.jsonl").exists():
            return place
    raise ConfigError(
        "the pig latin files are wanted; run the demo in a clone of the project, or name them with --data"
    )


class _Demo:
    """One run.

    Args:
        console: where it is shown.
        run_dir: what it remembers.
        steps: optimizer steps in all.
        seed: of weights and batches.
        is_chaotic: whether things are broken on the way.
    """

    def __init__(self, console: Console, run_dir: Path, *, steps: int, seed: int, is_chaotic: bool) -> None:
        self._console = console
        self._run_dir = run_dir
        self._steps = steps
        self._seed = seed
        self._is_chaotic = is_chaotic
        self._faults: dict[int, str] = {}
        self._pids: list[int] = []

    def run(self, train: list[Example], held_out: list[Example]) -> Outcome:
        """Train, and answer the held-out prompts before and after."""
        with ServiceClient(base_url=LOCAL, run_dir=str(self._run_dir)) as service:
            service.subscribe(self._on_event)
            creating = service.create_lora_training_client(MODEL, rank=RANK, seed=self._seed)
            base = _answers(service.create_sampling_client(base_model=MODEL).result(), held_out)
            training = creating.result()
            data = [datum(example, training.get_tokenizer()) for example in train]
            with Progress(self._console, self._steps, lambda: self._restarts(service)) as progress:
                self._train(service, training, data, progress)
            tuned = _answers(training.save_weights_and_get_sampling_client("final").result(), held_out)
            training.save_state("final").result()
            losses = [
                _loss(step.metrics, self._batch(data, step.step)) for step in training.history().result()
            ]
            return Outcome(losses, self._faults, base, tuned, service.tree(), self._pids)

    def _on_event(self, event: object) -> None:
        if isinstance(event, LocalServerStarted):
            self._pids.append(event.pid)

    def _restarts(self, service: ServiceClient) -> int:
        return sum(node.restarts for node in _nodes(service.tree())) + max(0, len(self._pids) - 1)

    def _train(
        self, service: ServiceClient, training: TrainingClient, data: list[Datum], progress: Progress
    ) -> None:
        for step in training.steps(self._steps):
            batch = self._batch(data, step)
            forward = training.forward_backward(batch, "cross_entropy")
            rate = LEARNING_RATE * (1 - step / self._steps)
            update = training.optim_step(AdamParams(learning_rate=rate, grad_clip_norm=GRAD_CLIP_NORM))
            self._break_something(service, step, progress)
            metrics = forward.result().metrics
            update.result()
            progress.step(step, _loss(metrics, batch), sum(one.model_input.length for one in batch))

    def _batch(self, data: list[Datum], step: int) -> list[Datum]:
        """Whole epochs, each in an order of its own; the same for the same step, in whatever process."""
        epoch, start = divmod(step * BATCH, len(data))
        order = (random.Random(f"{self._seed}-{one}").sample(data, len(data)) for one in count(epoch))
        return list(islice(chain.from_iterable(order), start, start + BATCH))

    def _break_something(self, service: ServiceClient, step: int, progress: Progress) -> None:
        if not self._is_chaotic:
            return
        if step == self._steps // 3:
            self._faults[step] = "training actor crashed"
            progress.say(f"step {step + 1}: crashing the training actor")
            crash(service.address(TRAINING))
        elif step == 2 * self._steps // 3 and (pid := service.server_pid) is not None:
            self._faults[step] = "server killed"
            progress.say(f"step {step + 1}: killing the server, process {pid}, with SIGKILL")
            os.kill(pid, signal.SIGKILL)


def _loss(metrics: dict[str, float], batch: list[Datum]) -> float:
    """Per answer token."""
    return metrics["loss:sum"] / sum(float(one.loss_fn_inputs["weights"].to_numpy().sum()) for one in batch)


def _answers(sampler: SamplingClient, examples: list[Example]) -> list[str]:
    tokenizer = sampler.get_tokenizer()
    greedy = SamplingParams(max_tokens=MAX_ANSWER, temperature=0.0)
    futures = [
        sampler.sample(ModelInput.from_ints(prompt_tokens(example.prompt, tokenizer)), 1, greedy)
        for example in examples
    ]
    return [tokenizer.decode(future.result().sequences[0].tokens).strip(" ") for future in futures]


def _nodes(node: TreeNode) -> Iterator[TreeNode]:
    yield node
    for child in node.children:
        yield from _nodes(child)


def _report(
    console: Console, outcome: Outcome, held_out: list[Example], run_dir: Path, *, is_chaotic: bool
) -> list[str]:
    """Show what came out; what is wrong with it."""
    first, last = outcome.losses[0], outcome.losses[-1]
    console.print(f"\nloss per answer token: {first:.4f} at first, {last:.4f} at last")
    table = Table("prompt", "wanted", "base model", "tuned model")
    for example, base, tuned in zip(held_out, outcome.base, outcome.tuned, strict=True):
        mark = "✓" if tuned == example.answer else "✗"
        table.add_row(example.prompt, example.answer, ascii(base)[1:25], f"{tuned} {mark}")
    console.print(table)
    console.print(_drawn(outcome.tree))
    picture = run_dir / "loss.svg"
    try:
        picture.write_text(draw(outcome.losses, outcome.faults, "loss per answer token"), encoding="utf-8")
    except OSError as error:
        raise JournalError(f"{picture} cannot be written: {error.strerror}") from error
    console.print(f"metrics.jsonl, checkpoints.jsonl and {picture.name} are in {run_dir}", markup=False)

    exact = [
        sum(a == e.answer for a, e in zip(answers, held_out, strict=True))
        for answers in (outcome.base, outcome.tuned)
    ]
    checks = {
        f"the last loss must be below half of the first, got {last:.4f} and {first:.4f}": last < first / 2,
        f"at least {MIN_EXACT} held-out answers must be exact, got {exact[1]}": exact[1] >= MIN_EXACT,
        f"the base model must know no answer, got {exact[0]} right": exact[0] == 0,
    }
    if is_chaotic:
        training = outcome.tree.find(TRAINING)
        restarts = 0 if training is None else training.restarts
        checks |= {
            f"the server's process must have changed, got {outcome.server_pids}": len(
                set(outcome.server_pids)
            )
            > 1,
            f"the training actor must have been restarted, got {restarts} restarts": restarts > 0,
        }
    return [problem for problem, holds in checks.items() if not holds]


def _drawn(node: TreeNode) -> Tree:
    label = f"{node.id}  {node.state}, {node.restarts} restart{'' if node.restarts == 1 else 's'}"
    tree = Tree(label, highlight=False)
    for child in node.children:
        tree.add(_drawn(child))
    return tree


def _check_limits(console: Console, elapsed_s: float) -> list[str]:
    """The time and the memory of both processes, and whether they are within bounds."""
    kib = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    memory_mb = sum(kib) * 1024 / 1e6
    console.print(
        f"{elapsed_s:.0f} s (limit {MAX_S:.0f}), peak memory of client and server {memory_mb:.0f} MB"
        f" (limit {MAX_MEMORY_MB:.0f})"
    )
    checks = {
        f"it must end within {MAX_S:.0f} s": elapsed_s < MAX_S,
        f"both processes must stay below {MAX_MEMORY_MB:.0f} MB": memory_mb < MAX_MEMORY_MB,
    }
    return [problem for problem, holds in checks.items() if not holds]
