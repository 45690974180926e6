"""Between text and token ids."""

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, Literal, Protocol, cast, overload

from tinker_actors.errors import ValidationError
from tinker_actors.tokenization.chat import RenderedChat, check_variables, render_chat, template_of

__all__ = ["Backend", "Tokenizer"]


class Backend(Protocol):
    """What a tokenizer's files give, by one library or another."""

    vocab_size: int
    """Number of ids, specials included."""
    special_ids: list[int]
    """Ids of the special tokens."""

    def id_of(self, token: str) -> int | None:
        """The id of a token by its text."""

    def token_of(self, token_id: int) -> str | None:
        """The text of a token by its id."""

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        """The token ids of `text`."""

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The token ids of `text`, special tokens read, and from which to before which character each reaches."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of `ids`; those without a token have none."""


class Tokenizer:
    """Text to token ids and back; any thread may call it.

    The tokenizer of `local/tiny` and `local/small` has one token a byte of UTF-8, whose id is the byte, and
    three special tokens after those. Text that spells a special token is encoded as text, so decoding gives
    back whatever was encoded. All others read special tokens in texts, unless asked not to.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        special_tokens: Mapping[str, str],
        more_special_tokens: Sequence[str] = (),
        chat_templates: Mapping[str, str] | None = None,
        split_special_tokens: bool = False,
        sort_tools: bool = False,
        vocab_size: int = 0,
    ) -> None:
        self._backend = backend
        self._sort_tools = sort_tools
        self._split_special_tokens = split_special_tokens
        self._chat_variables: dict[str, Any] = dict(special_tokens)
        if more_special_tokens:
            self._chat_variables["additional_special_tokens"] = list(more_special_tokens)
        self.chat_templates = dict(chat_templates or {})
        """Chat templates by name; `default` is the one that is taken where none is asked for."""
        self.eos_token = special_tokens["eos_token"]
        self.bos_token = special_tokens.get("bos_token")
        self.eos_token_id = cast("int", backend.id_of(self.eos_token))
        """The id that ends a text."""
        self.bos_token_id = None if self.bos_token is None else backend.id_of(self.bos_token)
        """The id that begins a text; None where no text has one."""
        self.all_special_ids = list(backend.special_ids)
        """Ids `decode` leaves out unless asked."""
        self.vocab_size = max(vocab_size, backend.vocab_size)
        """Number of ids, specials included, and those a model has beyond its tokenizer's."""

    def encode(
        self, text: str, add_special_tokens: bool = False, split_special_tokens: bool | None = None
    ) -> list[int]:
        """The token ids of `text`.

        Args:
            text: any Unicode text.
            add_special_tokens: begin and end it with the special tokens that the tokenizer adds to a text, such as
                that of its beginning.
            split_special_tokens: encode what spells a special token as text, which is how text of strangers is
                kept from posing as one. None: as the tokenizer does.

        Raises:
            ValidationError: it is no text, or holds lone surrogates.
        """
        split = self._split_special_tokens if split_special_tokens is None else split_special_tokens
        return self._backend.encode(
            checked_text(text), add_special_tokens=add_special_tokens, split_special_tokens=split
        )

    def decode(self, ids: Sequence[int] | int, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD, ids that only the model has become nothing.

        Raises:
            ValidationError: they are no token ids of this tokenizer.
        """
        listed = _checked_ids([ids] if isinstance(ids, int) else ids, self.vocab_size)
        return self._backend.decode(listed, skip_special_tokens=skip_special_tokens)

    @overload
    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        tokenize: Literal[True] = True,
        return_dict: Literal[False] = False,
        **options: Any,
    ) -> list[int]: ...

    @overload
    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, Any]], *, tokenize: Literal[False], **options: Any
    ) -> str: ...

    @overload
    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        tokenize: Literal[True] = True,
        return_dict: Literal[True],
        **options: Any,
    ) -> dict[str, list[int]]: ...

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        return_dict: bool = False,
        return_assistant_tokens_mask: bool = False,
        **variables: Any,
    ) -> list[int] | str | dict[str, list[int]]:
        """A chat as the model was trained to read it; names and meanings are those of `transformers`.

        Special tokens are read in the whole text, so a message that spells one becomes one: take them out of what
        strangers wrote.

        Args:
            conversation: messages in order, each with a `role` and mostly with `content`.
            tools: JSON schemas of what the model may call.
            documents: what it may read, mostly with `title` and `text`.
            chat_template: a template, or the name of one of `chat_templates`; None: `tool_use` for a chat with tools
                if there is one, else `default`.
            add_generation_prompt: end in what begins a reply.
            continue_final_message: end where the text of the last message ends, for the model to go on.
            tokenize: give token ids; False: give the text.
            return_dict: give `input_ids` and `attention_mask`, all 1.
            return_assistant_tokens_mask: with it give `assistant_masks`, 1 for each token of what stands in the
                template's `{% generation %}`: what the model is to write.
            variables: what else the template knows, such as `enable_thinking`.

        Raises:
            ChatTemplateError: the template refused the chat, is wrong, or went beyond the bounds of its sandbox.
            MissingExtraError: jinja2 is not installed.
            ValidationError: there is no such template, these are no messages, or options contradict one another.
        """
        if add_generation_prompt and continue_final_message:
            raise ValidationError(
                "a chat ends in the prompt for a reply or inside of its final message, not both"
            )
        if return_assistant_tokens_mask and not (return_dict and tokenize):
            raise ValidationError(
                "a mask of the assistant's tokens is given with return_dict=True and tokenize=True"
            )
        source = template_of(self.chat_templates, chat_template, with_tools=bool(tools))
        check_variables(source, variables, with_tools=bool(tools))
        listed = _mappings("tools", tools)
        chat = render_chat(
            source,
            conversation,
            variables={
                **self._chat_variables,
                "tools": _sorted(listed) if self._sort_tools else listed,
                "documents": _mappings("documents", documents),
                "add_generation_prompt": add_generation_prompt,
                **variables,
            },
            continue_final_message=continue_final_message,
            mark=return_assistant_tokens_mask,
        )
        if not tokenize:
            return chat.text
        if return_assistant_tokens_mask:
            return self._masked(chat)
        ids = self.encode(chat.text, split_special_tokens=False)
        return {"input_ids": ids, "attention_mask": [1] * len(ids)} if return_dict else ids

    def _masked(self, chat: RenderedChat) -> dict[str, list[int]]:
        ids, offsets = self._backend.encode_with_offsets(checked_text(chat.text))
        mask = [
            int(any(begin < last and first < end for begin, end in chat.spans)) for first, last in offsets
        ]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "assistant_masks": mask}


def _sorted(value: Any) -> Any:
    """The same with the keys of all mappings in order, as Kimi's own code writes tools."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(one) for one in value] if isinstance(value, list) else value


def _mappings(what: str, given: Any) -> list[dict[str, Any]] | None:
    if given is None:
        return None
    if not isinstance(given, Sequence) or not all(isinstance(one, Mapping) for one in given):
        raise ValidationError(f"{what} are a list of mappings, such as JSON schemas, got others")
    return [dict(one) for one in given]


def checked_text(text: Any) -> str:
    """`text`, which is one.

    Raises:
        ValidationError: it is no text, or holds lone surrogates.
    """
    if not isinstance(text, str):
        raise ValidationError(f"text to encode must be a string, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValidationError(
            f"text to encode must be Unicode, got the lone surrogate {text[error.start]!r} at {error.start};"
            " decode bytes with errors='replace'"
        ) from error
    return text


def _checked_ids(ids: Any, vocab_size: int) -> list[int]:
    try:
        if isinstance(ids, str | bytes):
            raise TypeError(type(ids).__name__)  # noqa: TRY301 - one message for all that are no ids
        whole = [index(token) for token in ids]
    except TypeError as error:
        raise ValidationError(f"token ids must be a sequence of integers, or one integer: {error}") from error
    if whole and not (min(whole) >= 0 and max(whole) < vocab_size):
        wrong = min(whole) if min(whole) < 0 else max(whole)
        raise ValidationError(
            f"token ids must be at least 0 and below {vocab_size}, got {wrong}; is this the tokenizer of their model?"
        )
    return whole
