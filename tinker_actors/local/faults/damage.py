"""What faults do to what the service keeps: the losses that clients must recover from."""

from tinker_actors.errors import ValidationError
from tinker_actors.local import checkpoint_records, ledger, records
from tinker_actors.local.checkpoints import encode_named
from tinker_actors.local.engine.training import Trainer
from tinker_actors.local.faults.plan import Effect
from tinker_actors.local.faults.switches import Seen
from tinker_actors.local.live_models import base_model
from tinker_actors.local.refusals import RefusedError, StorageError
from tinker_actors.local.service import Service
from tinker_actors.local.specs import Result
from tinker_actors.types import CheckpointPath

__all__ = ["damage", "executed"]


async def executed(service: Service, request_id: str, patience_s: float) -> Result | None:
    """The result of a request, or None if it is not executed in time, or unknown."""
    try:
        return await service.result(request_id, patience_s)
    except RefusedError:
        return None


async def damage(
    service: Service, effect: Effect, seen: Seen, *, request_id: str | None, path: str | None
) -> str:
    """Do it; what was damaged, or an empty text if there was nothing to damage.

    Args:
        service: whose records and files suffer.
        effect: one of `DAMAGING`.
        seen: the request at which it happens.
        request_id: of the request whose result expires.
        path: of the checkpoint.
    """
    try:
        match effect:
            case "expire_session" if seen.session_id is not None:
                await service.finish_session(seen.session_id, records.expiry("a fault said so"))
                return seen.session_id
            case "lose_model" if seen.model_id is not None:
                model_id = seen.model_id
                await service.accept(lambda db: records.unload(db, model_id, b"{}"))
                return model_id
            case "corrupt_run" if seen.model_id is not None:
                model_id = seen.model_id
                await service.run(lambda db: records.corrupt_run(db, model_id))
                return model_id
            case "expire_result" if request_id is not None:
                asked = request_id
                return asked if await service.run(lambda db: ledger.expire(db, asked)) else ""
            case "lose_checkpoint" | "spoil_checkpoint" | "cool_optimizer" if path is not None:
                await _damage_checkpoint(service, effect, path)
                return path
            case _:
                return ""
    except (RefusedError, ValidationError, StorageError, OSError):  # it is not there, or the disk is full
        return ""


async def _damage_checkpoint(service: Service, effect: Effect, name: str) -> None:
    path = CheckpointPath.parse(name, kind="weights" if effect == "cool_optimizer" else None)
    await service.ask(lambda db: checkpoint_records.find(db, path))
    match effect:
        case "lose_checkpoint":
            await service.run(lambda db: checkpoint_records.delete(db, service.checkpoints, path))
        case "spoil_checkpoint":
            await service.in_thread(service.checkpoints.spoil, path)
        case _:
            await service.in_thread(_cool, service, path)


def _cool(service: Service, path: CheckpointPath) -> None:
    """Save the checkpoint as a model that has its weights and has taken no step."""
    facts = service.checkpoints.facts(path)
    base = base_model(facts.base_model)
    trainer = Trainer(base, facts.make(base.config))
    trainer.load_state(service.checkpoints.arrays(path), optimizer=False)
    spec = facts.spec(str(path), {}, optimizer=False)
    service.checkpoints.save(path, encode_named(path.kind, spec, trainer))
