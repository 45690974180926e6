"""What a run needs does not grow with its length."""

import pytest
from trial import Trial

STEPS = 601
"""Enough for a hundred checkpoints of the runtime's own."""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_run(trial: Trial) -> None:
    trial.program = "program_under_test:at_length"
    trial.arguments = {"steps": STEPS}
    trial.finish()
    memory = [int(line) for line in trial.passed()]
    settled = memory[3:]  # caches and pools have filled up by then
    assert len(settled) == 10
    assert max(settled) - settled[0] < 100_000, memory
