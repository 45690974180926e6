"""The end of one run while the others go on: what was submitted is finished and saved, then its model is freed.

It runs on a thread of its own, and waits for actors and for the service.
"""

from tinker_actors.actors.run import Run
from tinker_actors.actors.runtime import Runtime
from tinker_actors.actors.training import Drain
from tinker_actors.api.training import unload_model
from tinker_actors.errors import (
    HandleClosedError,
    NotDeliveredError,
    NotFoundError,
    OutcomeUnknownError,
    RunHaltedError,
)

__all__ = ["unload"]

SAVING_TIMEOUT_S = 3600.0
"""After which it is asked for again."""


def unload(runtime: Runtime, run: Run) -> None:
    """Refuse what comes later, finish and save what came before, end the actor, and have the model freed.

    Raises:
        RunHaltedError: the run is halted, or could not be saved; its model stays.
        TinkerActorsError: the client is closed, or whatever the service says.
    """
    over = HandleClosedError(f"run {run.name} was unloaded; create it again, by its name, to go on")
    run.submissions.refuse(over)
    _finish(runtime, run)
    model_id = _model_of(runtime, run)
    runtime.end_run(run, over)
    if model_id is None:
        return
    try:
        runtime.fetch(unload_model(model_id)).result()
    except NotFoundError:
        return  # it is gone already


def _finish(runtime: Runtime, run: Run) -> None:
    while True:
        reply = runtime.address_of(run).ask(Drain(), timeout_s=SAVING_TIMEOUT_S)
        error = reply.exception()
        if error is None and reply.result():
            return
        if error is not None and not isinstance(error, OutcomeUnknownError | NotDeliveredError):
            raise error
        if error is None or run.ended is not None or runtime.published.stopped is not None:
            cause = run.ended or runtime.published.stopped or "its checkpoint failed"
            raise RunHaltedError(
                f"run {run.name} is not safe, and its model stays: {cause}",
                run=run.name,
                resume="create it again",
            )
        # Its actor crashed meanwhile; the next one goes on with what was submitted, and has to be asked, too.


def _model_of(runtime: Runtime, run: Run) -> str | None:
    """The newest model that the run had, if it ever had one."""
    found = [
        model.model_id
        for history in runtime.histories().result()
        if history.run == run.key
        for model in history.models
    ]
    return found[-1] if found else None
