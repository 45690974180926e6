"""Which tokenizer a model has, by the name of the model or by what the service says."""

from pathlib import Path

from tinker_actors.errors import ValidationError

__all__ = ["BYTE_LEVEL", "check_is_repository", "is_local", "key_of", "tokenizer_id_of"]

BYTE_LEVEL = ("local/tiny", "local/small")
"""Models whose tokens are bytes."""
_OPEN_LLAMA_3 = "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer"
_SAME_AS = {"moonshotai/Kimi-K2.5-Text-Only": "moonshotai/Kimi-K2.5"}
_PINNED = {
    "moonshotai/Kimi-K2-Thinking": "612681931a8c906ddb349f8ad0f582cb552189cd",
    "moonshotai/Kimi-K2.5": "4d01dfe0332d63057c186e0b262165819efb6611",
    "moonshotai/Kimi-K2.6": "b5aabbfb20227ed42becbf5541dbffd213942c58",
    "moonshotai/Kimi-K3": "f831ab66814297da540d832a5235f8e904f29d06",
}
"""Revisions that the official SDK 0.38 pins."""


def tokenizer_id_of(model_name: str, tokenizer_id: str | None = None) -> str:
    """Where the tokenizer of `model_name` is: a local name, or a repository on the hub.

    What stands behind a colon is a revision of the model's, not of its tokenizer. The tokenizer of Llama 3 is in a
    repository that is open to everybody, where Meta's asks for a login. Of `org/model/variant`, the tokenizer is
    that of `org/model`.

    Source: the official SDK 0.38.
    """
    if is_local(tokenizer_id or model_name):
        return tokenizer_id or model_name
    if tokenizer_id:
        found = tokenizer_id.partition(":")[0]
        return _SAME_AS.get(found, found)
    name = model_name.partition(":")[0]
    if name.startswith("meta-llama/Llama-3"):
        return _OPEN_LLAMA_3
    org, _, rest = name.partition("/")
    found = f"{org}/{rest.partition('/')[0]}" if rest.count("/") == 1 else name
    return _SAME_AS.get(found, found)


def is_local(name: str) -> bool:
    """Whether the tokenizer of that name is on this machine."""
    return name in BYTE_LEVEL or Path(name).is_absolute()


def key_of(model_name: str, tokenizer_id: str | None, revision: str | None) -> tuple[str, str | None]:
    """The id and the revision under which a tokenizer is kept: the one asked for, else the one pinned for the id.

    Raises:
        ValidationError: a name or the revision is no text.
    """
    for what, value in (("model_name", model_name), ("tokenizer_id", tokenizer_id), ("revision", revision)):
        if not isinstance(value, str) and (value is not None or what == "model_name"):
            raise ValidationError(f"{what} must be a string, got {type(value).__name__}")
    found = tokenizer_id_of(model_name, tokenizer_id)
    return found, _PINNED.get(found) if revision is None else revision


def check_is_repository(name: str) -> None:
    """Refuse a name under which no tokenizer can be on the hub.

    Raises:
        ValidationError: it is no `org/name`, or of an organisation without tokenizers there.
    """
    org, _, rest = name.partition("/")
    if not org or not rest or "/" in rest or org == "local":
        raise ValidationError(
            f"tokenizers exist for {', '.join(BYTE_LEVEL)}, for directories by their absolute path and for"
            f" repositories org/name on the Hugging Face hub, got {name!r}"
        )
    if org in ("TML", "thinkingmachines"):
        raise ValidationError(
            f"{name} has no tokenizer on the Hugging Face hub; its service encodes with the package tml-renderers"
        )
