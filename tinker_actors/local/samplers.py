"""Sampling: the adapters last sampled from, and one request's samples."""

from collections import OrderedDict

from tinker_actors.local import records
from tinker_actors.local.checkpoints import Checkpoints, adapter_arrays
from tinker_actors.local.engine.catalog import BaseModel
from tinker_actors.local.engine.lora import Adapter
from tinker_actors.local.engine.sampling import generate, prompt_logprobs
from tinker_actors.local.live_models import base_model
from tinker_actors.local.store import Store
from tinker_actors.tokenization import get_tokenizer
from tinker_actors.types import CheckpointPath, SampledSequence, SampleResponse
from tinker_actors.wire.documents import SampleRequest

__all__ = ["Samplers"]

ADAPTERS_KEPT = 8


class Samplers:
    """What sampling sessions sample from. Only the executor's thread may call it."""

    def __init__(self, store: Store, checkpoints: Checkpoints) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()

    def sample(self, request: SampleRequest, seed: int | None) -> SampleResponse:
        """The samples a request asks for.

        Args:
            request: a valid one.
            seed: drawn when the request was accepted, if it named none.

        Raises:
            ValidationError: its weights cannot be read.
        """
        sampler = self._store.ask(lambda db: records.sampler(db, request.sampling_session_id))
        base = base_model(sampler.base_model)
        adapter = self._adapter(sampler, base)
        prompt = request.prompt.to_numpy().tolist()
        tokenizer = get_tokenizer(base.name)
        params = request.sampling_params
        drawn = generate(
            base,
            adapter,
            prompt,
            num_samples=request.num_samples,
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            seed=params.seed if params.seed is not None else seed,
            stop=params.stop,
            eos_token_id=tokenizer.eos_token_id,
            decode=tokenizer.decode,
        )
        return SampleResponse(
            sequences=[
                SampledSequence(
                    tokens=sequence.tokens, logprobs=sequence.logprobs, stop_reason=sequence.stop_reason
                )
                for sequence in drawn
            ],
            prompt_logprobs=prompt_logprobs(base, adapter, prompt) if request.prompt_logprobs else None,
        )

    def _adapter(self, sampler: records.Sampler, base: BaseModel) -> Adapter | None:
        key = sampler.sampling_session_id if sampler.ephemeral else sampler.path
        if key is None:
            return None
        if key not in self._adapters:
            self._adapters[key] = self._loaded(sampler, base)
            while len(self._adapters) > ADAPTERS_KEPT:
                self._adapters.popitem(last=False)
        self._adapters.move_to_end(key)
        return self._adapters[key]

    def _loaded(self, sampler: records.Sampler, base: BaseModel) -> Adapter:
        files = self._checkpoints
        if sampler.path is None:
            facts = files.sampler_facts(sampler.sampling_session_id)
            arrays = files.sampler_arrays(sampler.sampling_session_id)
        else:
            path = CheckpointPath.parse(sampler.path, kind="sampler_weights")
            facts, arrays = files.facts(path), files.arrays(path)
        adapter = facts.make(base.config)
        adapter.fill(adapter.flat, adapter_arrays(arrays))
        adapter.version += 1
        return adapter
