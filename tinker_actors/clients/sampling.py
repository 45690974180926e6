"""Sampling, as the official SDK names it."""

from collections.abc import Sequence
from typing import Any

from tinker_actors.actors.sampling import SampleOrder, Sampler
from tinker_actors.clients.future import APIFuture
from tinker_actors.clients.vocabulary import Vocabulary
from tinker_actors.errors import ValidationError
from tinker_actors.tokenization import Tokenizer, get_tokenizer
from tinker_actors.types import ModelInput, SampleResponse, SamplingParams
from tinker_actors.types.checks import flag, whole

__all__ = ["SamplingClient"]


class SamplingClient:
    """Draws sequences from one set of weights. Thread-safe; survives whatever its actor survives."""

    def __init__(self, sampler: Sampler, base_model: str) -> None:
        self._sampler = sampler
        self._vocabulary = Vocabulary(base_model)
        self.base_model = base_model
        """Name of the base model."""
        self.model_path = sampler.model_path
        """`tinker://` path of the weights; None for a base model or an unnamed save."""

    def sample(
        self,
        prompt: ModelInput | Sequence[int],
        num_samples: int,
        sampling_params: SamplingParams,
        include_prompt_logprobs: bool = False,
    ) -> APIFuture[SampleResponse]:
        """Draw `num_samples` sequences that continue `prompt`.

        Args:
            prompt: what they continue.
            num_samples: how many.
            sampling_params: how tokens are drawn.
            include_prompt_logprobs: also give the logprobs of the prompt's own tokens.

        Raises:
            ValidationError: an argument is wrong; nothing was sent.
        """
        model_input = ModelInput.of(prompt)
        self._vocabulary.check(model_input.to_numpy(), "prompt")
        if model_input.length == 0:
            raise ValidationError("a prompt needs at least one token, got none")
        order = SampleOrder(
            # Lists of plain integers are what JSON can hold, whatever the caller's sequences are.
            prompt=ModelInput.from_ints(model_input.to_numpy().tolist()),
            num_samples=whole("num_samples", num_samples, least=1),
            sampling_params=SamplingParams.of(sampling_params),
            prompt_logprobs=flag("include_prompt_logprobs", include_prompt_logprobs),
        )
        return APIFuture(self._sampler.submissions.add(order), is_cancellable=True)

    async def sample_async(self, *args: Any, **kwargs: Any) -> SampleResponse:
        """`sample`, awaited."""
        return await self.sample(*args, **kwargs)

    def compute_logprobs(self, prompt: ModelInput | Sequence[int]) -> APIFuture[list[float | None]]:
        """The logprob of each token of `prompt` given those before it, nats; the first is None."""
        response = self.sample(prompt, 1, SamplingParams(max_tokens=1), include_prompt_logprobs=True)
        return response.then(lambda result: result.prompt_logprobs or [])

    async def compute_logprobs_async(self, prompt: ModelInput | Sequence[int]) -> list[float | None]:
        """`compute_logprobs`, awaited."""
        return await self.compute_logprobs(prompt)

    def get_base_model(self) -> str:
        """Name of the base model."""
        return self.base_model

    async def get_base_model_async(self) -> str:
        """`get_base_model`, as a coroutine."""
        return self.base_model

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return get_tokenizer(self.base_model)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a SamplingClient belongs to its process; create one there from the same model_path")
