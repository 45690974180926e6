"""One request that the engine answers alone."""

from tinker_actors.local.engine.batching import Batch, Generation
from tinker_actors.local.engine.catalog import BaseModel
from tinker_actors.local.engine.drawing import Decode
from tinker_actors.local.engine.lora import Adapter
from tinker_actors.local.engine.sampling import SampleSpec


def generate(
    base: BaseModel,
    adapter: Adapter | None,
    spec: SampleSpec,
    *,
    eos_token_id: int | None = None,
    decode: Decode | None = None,
) -> Generation:
    """Answer one request, alone.

    Raises:
        ValidationError: as `SampleSpec.check`; or `stop` is text and there is no `decode`.
    """
    spec.check(base.config)
    batch = Batch(base.weights if adapter is None else adapter.merged(base), eos_token_id, decode)
    generation = batch.join(spec)
    while not batch.is_empty:
        batch.step()
    return generation
