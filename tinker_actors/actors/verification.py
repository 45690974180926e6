"""Whether a restored model is the one that was lost: what it repeats must give what it gave before."""

import math
from collections.abc import Iterable

import msgspec

from tinker_actors.actors.fingerprints import Fingerprint, difference_nats, fingerprint_of
from tinker_actors.actors.outbox import Pending
from tinker_actors.actors.results import digest_of
from tinker_actors.actors.run import read_parts
from tinker_actors.config import RecoveryPolicy
from tinker_actors.journal.records import Kind, OperationRecord, ResultRecord, State
from tinker_actors.wire.calls import Answer

__all__ = ["Verification", "shows_optimizer"]


class Verification:
    """Compares repeated results with the recorded ones, in order.

    Args:
        policy: says how far apart they may be.
        is_exact: whether the service gives equal bits for equal requests; then nothing else is good enough.
        has_stepped: whether the model has taken an optimizer step since it began.
    """

    def __init__(self, policy: RecoveryPolicy, *, is_exact: bool, has_stepped: bool) -> None:
        self._policy = policy
        self._is_exact = is_exact
        self._has_stepped = has_stepped

    @property
    def limit_nats(self) -> float:
        """How far apart results may be."""
        return 0.0 if self._is_exact else self._policy.divergence_nats

    def difference(self, pending: Pending) -> float | None:
        """By how many nats a repeated operation differs from its record; None where it is the same, or nobody can say.

        Raises:
            APIResponseValidationError: an answer cannot be read.
        """
        if pending.record.state != State.DONE or not pending.kind.changes_the_model or pending.lost:
            return None
        is_comparable = self._policy.restore_optimizer or not self._has_stepped
        self._has_stepped = self._has_stepped or pending.kind is Kind.OPTIM_STEP
        if not is_comparable or (pending.kind is Kind.OPTIM_STEP and not self._is_exact):
            return None
        pairs = zip(pending.recorded, pending.answers, strict=False)
        gaps = [self._gap(pending.kind, record, answer) for record, answer in pairs if answer is not None]
        return next((gap for gap in gaps if gap is not None), None)

    def _gap(self, kind: Kind, record: ResultRecord, answer: Answer) -> float | None:
        if digest_of(answer.body) == record.digest:
            return None
        if record.summary is None:
            return math.inf if self._is_exact else None
        (found,) = read_parts(kind, [answer])
        gap = difference_nats(msgspec.json.decode(record.summary, type=Fingerprint), fingerprint_of(found))
        return gap if self._is_exact or gap > self._policy.divergence_nats else None


def shows_optimizer(replayed: Iterable[OperationRecord]) -> bool:
    """Whether a cold optimizer would show: the result of a forward_backward depends on the step before it."""
    has_stepped = False
    for operation in replayed:
        if operation.state != State.DONE:
            continue
        if has_stepped and operation.kind == Kind.FORWARD_BACKWARD:
            return True
        has_stepped = has_stepped or operation.kind == Kind.OPTIM_STEP
    return False
