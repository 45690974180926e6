"""From the messages of a chat to its text, by the template that a model was trained with.

Templates are written in Jinja for `transformers`, and are rendered here as there: variables, functions, blanks and the
block `{% generation %}` have the same meaning.
"""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from tinker_actors.errors import ChatTemplateError, MissingExtraError, ValidationError

__all__ = ["RenderedChat", "render_chat", "template_of"]

_MOST_WORDS = 500
"""Characters of what a template raised that its error repeats."""
_LIBRARY_ONLY = {"padding", "truncation", "max_length", "return_tensors", "tokenizer_kwargs"}
"""Arguments of `transformers` that are none of a template's."""

_TOOLS_BY_CODE = "tools_ts_str"
"""Tools as declarations of TypeScript, which templates of Kimi K2.5 and later want from the code beside them."""


class RenderedChat(NamedTuple):
    """A chat as the text that a model reads."""

    text: str
    spans: list[tuple[int, int]]
    """From which to before which character each part reaches that the model is to write."""


def template_of(templates: Mapping[str, str], wanted: str | None, *, with_tools: bool) -> str:
    """The source of the template that is wanted.

    Args:
        templates: the tokenizer's own, by name.
        wanted: the name of one, or a template; None: `tool_use` for a chat with tools, else `default`.
        with_tools: whether the chat has tools.

    Raises:
        ValidationError: there is none.
    """
    if wanted is not None and not isinstance(wanted, str):
        raise ValidationError(f"chat_template must be a string, got {type(wanted).__name__}")
    names = (["tool_use"] if with_tools else []) + ["default"] if wanted is None else [wanted]
    found = next((templates[name] for name in names if name in templates), None)
    if found is not None:
        return found
    if wanted is not None and "{" in wanted:
        return wanted
    known = f"those named {', '.join(map(repr, templates))}" if templates else "none"
    asked = "a chat template was wanted" if wanted is None else f"chat template {wanted!r} was wanted"
    raise ValidationError(f"{asked}, and the tokenizer has {known}; give one as chat_template=")


def render_chat(
    source: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    variables: Mapping[str, Any],
    continue_final_message: bool = False,
    mark: bool = False,
    now: Callable[[], datetime] = datetime.now,
) -> RenderedChat:
    """The text of a chat.

    Args:
        source: the template.
        messages: of the chat, in order, each with a `role`.
        variables: what the template may use beside them.
        continue_final_message: end the text where that of the last message ends, for the model to go on.
        mark: find what stands in `{% generation %}`.
        now: the local time, for templates that write it.

    Raises:
        ChatTemplateError: the template refused, is wrong, or went beyond its bounds.
        MissingExtraError: jinja2 is not installed.
        ValidationError: these are no messages, or the last one has no text to go on with.
    """
    listed = _checked(messages)
    nonce = secrets.token_hex(16)
    marks = (f"<{nonce}+>", f"<{nonce}->")
    tail = f"<{nonce}.> "
    if continue_final_message:
        listed = [*listed[:-1], _with_tail(listed[-1], tail)]
    text = _rendered(source, {**variables, "messages": listed}, marks if mark else None, now)
    if continue_final_message:
        text = _cut(text, tail)
    return _unmarked(text, marks) if mark else RenderedChat(text, [])


def check_variables(source: str, variables: Mapping[str, Any], *, with_tools: bool) -> None:
    """Refuse variables that are for what is not done here, and templates that want what only a model's code makes.

    Raises:
        ValidationError: there is such a variable, or one that is wanted is not.
    """
    if foreign := sorted(_LIBRARY_ONLY & variables.keys()):
        raise ValidationError(f"chats are given as lists of token ids, without {', '.join(foreign)}")
    if with_tools and _TOOLS_BY_CODE in source and _TOOLS_BY_CODE not in variables:
        raise ValidationError(
            f"the chat template wants {_TOOLS_BY_CODE}, which code that comes with the model writes, and no such code"
            f" is run here; give it as {_TOOLS_BY_CODE}="
        )


def _checked(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not messages:
        raise ValidationError(f"a chat is a list of messages, got {_what(messages)}")
    for message in messages:
        if not isinstance(message, Mapping) or "role" not in message:
            raise ValidationError(f"a message is a mapping with a role, got {_what(message)}")
    return [dict(message) for message in messages]


def _what(value: Any) -> str:
    kind = type(value).__name__
    return f"an empty {kind}" if isinstance(value, Sequence | Mapping) and not value else kind


def _rendered(
    source: str, variables: Mapping[str, Any], marks: tuple[str, str] | None, now: Callable[[], datetime]
) -> str:
    try:
        from tinker_actors.tokenization.sandbox import render
    except ImportError as error:
        raise MissingExtraError(
            "chat templates are rendered by jinja2, which is not installed;", extra="chat"
        ) from error
    try:
        return render(source, variables, marks=marks, now=now)
    except Exception as error:  # a template of a stranger's may raise anything
        words = f"{type(error).__name__}: {error}"[:_MOST_WORDS]
        raise ChatTemplateError(f"the chat template gave no text: {words}") from error


def _with_tail(message: dict[str, Any], tail: str) -> dict[str, Any]:
    """The message with `tail` behind its last text."""
    match message.get("content"):
        case str(text):
            return message | {"content": text + tail}
        case [*parts]:
            for place in reversed(range(len(parts))):
                if isinstance(parts[place], Mapping) and isinstance(parts[place].get("text"), str):
                    part = {**parts[place], "text": parts[place]["text"] + tail}
                    return message | {"content": [*parts[:place], part, *parts[place + 1 :]]}
    raise ValidationError("only a final message with text can be continued, got one without")


def _cut(text: str, tail: str) -> str:
    """What stands before `tail`; without blanks at its end if the template takes them off of messages."""
    place = text.rfind(tail.rstrip())
    if place < 0:
        raise ChatTemplateError("the chat template leaves the final message out, so it cannot be continued")
    before = text[:place]
    return before if text.startswith(tail, place) else before.rstrip()


def _unmarked(text: str, marks: tuple[str, str]) -> RenderedChat:
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    length, since = 0, None
    for piece in re.split(f"({'|'.join(map(re.escape, marks))})", text):
        if piece == marks[0]:
            since = length
        elif piece == marks[1]:
            spans += [] if since is None else [(since, length)]
            since = None
        else:
            pieces.append(piece)
            length += len(piece)
    if since is not None:  # a final message that is to be continued
        spans.append((since, length))
    return RenderedChat("".join(pieces), spans)
