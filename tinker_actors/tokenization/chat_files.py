"""Where the chat templates of a tokenizer are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinker_actors.errors import ValidationError
from tinker_actors.tokenization.documents import document, text_of

__all__ = ["CHAT_TEMPLATE", "MORE_TEMPLATES", "chat_templates_in"]

CHAT_TEMPLATE = "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"
"""The directory with further templates beside it, each in a file of its name."""


def chat_templates_in(directory: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates of the tokenizer in `directory`, by name; the only one is called `default`.

    They are in files of their own, or in `tokenizer_config.json`, or in `chat_template.json`, as of processors of
    images: the first of these that is there counts.

    Args:
        directory: with the files.
        settings: what is in its `tokenizer_config.json`.

    Raises:
        ValidationError: a file cannot be read, or holds something else.
    """
    files = {file.stem: file for file in sorted((directory / MORE_TEMPLATES).glob("*.jinja"))}
    if (directory / CHAT_TEMPLATE).is_file():
        files["default"] = directory / CHAT_TEMPLATE
    if files:
        return {name: text_of(file) for name, file in files.items()}
    for name in ("tokenizer_config.json", "chat_template.json"):
        held = settings if name == "tokenizer_config.json" else document(directory / name)
        if held.get("chat_template") is not None:
            return _named(directory / name, held["chat_template"])
    return {}


def _named(file: Path, templates: Any) -> dict[str, str]:
    match templates:
        case str(source):
            return {"default": source}
        case list(several):
            return dict(_pair(file, one) for one in several)
        case dict(several) if all(isinstance(source, str) for source in several.values()):
            return dict(several)
    raise _refusal(file)


def _pair(file: Path, template: Any) -> tuple[str, str]:
    match template:
        case {"name": str(name), "template": str(source)}:
            return name, source
    raise _refusal(file)


def _refusal(file: Path) -> ValidationError:
    return ValidationError(
        f"chat_template in {file} must be a template, or a list of objects with name and template, got others"
    )
