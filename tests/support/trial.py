"""A trial of recovery: a program that dies and is started again, and the judgement of what is left.

The judge believes the embedded server's own log of what it executed, the bytes of the checkpoint files, and the files
of the run directory; never what the program says.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Server
from program_under_test import STEPS
from zygote import Zygote

from tinker_actors.actors.attempts import MOST
from tinker_actors.journal.exports import CHECKPOINTS, METRICS
from tinker_actors.journal.records import CheckpointRecord, Kind, ModelRecord, OperationRecord, State
from tinker_actors.journal.replay import outstanding
from tinker_actors.journal.store import RunImage, Store
from tinker_actors.local.step_log import Executed

__all__ = ["Death", "Image", "Judgement", "Trial", "image_of", "prepared"]

IMPORTED = (
    "program_under_test",
    "tinker_actors.clients.service",
    "tinker_actors.clients.training",
    "httpx",
    "numpy",
    "pyqwest",
)
MOST_DEATHS = 200
"""A trial that dies oftener makes no progress."""
KILLED = -9
SPARED_POINTS = 300
SPARED_S = 1.0


def prepared() -> Zygote:
    """What a trial's processes come from."""
    return Zygote(*IMPORTED)


@dataclass(frozen=True)
class Image:
    """The journal of one run, read from a copy, so that the journal itself stays as it was left."""

    run: RunImage
    checkpoints: list[CheckpointRecord]
    """All that there ever were."""
    steps: int
    """Optimizer steps with a result."""
    handled: set[int]
    """Places of the operations whose bytes were being handled."""

    @property
    def history(self) -> list[OperationRecord]:
        """Operations that recovery may still need, in order."""
        return self.run.operations

    @property
    def models(self) -> list[ModelRecord]:
        """Generations, in order."""
        return self.run.models

    def steps_before(self, place: int) -> int:
        """Optimizer steps taken up to a place that a model began in."""
        return {0: 0, **{one.place: one.step for one in self.checkpoints}}[place]

    @property
    def is_suspicious(self) -> bool:
        """Whether a batch was died over twice: after a third time it is left out, rightly."""
        return any(one.crashes + (one.place in self.handled) == MOST - 1 for one in self.history)

    @property
    def is_over(self) -> bool:
        """Whether all was done that the program asks for."""
        return bool(self.history) and self.history[-1].kind == Kind.SAVE_WEIGHTS and self.steps >= STEPS

    @property
    def is_between(self) -> bool:
        """Whether gradients were there, and their optimizer step was not asked for yet."""
        live = [one for one in self.history if one.state in (State.DONE, State.PLACED)]
        return bool(live) and (live[-1].kind, live[-1].state) == (Kind.FORWARD_BACKWARD, State.DONE)

    @property
    def is_saving(self) -> bool:
        """Whether a checkpoint was committed to and had no result."""
        return any(one.kind == Kind.SAVE_WEIGHTS and one.state == State.PLACED for one in self.history)

    @property
    def is_recovering(self) -> bool:
        """Whether another model was on its way."""
        return len(self.models) > 1 and (self.models[-1].model_id is None or self.is_replaying)

    @property
    def is_replaying(self) -> bool:
        """Whether the newest model still lacked what an earlier one had done."""
        if not self.models:
            return False
        return any(one.state == State.DONE for one in outstanding(self.run, self.models[-1]))


def image_of(run_dir: Path, run: str = "1") -> Image | None:
    """The journal as a dead process left it; None where it has no such run."""
    with tempfile.TemporaryDirectory() as copied:
        for file in run_dir.glob("journal*"):
            if file.is_file() and file.suffix != ".lock":
                shutil.copy(file, copied)
        if (run_dir / "segments").is_dir():
            shutil.copytree(run_dir / "segments", Path(copied) / "segments")
        if not (Path(copied) / "journal.db").exists():
            return None
        with closing(Store(Path(copied) / "journal.db")) as store:
            image = store.load(run)
            if image is None:
                return None
            handled = {place for place, _ in store.marks.take(run)}
            return Image(image, store.checkpoints(run), len(store.history(run)), handled)


@dataclass(frozen=True)
class Death:
    """One process that was killed."""

    passed: list[str]
    """Crash points that it passed."""
    image: Image | None
    """The journal it left."""

    @property
    def is_inside(self) -> bool:
        """Whether the run had begun and was not over."""
        return self.image is not None and not self.image.is_over


@dataclass
class Trial:
    """One run directory on one server, and the processes that die over it.

    Args:
        server: that it trains on.
        zygote: where its processes come from.
        directory: of its own.
        program: what they run, as `module:function`.
    """

    server: Server
    zygote: Zygote
    directory: Path
    program: str = "program_under_test:main"
    arguments: dict[str, Any] = field(default_factory=dict)
    """More of it, by name."""
    deaths: list[Death] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return self.directory / "run"

    def start(self, point: str = "", nth: int = 0, *, kill_after_s: float | None = None) -> bool:
        """One process, that is killed at a point or after a time; whether it was.

        Where two died over one batch, the next one lives longer: long enough that something is acknowledged.
        """
        if self.deaths and (image := self.deaths[-1].image) is not None and image.is_suspicious:
            nth += SPARED_POINTS if point == "*" else 0
            kill_after_s = None if kill_after_s is None else kill_after_s + SPARED_S
        self.directory.mkdir(exist_ok=True)
        trace, log = self.directory / "trace", self.directory / "log"
        trace.unlink(missing_ok=True)
        where = {"url": self.server.url, "run_dir": str(self.run_dir), "trace": str(trace)}
        arguments = {**where, "point": point, "nth": nth, **self.arguments}
        code = self.zygote.run(self.program, arguments, kill_after_s=kill_after_s, log=log)
        assert code in (0, KILLED), log.read_text()
        if code == KILLED:
            passed = trace.read_text().splitlines() if trace.exists() else []
            self.deaths.append(Death(passed, image_of(self.run_dir)))
            assert len(self.deaths) < MOST_DEATHS
        return code == KILLED

    def finish(self) -> None:
        """One more process, which comes to the end."""
        assert not self.start()

    def passed(self) -> list[str]:
        """The crash points that the last process passed, in order."""
        return (self.directory / "trace").read_text().splitlines()

    def passages(self) -> Counter[str]:
        """How often the last process passed each crash point."""
        return Counter(self.passed())

    def model_id(self, run: str = "1") -> str | None:
        """A run's newest model, once the journal knows it."""
        image = image_of(self.run_dir, run)
        return image.models[-1].model_id if image is not None and image.models else None

    def generations(self, run: str = "1") -> int:
        """How many models a run has had."""
        image = image_of(self.run_dir, run)
        return 0 if image is None else len(image.models)

    def lose_model(self, run: str = "1") -> None:
        """The service drops the model that a run has, while nobody looks."""
        model_id = self.model_id(run)
        if model_id is not None:
            self.server.unload(model_id)


# The judge ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One optimizer step as a server's log has it."""

    gradients: tuple[str, ...]
    """Digests of what its forward_backwards were asked for."""
    update: str
    """Digest of what its optim_step was asked for."""


def _steps(executed: Sequence[Executed]) -> tuple[list[Step], tuple[str, ...]]:
    """The steps that one model took, and the gradients behind the last one.

    What waited for a model when it was lost came to an error, at once: what was being done then may end later.
    """
    placed = [(one.seq_id, one) for one in executed if one.seq_id is not None]
    done = [place for place, one in placed if one.form != "error"]
    failed = [place for place, one in placed if one.form == "error"]
    assert done == sorted(set(done)), "requests were not executed in their order, once each"
    assert not failed or not done or min(failed) > done[-1], "a request was executed behind one that failed"
    steps: list[Step] = []
    gradients: list[str] = []
    for one in executed:
        if one.form == "error":
            continue
        if one.kind == Kind.FORWARD_BACKWARD:
            gradients.append(one.content)
        elif one.kind == Kind.OPTIM_STEP:
            steps.append(Step(tuple(gradients), one.content))
            gradients = []
    return steps, tuple(gradients)


class Judgement:
    """What an undisturbed run was like, which all others are compared to.

    Args:
        trial: that ran without a disturbance.
        run: its name.
    """

    def __init__(self, trial: Trial, run: str = "1") -> None:
        image = image_of(trial.run_dir, run)
        assert image is not None
        (model,) = image.models
        self.steps, rest = _steps(trial.server.control.executed(model.model_id or ""))
        assert rest == ()
        assert len(set(self.steps)) == len(self.steps) == image.steps
        self._files = _checkpoints(trial, image)
        self._lines = _lines(trial.run_dir, run)

    def check(self, trial: Trial, run: str = "1") -> None:
        """Every step exactly once, or exactly repeated after a restore; every file byte for byte the same."""
        image = image_of(trial.run_dir, run)
        assert image is not None
        reached = 0
        for model in image.models:
            begun = image.steps_before(model.base_place)
            assert begun <= reached, "a model began behind what any earlier one had"
            steps, rest = _steps(trial.server.control.executed(model.model_id or ""))
            reached = begun + len(steps)
            assert steps == self.steps[begun:reached], f"{model.model_id} took other steps"
            if rest:
                assert rest == self.steps[reached].gradients[: len(rest)], "gradients of no step"
        assert reached == len(self.steps), "the last model does not have every step"
        assert image.steps == len(self.steps)
        files = _checkpoints(trial, image)
        assert files.keys() == self._files.keys()
        for name, copies in files.items():
            assert set(copies) == set(self._files[name]), f"checkpoint {name} differs"
        assert _lines(trial.run_dir, run) == self._lines, "metrics or the list of checkpoints differ"


def _checkpoints(trial: Trial, image: Image) -> dict[str, list[bytes]]:
    """The bytes of each checkpoint that the program named, of every model that has it."""
    found: dict[str, list[bytes]] = {}
    for model in image.models:
        for path in _saved(trial.server.data / "checkpoints" / (model.model_id or "none")):
            content = b"".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())
            found.setdefault(path.name, []).append(content)
    return found


def _saved(model: Path) -> Iterator[Path]:
    for path in model.glob("*/*"):
        if not path.name.startswith("auto-"):  # the runtime's own come and go
            yield path


def _lines(run_dir: Path, run: str) -> list[dict[str, object]]:
    """What the run directory tells other programs of a run, without its name and the model's."""
    lines = []
    for name in (METRICS, CHECKPOINTS):
        for line in (run_dir / name).read_text().splitlines():
            document = json.loads(line)
            if document.pop("run") == run and not str(document.get("name", "")).startswith("auto-"):
                document.pop("state_path", None)
                lines.append(document)
    return lines
