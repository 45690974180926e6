"""Prompts and answers in JSON lines, and how they become training data."""

from pathlib import Path

import msgspec

from tinker_actors.errors import ConfigError
from tinker_actors.tokenization import Tokenizer
from tinker_actors.types import Datum, ModelInput, TensorData

__all__ = ["Example", "datum", "prompt_tokens", "read_examples"]


class Example(msgspec.Struct, frozen=True):
    """A prompt and the answer wanted."""

    prompt: str
    answer: str


def read_examples(path: Path) -> list[Example]:
    """The examples in a file, one JSON object a line.

    Raises:
        ConfigError: the file cannot be read, is empty, or has a line that is no example; it names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"examples are read from {path}, which cannot be: {error}") from error
    examples = []
    for number, line in enumerate(lines, 1):
        try:
            examples.append(msgspec.json.decode(line, type=Example))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f'{path}:{number}: a line reads {{"prompt": "...", "answer": "..."}}, got {line[:40]!r} ({error})'
            ) from error
    if not examples:
        raise ConfigError(f"{path}: at least one example is wanted, got an empty file")
    return examples


def prompt_tokens(prompt: str, tokenizer: Tokenizer) -> list[int]:
    """What the model reads before it answers."""
    return tokenizer.encode(f"{prompt} ->")


def datum(example: Example, tokenizer: Tokenizer) -> Datum:
    """An example to train on: the answer and its end count in the loss, the prompt does not."""
    question = prompt_tokens(example.prompt, tokenizer)
    reply = [*tokenizer.encode(f" {example.answer}"), tokenizer.eos_token_id]
    tokens = question + reply
    weights = [0.0] * (len(question) - 1) + [1.0] * len(reply)
    return Datum(
        model_input=ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": TensorData(tokens[1:], dtype="int64"),
            "weights": TensorData(weights, dtype="float32"),
        },
    )
