"""Sampling, as the official SDK names it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, overload

import msgspec

from tinker_actors.actors.published import SAMPLING
from tinker_actors.actors.reporting import Telemetry
from tinker_actors.actors.sampling import SampleOrder, Sampler
from tinker_actors.actors.streams import Channel
from tinker_actors.api.sampling import SampleOptions
from tinker_actors.clients.future import APIFuture
from tinker_actors.clients.handle import Handle
from tinker_actors.clients.streams import SampleStream
from tinker_actors.clients.twins import as_coroutine, awaited
from tinker_actors.clients.vocabulary import Vocabulary
from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.supervision import Clock
from tinker_actors.tokenization import Tokenizer, get_tokenizer, tokenizer_at_hand
from tinker_actors.types import (
    Chunk,
    EncodedTextChunk,
    ModelInput,
    SampleResponse,
    SamplingParams,
    TensorData,
    token_ids,
)
from tinker_actors.types.checks import MOST_INT32, finite, flag, whole
from tinker_actors.types.topk import TopkRows

__all__ = ["SamplingClient", "SamplingPlace"]


class SamplingPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a sampler is on the service; all that another process needs beside a key."""

    sampling_session_id: str
    base_url: str
    base_model: str
    model_path: str | None
    is_embedded: bool
    """Whether the server is an embedded one, which takes any key."""


class SamplingClient:
    """Draws sequences from one set of weights. Thread-safe; survives whatever its actor survives."""

    exposed: ClassVar[tuple[str, ...]] = (  # what the proxy of a handle offers
        "base_model",
        "compute_logprobs",
        "model_path",
        "sample",
        "sample_stream",
    )

    def __init__(
        self,
        sampler: Sampler,
        base_model: str,
        clock: Clock,
        locate: Callable[[], tuple[str, bool] | None],
        *,
        model_path: str | None = None,
        owner: object = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._sampler = sampler
        self._telemetry = telemetry
        self._locate = locate
        self._owner = owner
        """What must live as long as this does."""
        self._clock = clock
        self._vocabulary = Vocabulary(base_model)
        self.base_model = base_model
        """Name of the base model."""
        self.model_path = model_path
        """`tinker://` path of the weights; None for a base model or an unnamed save."""

    @property
    def handle(self) -> Handle:
        """This client for programs made of actors: `ask`, `tell` and `proxy`."""
        return Handle(self, f"{SAMPLING}/sampling:{self._sampler.name}", self._clock)

    def sample(
        self,
        prompt: ModelInput | Sequence[int],
        num_samples: int,
        sampling_params: SamplingParams,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: TensorData | None = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
    ) -> APIFuture[SampleResponse]:
        """Draw `num_samples` sequences that continue `prompt`.

        A result without something that was asked for is an `APIResponseValidationError` of the future:
        services older than an option leave its answer out.

        Args:
            prompt: what they continue.
            num_samples: how many.
            sampling_params: how tokens are drawn.
            include_prompt_logprobs: also give the logprobs of the prompt's own tokens.
            topk_prompt_logprobs: also give so many of the likeliest tokens at each prompt position.
            topk_sample_logprobs: also give so many of the likeliest tokens at each drawn position.
            target_prompt_logprobs: also give the logprobs of these ids, int64 of shape
                (prompt tokens - 1, K): row i is scored at prompt position i + 1, -1 is left out. A sparse
                tensor names only the cells it lists.
            prompt_alt_tokens_k: also draw so many tokens in place of each prompt token after the first.
            prompt_logprobs_last_n: score only so many of the prompt's last tokens, from 1 to all but the first.

        Raises:
            ValidationError: an argument is wrong; nothing was sent.
        """
        model_input = self._prompt(prompt)
        length = model_input.known_length
        score = flag("include_prompt_logprobs", include_prompt_logprobs)
        options = SampleOptions(
            num_samples=whole("num_samples", num_samples, least=1, most=MOST_INT32),
            prompt_logprobs=score,
            topk_prompt_logprobs=_count("topk_prompt_logprobs", topk_prompt_logprobs),
            topk_sample_logprobs=_count("topk_sample_logprobs", topk_sample_logprobs),
            target_prompt_logprobs=self._targets(target_prompt_logprobs, length),
            prompt_alt_tokens_k=_count("prompt_alt_tokens_k", prompt_alt_tokens_k),
            prompt_logprobs_last_n=_last_n(prompt_logprobs_last_n, length, is_scored=score),
            record_stability_info=self._sampler.record_stability_info,
        )
        order = SampleOrder(
            prompt=model_input, sampling_params=SamplingParams.of(sampling_params), options=options
        )
        return APIFuture(self._sampler.submit(order), is_cancellable=True)

    sample_async = awaited(sample)

    def sample_stream(
        self,
        prompt: ModelInput | Sequence[int],
        sampling_params: SamplingParams,
        num_samples: int = 1,
        *,
        timeout: float | None = None,
        in_one_burst: bool = False,
    ) -> SampleStream:
        """Draw `num_samples` sequences that continue `prompt`, and give each token while they are drawn.

        It asks for an endpoint that the embedded server has and the official API has not. What fails before the
        first token is tried again, as with `sample`; behind one, a stream that breaks off cannot be taken up
        again.

        Args:
            prompt: what they continue.
            sampling_params: how tokens are drawn.
            num_samples: how many; tokens of one sequence come in order, those of several as they are drawn.
            timeout: longest wait for a token, seconds; None waits for as long as the service does something.
            in_one_burst: where the service cannot stream, ask for whole samples, and give their tokens at once.

        Returns:
            An iterator and an async iterator of chunks: tokens and, for each sequence, its end. Iterating raises
            `StreamBrokenError`, which says how many tokens came, `StreamUnsupportedError`,
            `RequestFailedError`, `APITimeoutError`, or what else `sample` fails with.

        Raises:
            ValidationError: an argument is wrong; nothing was sent.
        """
        count = whole("num_samples", num_samples, least=1, most=MOST_INT32)
        limit_s = None if timeout is None else finite("timeout", timeout)
        is_lenient = flag("in_one_burst", in_one_burst)
        channel = Channel(count)
        params = SamplingParams.of(sampling_params)
        order = SampleOrder(
            prompt=self._prompt(prompt),
            sampling_params=params,
            options=SampleOptions(num_samples=count),
            channel=channel,
        )
        return SampleStream(
            self,
            self._sampler,
            channel,
            self._sampler.submit(order),
            timeout_s=limit_s,
            whole=partial(self.sample, order.prompt, count, params) if is_lenient else None,
            tokenizer=partial(tokenizer_at_hand, self.base_model),
        )

    @overload
    def compute_logprobs(
        self, prompt: ModelInput | Sequence[int], prompt_logprobs_last_n: int | None = None
    ) -> APIFuture[list[float | None]]: ...

    @overload
    def compute_logprobs(
        self,
        prompt: ModelInput | Sequence[int],
        prompt_logprobs_last_n: int | None = None,
        *,
        topk_prompt_logprobs: int,
    ) -> APIFuture[tuple[list[float | None], TopkRows]]: ...

    def compute_logprobs(
        self,
        prompt: ModelInput | Sequence[int],
        prompt_logprobs_last_n: int | None = None,
        *,
        topk_prompt_logprobs: int | None = None,
    ) -> APIFuture[Any]:
        """The logprob of each token of `prompt` given those before it, nats; the first is None.

        Args:
            prompt: what is scored.
            prompt_logprobs_last_n: score only so many of its last tokens; the others are None.
            topk_prompt_logprobs: also give so many of the likeliest tokens at each position; the result is
                then a pair of the logprobs and of these.

        Raises:
            ValidationError: an argument is wrong; nothing was sent.
        """
        response = self.sample(
            prompt,
            1,
            SamplingParams(max_tokens=1),
            include_prompt_logprobs=True,
            topk_prompt_logprobs=0 if topk_prompt_logprobs is None else topk_prompt_logprobs,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
        )
        if topk_prompt_logprobs is None:
            return response.then(lambda result: result.prompt_logprobs)
        return response.then(lambda result: (result.prompt_logprobs, result.topk_prompt_logprobs or []))

    async def compute_logprobs_async(
        self,
        prompt: ModelInput | Sequence[int],
        prompt_logprobs_last_n: int | None = None,
        *,
        topk_prompt_logprobs: int | None = None,
    ) -> Any:
        """`compute_logprobs`, awaited."""
        if topk_prompt_logprobs is None:
            return await self.compute_logprobs(prompt, prompt_logprobs_last_n)
        return await self.compute_logprobs(
            prompt, prompt_logprobs_last_n, topk_prompt_logprobs=topk_prompt_logprobs
        )

    def _prompt(self, prompt: Any) -> ModelInput:
        """`prompt` in plain values, which JSON can hold, whatever the caller's sequences are."""
        given = ModelInput.of(prompt)
        self._vocabulary.check(given.text_ids(), "prompt")
        chunks: list[Chunk] = [
            EncodedTextChunk(tokens=token_ids(chunk.tokens).tolist())
            if isinstance(chunk, EncodedTextChunk)
            else chunk
            for chunk in given.chunks
        ]
        model_input = ModelInput(chunks=chunks)
        if model_input.known_length == 0:
            raise ValidationError("a prompt needs at least one token, got none")
        return model_input

    def _targets(self, targets: Any, length: int | None) -> TensorData | None:
        if targets is None:
            return None
        tensor = TensorData.of(targets)
        if tensor.dtype != "int64":
            raise ValidationError(f"target_prompt_logprobs must be int64 token ids, got {tensor.dtype}")
        is_matrix = len(tensor.shape) == 2  # noqa: PLR2004
        if not is_matrix or (length is not None and tensor.shape[0] != length - 1):
            wanted = "prompt tokens - 1" if length is None else length - 1
            raise ShapeError(f"target_prompt_logprobs must have shape ({wanted}, K), got {tensor.shape}")
        ids = tensor.values[tensor.values != -1]
        if ids.size == 0:
            raise ValidationError("target_prompt_logprobs must name at least one token id, got none")
        if ids.min() < 0 or ids.max() > MOST_INT32:
            raise ValidationError(
                f"target_prompt_logprobs must hold token ids or -1, got {ids.min()} to {ids.max()}"
            )
        self._vocabulary.check(ids, "target_prompt_logprobs")
        return tensor

    def get_base_model(self) -> str:
        """Name of the base model."""
        return self.base_model

    get_base_model_async = as_coroutine(get_base_model)

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer of the base model; see `tinker_actors.tokenization.get_tokenizer`.

        Raises:
            ValidationError: there is none, or its files cannot be read.
            APIConnectionError: it is on the Hugging Face hub, which cannot be reached.
            MissingExtraError: its files are read by a library that is not installed.
        """
        return get_tokenizer(self.base_model)

    def get_telemetry(self) -> Telemetry | None:
        """What tells the service of this program; None unless `telemetry=` or `TINKER_TELEMETRY` switched it on."""
        return self._telemetry

    def get_sampler_handle(self) -> str:
        """Text by which another process gets at this sampler: `SamplingClient.from_sampler_handle`. No key is in it.

        The sampler lives as long as this process does: whoever uses the handle sends no signs of life.

        Raises:
            ValidationError: there is no server at the moment.
        """
        from tinker_actors.clients.clones import to_handle

        return to_handle(self._place())

    @classmethod
    def from_sampler_handle(cls, handle: str, api_key: str | None = None) -> "SamplingClient":
        """A client of the sampler that `handle` names; its requests and those of others never meet.

        Args:
            handle: of `get_sampler_handle`.
            api_key: default `TINKER_API_KEY`, as for a `ServiceClient`.

        Raises:
            ValidationError: it is no handle.
            ConfigError: there is no key.
        """
        from tinker_actors.clients.clones import from_handle

        return from_handle(handle, api_key)

    def _place(self) -> SamplingPlace:
        where = self._locate()
        if where is None or self._sampler.session_id is None:
            raise ValidationError("a sampler has a handle while its server is up; it is not, at the moment")
        return SamplingPlace(
            sampling_session_id=self._sampler.session_id,
            base_url=where[0],
            base_model=self.base_model,
            model_path=self.model_path,
            is_embedded=where[1],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is a client over the handle; the key comes from that process's environment."""
        return SamplingClient.from_sampler_handle, (self.get_sampler_handle(),)


def _count(name: str, value: Any) -> int:
    return whole(name, value, least=0, most=MOST_INT32)


def _last_n(value: Any, length: int | None, *, is_scored: bool) -> int | None:
    if value is None:
        return None
    if not is_scored:
        raise ValidationError("prompt_logprobs_last_n is about prompt logprobs; set include_prompt_logprobs")
    most = MOST_INT32 if length is None else max(1, length - 1)
    return whole("prompt_logprobs_last_n", value, least=1, most=most)
