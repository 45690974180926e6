"""A training program that is killed five times, and the proof that nothing of it was lost or done twice.

The program trains for twelve steps, twice: once in peace, and once while its parent kills it with SIGKILL at five
different moments and starts it again each time. What the parent then compares comes from the embedded server: its log
of what it executed, and the files it saved.

    python examples/crash_resilient.py [FOLDER]
"""

import hashlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import tinker_actors as ta
from tinker_actors.events import SessionReattached
from tinker_actors.local import step_log
from tinker_actors.local.step_log import Executed
from tinker_actors.tokenization import get_tokenizer

STEPS = 12
WORDS = [
    "river",
    "stone",
    "maple",
    "cloud",
    "tiger",
    "lemon",
    "amber",
    "robin",
    "cedar",
    "flute",
    "pearl",
    "haven",
]
KILLS = {
    "step 2: gradient": "between a gradient and its update",
    "step 4: update sent": "while an optimizer step is under way",
    "attaching": "while the next process finds its model again",
    "step 6: saving": "while a checkpoint is being saved",
    "step 9: taken": "between two steps",
}
"""The line that the program prints, and what its parent interrupts by killing it there."""


def batch(step: int) -> list[ta.Datum]:
    """One example; another one at each step."""
    tokens = get_tokenizer("local/tiny").encode(f"{WORDS[step]} is {WORDS[step][::-1]} backwards")
    return [
        ta.Datum(
            model_input=ta.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={
                "target_tokens": ta.TensorData(tokens[1:], dtype="int64"),
                "weights": ta.TensorData([1.0] * (len(tokens) - 1), dtype="float32"),
            },
        )
    ]


def say(line: str) -> None:
    """Tell the parent."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def train(run_dir: str) -> None:
    """The program: nothing in it knows of kills."""
    with ta.ServiceClient(base_url="local", run_dir=run_dir) as service:
        service.subscribe(lambda event: say("attaching") if isinstance(event, SessionReattached) else None)
        training = service.create_lora_training_client("local/tiny", rank=8, seed=1).result()
        for step in training.steps(STEPS):
            if step and step % 3 == 0:
                saved = training.save_state(f"step-{step}")
                say(f"step {step}: saving")
                saved.result()
            training.forward_backward(batch(step), "cross_entropy").result()
            say(f"step {step}: gradient")
            update = training.optim_step(ta.AdamParams(learning_rate=2e-3 / (1 + step)))
            say(f"step {step}: update sent")
            update.result()
            say(f"step {step}: taken")
        training.save_state("final").result()


def run(run_dir: Path, *, kill_at: str | None = None) -> None:
    """Start the program; kill it when it prints a line."""
    command = [sys.executable, __file__, "--train", str(run_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        for line in process.stdout:
            if kill_at is not None and line.strip() == kill_at:
                process.kill()
                break
        expected = 0 if kill_at is None else -signal.SIGKILL
        if process.wait() != expected:
            raise SystemExit(f"the program was to end with {expected}, and ended with {process.returncode}")


def work(run_dir: Path) -> list[tuple[str, str]]:
    """What the server executed of training, in order: the kind and the digest of what was asked."""
    entries = step_log.read(run_dir / "server")
    done = [one for one in entries if isinstance(one, Executed)]
    return [(one.kind, one.content) for one in done if one.kind in ("forward_backward", "optim_step")]


def digest(run_dir: Path, name: str) -> str:
    """Of the bytes of a checkpoint."""
    (file,) = (run_dir / "server").glob(f"checkpoints/*/weights/{name}/checkpoint.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main(folder: Path) -> None:
    """Train in peace and under fire, and compare."""
    peace, fire = folder / "in-peace", folder / "under-fire"
    run(peace)
    print("trained in peace")
    for line, moment in KILLS.items():
        run(fire, kill_at=line)
        print(f"killed {moment} ({line})")
    run(fire)
    print("trained under fire")

    taken = [sum(kind == "optim_step" for kind, _ in work(run_dir)) for run_dir in (peace, fire)]
    print(f"optimizer steps that the server executed: {taken[0]} in peace, {taken[1]} under fire")
    is_same = work(peace) == work(fire)
    print(f"the same work in the same order: {'yes' if is_same else 'NO'}")
    for name in ("step-3", "step-6", "step-9", "final"):
        is_equal = digest(peace, name) == digest(fire, name)
        is_same = is_same and is_equal
        print(f"checkpoint {name}: sha256 {digest(fire, name)}, {'as' if is_equal else 'NOT as'} in peace")
    sys.exit(0 if is_same else 1)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--train", run_dir]:
            train(run_dir)
        case [folder]:
            main(Path(folder))
        case _:
            with tempfile.TemporaryDirectory() as folder:
                main(Path(folder))
