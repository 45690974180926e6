"""Chats as texts and token ids, by templates as models come with them."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from model_directories import write_byte_tokenizer, write_json

from tinker_actors.errors import ChatTemplateError, MissingExtraError, ValidationError
from tinker_actors.tokenization import Tokenizer, get_tokenizer
from tinker_actors.tokenization.chat import render_chat

CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2"},
]
ROLES = """
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
<|assistant|>
        {%- generation %}
{{ message.content }}<|end|>
        {%- endgeneration %}
    {%- else %}
<|user|>{{ message.content | trim }}<|end|>
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
<|assistant|>
{%- endif %}
"""


def text_of(source: str, messages: Any = CHAT, **variables: Any) -> str:
    return render_chat(source, messages, variables=variables).text


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    write_byte_tokenizer(tmp_path, chat_template=ROLES)
    return get_tokenizer(str(tmp_path))


# What templates rely on -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
        ("a\n", "a"),
        ("{{ messages[0]['content'] }}", "be brief"),
        ("{{ messages[0].content }}", "be brief"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }} {% endfor %}", "user assistant "),
        ("{% for m in messages %}{{ m.role }} {% if loop.index0 == 1 %}{% break %}{% endif %}{% endfor %}", "system user "),
        ("{% for m in messages[1:] %}{{ loop.length }}{{ loop.last }} {% endfor %}", "2False 2True "),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% else %}none{% endfor %}", "1+1?"),
        ("{% for m in messages if m.role == 'x' %}{{ m.content }}{% else %}none{% endfor %}", "none"),
        ("{% for x in [[1, [2]]] recursive %}{{ loop(x) if x is sequence else x }},{% endfor %}", "1,2,,,"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "3"),
        ("{% macro f(x, y='!') %}<{{ x }}{{ y }}>{% endmacro %}{{ f('a') ~ f('b', y=1) }}", "<a!><b1>"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x | upper }}{% filter lower %}B{% endfilter %}", "A1b"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join }}", "1+1?"),
        ("{{ 'a-b'.split('-')[-1].lstrip('\\n') + 'x' * 3 + '%s' % 1 + '{}'.format(2) }}", "bxxx12"),
        ("{{ {'a': 1}.items() | list }}{{ missing }}{{ missing is defined }}{{ none }}", "[('a', 1)]FalseNone"),
        ("{{ 7 // 2 }}{{ 2 ** 3 }}{{ 7 % 4 }}{{ 'b' in 'abc' }}{{ 'x' not in {'a': 1} }}", "383TrueTrue"),
        ("{{ tool.__class__ if false }}{{ 'a' if messages | length > 2 else 'b' }}", "a"),
    ],
)  # fmt: skip
def test_a_template_means_what_it_means_in_transformers(source: str, text: str) -> None:
    assert text_of(source) == text


def test_json_is_not_escaped_for_web_pages() -> None:
    value = {"b": "<é> & '\"", "a": [1, None, True]}
    assert text_of("{{ x | tojson }}", x=value) == '{"b": "<é> & \'\\"", "a": [1, null, true]}'
    assert text_of("{{ x | tojson(indent=2) }}", x={"a": [1]}) == '{\n  "a": [\n    1\n  ]\n}'
    assert text_of("{{ x | tojson(ensure_ascii=true, sort_keys=true) }}", x={"b": "é", "a": 1}) == (
        '{"a": 1, "b": "\\u00e9"}'
    )
    assert text_of("{{ x | tojson(separators=(',', ':')) }}", x={"b": 1, "a": 1}) == '{"b":1,"a":1}'


def test_the_time_is_written_as_the_template_wants_it() -> None:
    source = "{{ strftime_now('%d %b %Y') }}"
    rendered = render_chat(source, CHAT, variables={}, now=lambda: datetime(2024, 7, 26))  # noqa: DTZ001 - local time
    assert rendered.text == "26 Jul 2024"


def test_a_template_may_refuse_a_chat() -> None:
    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        text_of("{{ raise_exception('roles must alternate') }}")


def test_messages_stay_as_they_are() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    render_chat("{{ messages }}", messages, variables={}, continue_final_message=True)
    assert messages == [{"role": "user", "content": [{"type": "text", "text": "a"}]}]


# Token ids --------------------------------------------------------------------------------------------


def test_a_chat_becomes_token_ids_with_its_special_tokens(tokenizer: Tokenizer) -> None:
    wanted = [258, *b"be brief", 256, 258, *b"1+1?", 256, 259]
    assert tokenizer.apply_chat_template(CHAT[:2], add_generation_prompt=True) == wanted
    text = "<|user|>be brief<|end|><|user|>1+1?<|end|><|assistant|>"
    assert tokenizer.apply_chat_template(CHAT[:2], add_generation_prompt=True, tokenize=False) == text


def test_what_the_model_is_to_write_is_masked(tokenizer: Tokenizer) -> None:
    chat = [*CHAT, {"role": "user", "content": "é?"}, {"role": "assistant", "content": "日"}]
    found = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    assert found["input_ids"] == tokenizer.apply_chat_template(chat)
    learned = [one for one, mask in zip(found["input_ids"], found["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(learned, skip_special_tokens=False) == "2<|end|>日<|end|>"
    assert set(found["attention_mask"]) == {1}
    assert set(tokenizer.apply_chat_template(CHAT, return_dict=True)) == {"input_ids", "attention_mask"}


def test_spans_are_found_inside_of_macros_and_assignments() -> None:
    source = (
        "{% macro say(x) %}[{% generation %}{{ x }}{% endgeneration %}]{% endmacro %}"
        "{% set first = say('a') %}-{{ first }}{{ say('bc') }}{% generation %}{% endgeneration %}"
    )
    rendered = render_chat(source, CHAT, variables={}, mark=True)
    assert rendered == ("-[a][bc]", [(2, 3), (5, 7), (8, 8)])
    assert text_of(source) == rendered.text


def test_special_tokens_and_arguments_are_variables(tmp_path: Path) -> None:
    more = ["<|user|>", {"content": "<|assistant|>"}]
    source = "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ additional_special_tokens }}{{ thinking }}{{ tools }}"
    write_byte_tokenizer(tmp_path, additional_special_tokens=more, chat_template=source)
    text = get_tokenizer(str(tmp_path)).apply_chat_template(CHAT, tokenize=False, thinking=False)
    assert text == "<|begin|><|end|>['<|user|>', '<|assistant|>']FalseNone"


def test_tools_and_documents_reach_the_template(tokenizer: Tokenizer) -> None:
    tools, documents = [{"type": "function", "function": {"name": "f"}}], [{"title": "t", "text": "d"}]
    text = tokenizer.apply_chat_template(
        CHAT,
        tools=tools,
        documents=documents,
        chat_template="{{ tools[0].function.name }} {{ documents[0].title }}",
        tokenize=False,
    )
    assert text == "f t"


def test_the_generated_models_take_a_template_that_is_given_to_them() -> None:
    tokenizer = get_tokenizer("local/tiny")
    source = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    assert tokenizer.apply_chat_template(CHAT[1:], chat_template=source) == [*b"1+1?", 256, *b"2", 256]
    with pytest.raises(
        ValidationError, match=r"a chat template was wanted, and the tokenizer has none; give one"
    ):
        tokenizer.apply_chat_template(CHAT)


# A message that goes on -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("2", "<2"),
        ("2 ", "<2 "),
        (" 2\n", "< 2\n"),
        ("", "<"),
        ([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b "}, {"type": "image"}], "<ab "),
    ],
)  # fmt: skip
def test_a_final_message_is_left_open(content: Any, text: str) -> None:
    source = (
        "{% for m in messages %}<{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}></s>{% endfor %}"
    )
    messages = [{"role": "assistant", "content": content}]
    assert render_chat(source, messages, variables={}, continue_final_message=True).text == text


def test_a_final_message_whose_blanks_the_template_takes_off_ends_without_them() -> None:
    source = "{% for m in messages %}<{{ m.content | trim }}></s>{% endfor %}"
    messages = [{"role": "user", "content": "two "}, {"role": "assistant", "content": "two "}]
    assert render_chat(source, messages, variables={}, continue_final_message=True).text == "<two></s><two"


def test_a_message_that_goes_on_is_masked_to_its_end(tokenizer: Tokenizer) -> None:
    found = tokenizer.apply_chat_template(
        CHAT, return_dict=True, return_assistant_tokens_mask=True, continue_final_message=True
    )
    assert found["input_ids"][-2:] == [259, *b"2"]
    assert found["assistant_masks"][-2:] == [0, 1]


@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "user", "content": [{"type": "image"}]}])
def test_a_message_without_text_cannot_go_on(message: Any) -> None:
    with pytest.raises(ValidationError, match="a final message with text"):
        render_chat("{{ messages }}", [message], variables={}, continue_final_message=True)


def test_a_message_that_the_template_leaves_out_cannot_go_on() -> None:
    with pytest.raises(ChatTemplateError, match="leaves the final message out"):
        render_chat("{{ messages[0].content }}", CHAT, variables={}, continue_final_message=True)


# Which template ---------------------------------------------------------------------------------------


NAMED = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}, {"name": "rag", "template": "rag"}]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "plain"),
        ({"tools": []}, "plain"),
        ({"tools": [{"name": "f"}]}, "tools"),
        ({"tools": [{"name": "f"}], "chat_template": "default"}, "plain"),
        ({"chat_template": "rag"}, "rag"),
        ({"chat_template": "{{ 'own' }}"}, "own"),
    ],
)
def test_a_template_is_found_by_its_name_or_by_what_the_chat_has(
    tmp_path: Path, arguments: dict[str, Any], text: str
) -> None:
    write_byte_tokenizer(tmp_path, chat_template=NAMED)
    assert get_tokenizer(str(tmp_path)).apply_chat_template(CHAT, tokenize=False, **arguments) == text


def test_a_name_that_no_template_has_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path, chat_template=NAMED[1:])
    tokenizer = get_tokenizer(str(tmp_path))
    with pytest.raises(
        ValidationError, match="'ragg' was wanted, and the tokenizer has those named 'tool_use', 'rag'"
    ):
        tokenizer.apply_chat_template(CHAT, chat_template="ragg")
    with pytest.raises(
        ValidationError, match="a chat template was wanted, and the tokenizer has those named"
    ):
        tokenizer.apply_chat_template(CHAT)


def test_files_of_their_own_go_before_the_settings(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path, chat_template="settings")
    write_json(tmp_path / "chat_template.json", {"chat_template": "processor"})
    assert get_tokenizer(str(tmp_path)).chat_templates == {"default": "settings"}
    (tmp_path / "other").mkdir()
    write_byte_tokenizer(tmp_path / "other")
    write_json(tmp_path / "other" / "chat_template.json", {"chat_template": {"default": "processor"}})
    assert get_tokenizer(str(tmp_path / "other")).chat_templates == {"default": "processor"}


def test_each_file_of_a_template_has_its_name(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path, chat_template="settings")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "chat_template.jinja").write_text("plain é", encoding="utf-8")
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert get_tokenizer(str(tmp_path)).chat_templates == {"tool_use": "tools", "default": "plain é"}


@pytest.mark.parametrize(
    "wrong", [7, [7], [{"name": "default"}], {"default": 7}, [{"name": 1, "template": "a"}]]
)
def test_what_is_no_template_is_refused_with_its_file(tmp_path: Path, wrong: Any) -> None:
    write_byte_tokenizer(tmp_path, chat_template=wrong)
    with pytest.raises(
        ValidationError, match=r"chat_template in .*tokenizer_config\.json must be a template"
    ):
        get_tokenizer(str(tmp_path))


def test_a_template_that_is_no_text_is_refused_with_its_file(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ValidationError, match=r"chat_template\.jinja cannot be read"):
        get_tokenizer(str(tmp_path))


# What is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "messages", [[], "text", None, [7], [{"content": "no role"}], {"role": "user"}, iter(CHAT)]
)
def test_what_are_no_messages_is_refused(messages: Any) -> None:
    with pytest.raises(
        ValidationError, match=r"a chat is a list of messages|a message is a mapping with a role"
    ):
        text_of("{{ messages }}", messages)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"add_generation_prompt": True, "continue_final_message": True}, "not both"),
        ({"return_assistant_tokens_mask": True}, "return_dict=True"),
        ({"return_dict": True, "tokenize": False, "return_assistant_tokens_mask": True}, "tokenize=True"),
        ({"return_tensors": "pt"}, "without return_tensors"),
        ({"tools": [print]}, "tools are a list of mappings"),
        ({"documents": ["text"]}, "documents are a list of mappings"),
        ({"chat_template": 7}, "chat_template must be a string"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(tokenizer: Tokenizer, arguments: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tokenizer.apply_chat_template(CHAT, **arguments)


@pytest.mark.parametrize("module", ["jinja2"])
def test_without_jinja_the_error_names_the_extra(module: str) -> None:
    program = f"""
import sys
sys.modules[{module!r}] = None
from tinker_actors.errors import MissingExtraError
from tinker_actors.tokenization import get_tokenizer
tokenizer = get_tokenizer("local/tiny")
assert tokenizer.encode("a") == [97]
try:
    tokenizer.apply_chat_template([{{"role": "user"}}], chat_template="{{{{ 1 }}}}")
except MissingExtraError as error:
    print(error.extra, error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("chat chat templates are rendered by jinja2, which is not installed")
    assert "tinker-actors[chat]" in found.stdout
    assert issubclass(MissingExtraError, ImportError)


def test_encoding_does_not_import_jinja() -> None:
    program = "import sys, tinker_actors.tokenization as t; t.get_tokenizer('local/tiny'); print('jinja2' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_many_threads_may_render_at_a_time() -> None:
    """Each with marks and a budget of its own."""
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"

    def render(number: int) -> set[Any]:
        messages = [{"role": "user", "content": str(number)}] * number
        rendered = [render_chat(source, messages, variables={}, mark=True) for _ in range(20)]
        return {(one.text, len(one.spans)) for one in rendered}

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(render, range(1, 33)))
    assert found == [{(str(number) * number, number)} for number in range(1, 33)]
