"""What a run does about weights of its unnamed saves that samplers live on, once their session is gone.

A run that is replayed in another session saves again what lies in the range that it replays, at its place; of the rest
nothing is left.
"""

from collections.abc import Collection
from typing import Any

from tinker_actors.actors.results import recorded_result
from tinker_actors.actors.run import Run
from tinker_actors.actors.unnamed import UnnamedWeights
from tinker_actors.journal.records import Kind, ModelRecord, OperationRecord, State
from tinker_actors.journal.replay import results_of
from tinker_actors.journal.store import RunImage

__all__ = ["Resaving"]


class Resaving:
    """Saves weights again that one run's samplers live on, as far as its model repeats what they were saved after.

    Args:
        run: whose.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def places(self, image: RunImage, model: ModelRecord) -> set[int]:
        """Of the saves that `model` has to repeat; samplers that it cannot bring back are told so.

        Args:
            image: with the sends of `model`.
            model: the run's latest.
        """
        saves = {one.ticket: one for one in image.operations if one.kind == Kind.SAVE_FOR_SAMPLER}
        sent = {send.place: bool(send.ended) for send in image.sends if send.seq_id}
        places = set[int]()
        for weights in self._elsewhere(model.session_id):
            save = saves.get(weights.ticket)
            if save is None or not _comes_again(save, model, sent):
                weights.lose()
            elif sent.get(save.place, False):  # before its actor could tell so
                self.note_saved(save, recorded_result(save, results_of(image)[save.place]), model)
            else:
                places.add(save.place)
        return places

    def note_saved(self, save: OperationRecord, value: Any, model: ModelRecord) -> None:
        """`model` repeated a save; `value` is the result, None where that was lost."""
        for weights in self._elsewhere(model.session_id):
            if weights.ticket != save.ticket:
                continue
            if value is None:
                weights.lose()
            else:
                weights.move(model.session_id, value.sampling_session_id)

    def note_failed(self, save: OperationRecord) -> None:
        """A save that was repeated failed this time."""
        for weights in self._run.unnamed:
            if weights.ticket == save.ticket:
                weights.lose()

    def _elsewhere(self, session_id: str) -> list[UnnamedWeights]:
        return [one for one in self._run.unnamed if one.home[0] != session_id]


def _comes_again(save: OperationRecord, model: ModelRecord, sent: Collection[int]) -> bool:
    """Whether the model comes by the place of a save, and was not sent past it before."""
    if save.place <= model.base_place or save.state != State.DONE:
        return False
    return save.place in sent or save.place > max(sent, default=0)
