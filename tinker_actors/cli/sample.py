"""`tinker-actors sample`: text from a base model or from saved weights."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from tinker_actors.errors import ConfigError

if TYPE_CHECKING:
    from tinker_actors.tokenization import Tokenizer

__all__ = ["sample"]


class _Tokens(msgspec.Struct):
    tokens: list[int]


@click.command()
@click.option("--base-model", help="To sample from.")
@click.option("--model-path", help="Saved weights to sample from: tinker://RUN/sampler_weights/NAME.")
@click.option("--prompt", help="A text.")
@click.option(
    "--prompt-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help='A text, or JSON: a list of token ids, or {"tokens": [...]}.',
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--temperature", type=float, default=1.0, show_default=True)
@click.option("--top-k", type=int, default=-1, show_default=True, help="-1 leaves out nothing.")
@click.option("--top-p", type=float, default=1.0, show_default=True)
@click.option("--seed", type=int)
@click.option("--stop", multiple=True, help="A text that ends a sample; may be given again.")
@click.option("-n", "--num-samples", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file to write to.")
@click.option("--json", "as_json", is_flag=True, help="Print tokens and logprobs, too.")
@click.option("--base-url", help='Of the service, or "local"; by default TINKER_BASE_URL.')
def sample(
    base_model: str | None,
    model_path: str | None,
    prompt: str | None,
    prompt_file: Path | None,
    num_samples: int,
    output: Path | None,
    as_json: bool,
    base_url: str | None,
    **params: Any,
) -> None:
    """Sample text."""
    from tinker_actors.clients.service import ServiceClient
    from tinker_actors.types import ModelInput, SamplingParams

    if (base_model is None) is (model_path is None):
        raise click.UsageError("one of --base-model and --model-path is wanted")
    if (prompt is None) is (prompt_file is None):
        raise click.UsageError("one of --prompt and --prompt-file is wanted")
    wanted = SamplingParams(**{**params, "stop": list(params["stop"]) or None})
    with ServiceClient(base_url=base_url) as service:
        sampler = service.create_sampling_client(model_path, base_model).result()
        tokenizer = sampler.get_tokenizer()
        tokens = tokenizer.encode(prompt) if prompt is not None else _read(prompt_file, tokenizer)
        answer = sampler.sample(ModelInput.from_ints(tokens), num_samples, wanted).result()
    samples = [
        {
            "text": tokenizer.decode(one.tokens),
            "stop_reason": one.stop_reason,
            "avg_logprob": sum(one.logprobs) / len(one.logprobs) if one.logprobs else None,
            "tokens": list(one.tokens),
            "logprobs": None if one.logprobs is None else [float(value) for value in one.logprobs],
        }
        for one in answer.sequences
    ]
    told = json.dumps({"samples": samples}, indent=2) if as_json else "\n\n".join(map(_told, samples))
    if output is None:
        click.echo(told)
    else:
        output.write_text(told + "\n", encoding="utf-8")


def _told(one: dict[str, Any]) -> str:
    mean = one["avg_logprob"]
    return f"{one['text']}\n({one['stop_reason']}, {'no tokens' if mean is None else f'{mean:.3f} nats a token'})"


def _read(path: Path | None, tokenizer: "Tokenizer") -> list[int]:
    assert path is not None  # noqa: S101 - one of the two was given
    content = path.read_bytes()
    for kind in (list[int], _Tokens):
        try:
            found: Any = msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError:
            continue
        return found.tokens if isinstance(found, _Tokens) else list(found)
    try:
        return tokenizer.encode(content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"a prompt is a text or a list of token ids, got bytes in {path}: {error}"
        ) from error
