"""How a training actor begins: the run as the journal has it, and what its predecessors could not hand over."""

import msgspec

from tinker_actors.actors.failures import recorded_error
from tinker_actors.actors.journal import Append, LatestLineage, LoadRun
from tinker_actors.actors.results import recorded_result
from tinker_actors.actors.run import Run, RunConfig
from tinker_actors.errors import ConfigError
from tinker_actors.journal.lineages import next_lineage
from tinker_actors.journal.records import Kind, RunRecord, State
from tinker_actors.journal.replay import results_of
from tinker_actors.journal.store import RunImage
from tinker_actors.supervision import Address
from tinker_actors.wire.calls import json_body

__all__ = ["load_run", "open_run", "settle_recorded"]


def load_run(run: str, journal: Address) -> RunImage:
    """The run of that name as the journal has it, once it was opened."""
    image: RunImage | None = journal.call(LoadRun(run))
    assert image is not None  # noqa: S101 - noted when it was opened
    return image


def open_run(run: Run, journal: Address) -> RunImage:
    """The run as the journal has it; one that is not there, or that nothing came of, is noted.

    Where it asks for another checkpoint to begin in, a new lineage of it begins; what the journal has stays there. It
    takes the old one's place once it has a model.

    Raises:
        ConfigError: it was created otherwise than it is asked for now.
    """
    run.key = journal.call(LatestLineage(run.name))
    image, recorded = _recorded(run.key, journal)
    has_begun = image is not None and any(model.model_id for model in image.models)
    if recorded is not None and has_begun and run.config.begins_elsewhere(recorded):
        run.key, has_begun = next_lineage(run.key), False
        image, recorded = _recorded(run.key, journal)
    if recorded is not None:
        try:
            run.config.check_resumes(run.name, recorded)
        except ConfigError:
            if has_begun:
                raise
            recorded = None  # the service refused it, or never answered
    if image is None or recorded is None:
        recorded = run.config.seeded()
        journal.call(Append((RunRecord(run=run.key, config=json_body(recorded)),)))
        image = load_run(run.key, journal)
    run.config = recorded
    run.resume(image)
    return image


def _recorded(run: str, journal: Address) -> tuple[RunImage | None, RunConfig | None]:
    """A run as the journal has it, and what it was created with."""
    image: RunImage | None = journal.call(LoadRun(run))
    return image, None if image is None else msgspec.json.decode(image.run.config, type=RunConfig)


def settle_recorded(run: Run, image: RunImage) -> None:
    """Settle the futures whose operations ended, while a predecessor died before it could do so."""
    results = results_of(image)
    for operation in image.operations:
        if not run.submissions.is_open(operation.ticket):
            continue
        match operation.state:
            case State.DONE:
                value = recorded_result(operation, results[operation.place])
                run.submissions.settle(operation.ticket, value)
            case State.FAILED | State.VOID | State.SKIPPED | State.EXPIRED:
                if operation.state == State.VOID and operation.kind == Kind.OPTIM_STEP:
                    run.note_step_void()
                run.submissions.fail(operation.ticket, recorded_error(operation))
