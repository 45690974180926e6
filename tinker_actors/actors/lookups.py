"""Saves that the service may have carried out although it does not say so: what lies under their names."""

from dataclasses import dataclass

import msgspec

from tinker_actors.actors.journal import LoadSaves
from tinker_actors.actors.opening import load_run
from tinker_actors.actors.outbox import Outbox, Part, Pending
from tinker_actors.actors.published import JOURNAL, TRANSPORT
from tinker_actors.actors.transport import Send
from tinker_actors.api.checkpoints import get_weights_info
from tinker_actors.api.training import SaveContent
from tinker_actors.errors import TinkerActorsError
from tinker_actors.journal.records import EXECUTED, Kind, OperationRecord
from tinker_actors.supervision import Context
from tinker_actors.wire.calls import JSON, Answer, json_body

__all__ = ["LookUp", "Lookups"]

_FOLDERS = {Kind.SAVE_WEIGHTS: "weights", Kind.SAVE_FOR_SAMPLER: "sampler_weights"}


@dataclass(frozen=True, slots=True)
class LookUp:
    """Tag of the question what lies under the name of a save."""

    generation: int
    part: Part
    path: str
    error: TinkerActorsError
    """Why there is a question."""
    is_refused: bool
    """Whether the service refused the request; else it lost the result."""

    def answer(self, kind: Kind) -> Answer:
        """The result of the save, as the service would have given it."""
        return Answer(200, {"content-type": JSON}, json_body({"type": kind, "path": self.path}))


class Lookups:
    """Asks for the saves of one run.

    Args:
        run: its name in the journal.
        context: of the actor this works for.
    """

    def __init__(self, run: str, context: Context) -> None:
        self._run = run
        self._context = context

    def ask(self, outbox: Outbox, part: Part, error: TinkerActorsError, *, is_refused: bool) -> bool:
        """Ask whether a save was carried out; False where it is none that could have been."""
        pending = outbox[part[0]]
        path = self._path(outbox, pending)
        if path is None:
            return False
        self.repeat(LookUp(outbox.model.generation, part, path, error, is_refused))
        return True

    def repeat(self, look_up: LookUp) -> None:
        """Ask once more, when nobody is left to answer."""
        me = self._context.me
        send = Send(get_weights_info(look_up.path), look_up, me, owner=self._context.path)
        self._context.address(TRANSPORT).tell(send)

    def _path(self, outbox: Outbox, pending: Pending) -> str | None:
        """Where a save would lie that nobody but this operation can have made; None where an earlier one may have."""
        if pending.kind not in _FOLDERS or not pending.is_named:
            return None
        name = msgspec.json.decode(pending.contents[0], type=SaveContent).name
        journal = self._context.address(JOURNAL)
        image = load_run(self._run, journal)
        if pending.kind is Kind.SAVE_FOR_SAMPLER and image.base_place:
            return None  # the names of samplers before it are not kept
        earlier: list[OperationRecord] = journal.call(LoadSaves(self._run))
        path = f"tinker://{outbox.model_id}/{_FOLDERS[pending.kind]}/{name}"
        others = [one for one in (*earlier, *image.operations) if one.place != pending.record.place]
        return None if any(path == _recorded_path(one) for one in others) else path


def _recorded_path(save: OperationRecord) -> str | None:
    if save.kind not in _FOLDERS or save.state not in EXECUTED:
        return None
    path: str | None = msgspec.json.decode(save.summary or b"{}").get("path")
    return path
