"""The judge of recovery sees what it looks for: a step too many or too few, a gradient or a byte that is another."""

import pytest
from program_under_test import STEPS
from trial import Judgement, Trial


@pytest.mark.parametrize("fault", ["another batch", "a gradient doubled", "another update"])
def test_a_run_with_another_step_is_condemned(trial: Trial, undisturbed: Judgement, fault: str) -> None:
    trial.program = "program_under_test:go_wrong"
    trial.arguments = {"fault": fault}
    trial.finish()
    with pytest.raises(AssertionError, match="took other steps"):
        undisturbed.check(trial)


@pytest.mark.parametrize(
    ("steps", "verdict"), [(STEPS - 1, "does not have every step"), (STEPS + 1, "took other steps")]
)
def test_a_run_with_another_number_of_steps_is_condemned(
    trial: Trial, undisturbed: Judgement, steps: int, verdict: str
) -> None:
    trial.arguments = {"steps": steps}
    trial.finish()
    with pytest.raises(AssertionError, match=verdict):
        undisturbed.check(trial)


def test_a_checkpoint_with_another_byte_is_condemned(trial: Trial, undisturbed: Judgement) -> None:
    trial.finish()
    undisturbed.check(trial)
    file = trial.server.checkpoint(f"tinker://{trial.model_id()}/weights/final")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(AssertionError, match="checkpoint final differs"):
        undisturbed.check(trial)


def test_a_line_of_metrics_that_is_missing_is_condemned(trial: Trial, undisturbed: Judgement) -> None:
    trial.finish()
    metrics = trial.run_dir / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(AssertionError, match="metrics"):
        undisturbed.check(trial)
