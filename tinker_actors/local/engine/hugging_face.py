"""Models in Hugging Face format: `config.json` and safetensors of a Llama or Qwen3 as our shape and arrays."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.local.engine.weights import (
    Floats,
    LayerWeights,
    ModelConfig,
    RopeScaling,
    Weights,
    pair_order,
    rope_order,
)

__all__ = ["digest_of", "read_config", "read_weights"]

SCORES_BYTES = 2**29
"""Most memory the attention scores of one layer and sequence may take: bounds the context length."""

CONFIG, WEIGHTS, INDEX, TOKENIZER = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
)

DTYPES = ("F64", "F32", "F16", "BF16")
"""Kinds of numbers that weights may have; all become those of the engine."""


class _Rope(msgspec.Struct, frozen=True):
    """`rope_parameters`, or in older files `rope_scaling`."""

    rope_type: str | None = None
    type: str | None = None
    """What older files call `rope_type`."""
    rope_theta: float | None = None
    partial_rotary_factor: float = 1.0
    factor: float = 0.0
    low_freq_factor: float = 0.0
    high_freq_factor: float = 0.0
    original_max_position_embeddings: int = 0

    @property
    def kind(self) -> str:
        return self.rope_type or self.type or "default"


class _Document(msgspec.Struct, frozen=True):
    """What we read of a `config.json`."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_parameters: _Rope | None = None
    rope_scaling: _Rope | None = None
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    partial_rotary_factor: float = 1.0
    quantization_config: Mapping[str, Any] | None = None


class _Index(msgspec.Struct, frozen=True):
    """What we read of a `model.safetensors.index.json`."""

    weight_map: Mapping[str, str]


def read_config(directory: Path) -> ModelConfig:
    """The shape of a model, after a look at everything that loading it will need.

    Raises:
        ValidationError: a file is missing or cannot be read, or the model is none the engine can run.
        ShapeError: an array has not the shape that `config.json` says.
    """
    if not directory.is_dir():
        raise ValidationError(f"base_model must be a directory, and {directory} is none")
    document = _read(directory / CONFIG, _Document)
    _check_architecture(directory / CONFIG, document)
    config = _config(document)
    if not (directory / TOKENIZER).is_file():
        raise ValidationError(
            f"{directory} must hold {TOKENIZER}, and does not; save its fast tokenizer there"
        )
    with _Arrays(directory) as arrays:
        arrays.check(config, tied=document.tie_word_embeddings)
    return config


def read_weights(directory: Path, config: ModelConfig, dtype: npt.DTypeLike) -> Weights:
    """The weights of a model whose shape `read_config` gave, converted to `dtype`.

    Raises:
        ValidationError: as `read_config`.
    """
    tied = _read(directory / CONFIG, _Document).tie_word_embeddings
    with _Arrays(directory) as arrays:
        arrays.check(config, tied=tied)

        def get(name: str) -> Floats:
            return arrays.get(name, dtype)

        embedding = get("model.embed_tokens.weight")
        return Weights(
            config=config,
            embedding=embedding,
            layers=tuple(_layer(config, f"model.layers.{i}.", get) for i in range(config.layers)),
            final_norm=get("model.norm.weight"),
            unembedding=embedding if tied else get("lm_head.weight"),
        )


def digest_of(directory: Path) -> str:
    """A digest of all that a model's numbers come from: equal digests, equal weights and shape.

    Raises:
        ValidationError: a file is missing or cannot be read.
    """
    with _Arrays(directory) as arrays:
        files = [CONFIG, *arrays.files()]
    return ":".join(_file_digest(directory / file) for file in files)


def _file_digest(file: Path) -> str:
    try:
        state = file.stat()
        return _content_digest(file, state.st_size, state.st_mtime_ns, state.st_ino)
    except OSError as error:
        raise ValidationError(f"{file} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=256)
def _content_digest(file: Path, *_state: int) -> str:
    """The digest of a file's content, read once for each state of the file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _layer(config: ModelConfig, path: str, get: Callable[[str], Floats]) -> LayerWeights:
    def stack(*names: str) -> Floats:
        return np.concatenate([get(f"{path}{name}.weight") for name in names])

    pairs = pair_order(config.head_dim)
    heads = {
        f"{kind}_norm": get(f"{path}self_attn.{kind}_norm.weight")[pairs] for kind in "qk" if config.qk_norm
    }
    return LayerWeights(
        attention_norm=get(f"{path}input_layernorm.weight"),
        qkv=stack("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")[rope_order(config)],
        o=get(f"{path}self_attn.o_proj.weight"),
        mlp_norm=get(f"{path}post_attention_layernorm.weight"),
        gate_up=stack("mlp.gate_proj", "mlp.up_proj"),
        down=get(f"{path}mlp.down_proj.weight"),
        **heads,
    )


def _read(file: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise ValidationError(f"{file.parent} must hold {file.name}, and does not") from error
    except OSError as error:
        raise ValidationError(f"{file} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValidationError(f"{file} is none we can read: {error}") from error


def _check_architecture(file: Path, document: _Document) -> None:
    """Nothing if the engine computes what this model does."""
    rope = _rope(document)
    wanted = [
        ("model_type", document.model_type, ("llama", "qwen3")),
        ("hidden_act", document.hidden_act, ("silu",)),
        ("attention_bias", document.attention_bias, (False,)),
        ("mlp_bias", document.mlp_bias, (False,)),
        ("use_sliding_window", document.use_sliding_window, (False,)),
        ("rope_type", rope.kind, ("default", "llama3")),
        ("partial_rotary_factor", document.partial_rotary_factor * rope.partial_rotary_factor, (1.0,)),
        ("quantization_config", document.quantization_config, (None,)),
    ]
    for name, found, known in wanted:
        if found not in known:
            offered = " or ".join(msgspec.json.encode(value).decode() for value in known)
            raise ValidationError(
                f"{file}: {name} must be {offered}, got {msgspec.json.encode(found).decode()}"
            )
    if rope.kind == "llama3" and not (
        rope.factor >= 1.0
        and rope.high_freq_factor > rope.low_freq_factor > 0.0
        and rope.original_max_position_embeddings > 0
    ):
        raise ValidationError(
            f"{file}: rope_type llama3 needs factor, low_freq_factor, high_freq_factor and"
            f" original_max_position_embeddings, got {rope}"
        )
    _check_sizes(file, document)


def _check_sizes(file: Path, document: _Document) -> None:
    heads = document.num_attention_heads
    kv_heads = heads if document.num_key_value_heads is None else document.num_key_value_heads
    sizes = {
        "vocab_size": document.vocab_size,
        "hidden_size": document.hidden_size,
        "intermediate_size": document.intermediate_size,
        "num_hidden_layers": document.num_hidden_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": document.max_position_embeddings,
        "rms_norm_eps": document.rms_norm_eps,
        "rope_theta": _rope_theta(document),
    }
    for name, size in sizes.items():
        if not 0 < size < np.inf:
            raise ValidationError(f"{file}: {name} must be positive, got {size}")
    if heads % kv_heads:
        raise ValidationError(
            f"{file}: num_attention_heads must be a multiple of num_key_value_heads, got {heads} and {kv_heads}"
        )
    head_dim = document.hidden_size // heads if document.head_dim is None else document.head_dim
    if head_dim < 1 or head_dim % 2:
        raise ValidationError(f"{file}: head_dim must be positive and even, got {head_dim}")


def _config(document: _Document) -> ModelConfig:
    heads = document.num_attention_heads
    rope = _rope(document)
    scaling = None
    if rope.kind == "llama3":
        scaling = RopeScaling(
            rope.factor, rope.low_freq_factor, rope.high_freq_factor, rope.original_max_position_embeddings
        )
    return ModelConfig(
        vocab_size=document.vocab_size,
        hidden_size=document.hidden_size,
        layers=document.num_hidden_layers,
        heads=heads,
        kv_heads=heads if document.num_key_value_heads is None else document.num_key_value_heads,
        head_dim=document.hidden_size // heads if document.head_dim is None else document.head_dim,
        intermediate_size=document.intermediate_size,
        rope_theta=_rope_theta(document),
        rms_norm_eps=document.rms_norm_eps,
        max_context_length=min(document.max_position_embeddings, int((SCORES_BYTES / 4 / heads) ** 0.5)),
        qk_norm=document.model_type == "qwen3",
        rope_scaling=scaling,
    )


def _rope(document: _Document) -> _Rope:
    return document.rope_parameters or document.rope_scaling or _Rope()


def _rope_theta(document: _Document) -> float:
    theta = _rope(document).rope_theta
    return document.rope_theta if theta is None else theta


def _shapes(config: ModelConfig, *, tied: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every array a model of this shape has, by its name in Hugging Face's files."""
    hidden, inner, query = config.hidden_size, config.intermediate_size, config.query_width
    keys = config.kv_heads * config.head_dim
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    for layer in range(config.layers):
        path = f"model.layers.{layer}."
        yield f"{path}input_layernorm.weight", (hidden,)
        yield f"{path}self_attn.q_proj.weight", (query, hidden)
        yield f"{path}self_attn.k_proj.weight", (keys, hidden)
        yield f"{path}self_attn.v_proj.weight", (keys, hidden)
        yield f"{path}self_attn.o_proj.weight", (hidden, query)
        if config.qk_norm:
            yield f"{path}self_attn.q_norm.weight", (config.head_dim,)
            yield f"{path}self_attn.k_norm.weight", (config.head_dim,)
        yield f"{path}post_attention_layernorm.weight", (hidden,)
        yield f"{path}mlp.gate_proj.weight", (inner, hidden)
        yield f"{path}mlp.up_proj.weight", (inner, hidden)
        yield f"{path}mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    if not tied:
        yield "lm_head.weight", (config.vocab_size, hidden)


class _Arrays:
    """The arrays of a directory, in one safetensors file or in several with an index."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = ExitStack()
        self._opened: dict[str, Any] = {}
        self._file_of: Mapping[str, str] = {}

    def __enter__(self) -> "_Arrays":
        try:
            self._file_of = self._find()
        except BaseException:
            self._files.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def _find(self) -> Mapping[str, str]:
        if (self._directory / INDEX).is_file():
            files = _read(self._directory / INDEX, _Index).weight_map
            for file in files.values():
                if Path(file).name != file:
                    raise ValidationError(
                        f"{self._directory / INDEX} must name files beside itself, got {file!r}"
                    )
            return dict(files)
        if not (self._directory / WEIGHTS).is_file():
            raise ValidationError(
                f"{self._directory} must hold {WEIGHTS}, or {INDEX} and its files, and does not; other formats"
                " are converted with save_pretrained(..., safe_serialization=True)"
            )
        return dict.fromkeys(self._open(WEIGHTS).keys(), WEIGHTS)

    def _open(self, name: str) -> Any:
        # The import of ml_dtypes teaches numpy, and so safetensors, what bfloat16 is.
        import ml_dtypes  # noqa: F401
        from safetensors import SafetensorError, safe_open

        if name not in self._opened:
            try:
                opened = safe_open(self._directory / name, framework="numpy")
                self._opened[name] = self._files.enter_context(opened)
            except (SafetensorError, OSError) as error:
                raise ValidationError(f"{self._directory / name} cannot be read: {error}") from error
        return self._opened[name]

    def check(self, config: ModelConfig, *, tied: bool) -> None:
        """Nothing if every array is there, in its shape; values are not read."""
        for name, shape in _shapes(config, tied=tied):
            part = self._slice(name)
            found = tuple(part.get_shape())
            if found != shape:
                raise ShapeError(
                    f"{self._directory}: {name} must have shape {shape}, as {CONFIG} says, got {found}"
                )
            if part.get_dtype() not in DTYPES:
                raise ValidationError(
                    f"{self._directory}: {name} must hold {', '.join(DTYPES)} numbers, got {part.get_dtype()}"
                )

    def _slice(self, name: str) -> Any:
        file = self._file_of.get(name)
        if file is None or name not in self._open(file).keys():  # noqa: SIM118 - safe_open is no mapping
            hint = "; set tie_word_embeddings if it is the embedding" if name == "lm_head.weight" else ""
            raise ValidationError(f"{self._directory} must hold the array {name}, and does not{hint}")
        return self._open(file).get_slice(name)

    def files(self) -> list[str]:
        """The files that hold arrays, sorted."""
        return sorted(set(self._file_of.values()))

    def get(self, name: str, dtype: npt.DTypeLike) -> Floats:
        array: Floats = self._open(self._file_of[name]).get_tensor(name).astype(dtype)
        return array
