"""Chats beside `transformers`: the same templates give the same texts, tokens and masks."""

import importlib.util
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from model_directories import write_byte_tokenizer

from tinker_actors.errors import ValidationError
from tinker_actors.tokenization import get_tokenizer

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("transformers") is None, reason="transformers is not installed here"
    ),
]

CHAT = [
    {"role": "system", "content": " be brief\n"},
    {"role": "user", "content": '1 < 2 & "é"? '},
    {
        "role": "assistant",
        "content": "<think>\nhm\n</think>\n\nyes  ",
        "tool_calls": [{"function": {"name": "f", "arguments": {"b": "<日>", "a": [1, None, True, 1.5]}}}],
    },
    {"role": "tool", "content": "7"},
    {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "image"}, {"type": "text", "text": "so "}]},
    {"role": "assistant", "content": "no "},
]  # fmt: skip
TEMPLATES = {
    "blocks": """
{% for message in messages %}
    {% if message['role'] == 'assistant' %}
        {% generation %}
{{ message['content'] }}{{ eos_token }}
        {% endgeneration %}
    {% else %}
{{ message['role'] }}: {{ message['content'] }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
assistant:
{% endif %}
""",
    "controls": """
{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set rest = messages[1:] %}[{{ messages[0].content | trim }}]
{%- else %}{% set rest = messages %}{% endif %}
{%- set ns = namespace(last=-1, n=0) %}
{%- for m in rest[::-1] %}
    {%- if m.role != 'user' %}{% continue %}{% endif %}
    {%- set ns.last = (rest | length - 1) - loop.index0 %}
    {%- break %}
{%- endfor %}
{%- macro say(content) %}
    {%- if content is string %}{{ content | trim }}
    {%- else %}{% for part in content %}{{ part.text if part.type == 'text' else '<image>' }}{% endfor %}
    {%- endif %}
{%- endmacro %}
{%- for m in rest %}
    {%- if m.role == 'assistant' %}
        {%- generation %}
            {%- if '</think>' in m.content and loop.index0 < ns.last %}
                {{- m.content.split('</think>')[-1].lstrip('\\n') }}
            {%- else %}{{ say(m.content) }}
            {%- endif %}
            {%- for call in m.tool_calls or [] %}
                {{- call.function | tojson }}{{ call.function.arguments | tojson(indent=4) }}
                {%- for key, value in call.function.arguments | items %}{{ key ~ '=' ~ value }},{% endfor %}
            {%- endfor %}
            {{- eos_token }}
        {%- endgeneration %}
    {%- else %}
        {{- '<|user|>' + say(m.content) + loop.index ~ m.role[:2] | upper }}
    {%- endif %}
{%- endfor %}
{%- if tools %}{{ tools | tojson(sort_keys=true) }}{% for t in tools %}{{ t.name }}{% endfor %}{% endif %}
{%- if documents is defined and documents %}{{ documents[0].title }}{% endif %}
{{- '<|assistant|>' if add_generation_prompt }}{{ '' if enable_thinking else '<think></think>' }}
""",
    "blanks": "  {%- for m in messages -%}  \n  {{ m.role }}  \n  {%- endfor +%}  \n{# none #}\n\n  {% if true %}  x\n  {% endif %}\n\n",
    "filters": (
        "{{ messages | map(attribute='role') | unique | sort | join(', ') }}"
        "{{ messages | selectattr('role', 'in', ['user', 'tool']) | list | length }}"
        "{{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | first }}"
        "{{ 'a,b' .split(',') | reverse | list }}{{ 3.7 | round | int }}{{ 'x' | default('y') }}{{ z | default('y') }}"
        "{{ [3, 1, 2] | max }}{{ {'b': 1, 'a': 2} | dictsort }}{{ 'ab' | replace('a', 'c') | capitalize }}"
        "{{ ('<b>' | e) ~ '<i>' }}{{ ('<b>' | safe) + '<i>' }}{{ 'a' 'b' }}{{ '%s-%d' % ('a', 1) }}{{ [1, 2] + [3] }}"
        "{{ 'abc' | batch(2) | list }}{{ 'a\nb' | indent(2) }}{{ 'x' in 'xyz' and 1 not in [2] }}{{ 1 if false }}"
        "{{ messages | length is gt 2 }}{{ none is none }}{{ messages[0] is mapping }}{{ 'a'.title() }}{{ (1, 2)[0] }}"
    ),
}  # fmt: skip
TOOLS = [{"name": "f", "description": "<é>"}]


def given_by(write: Any) -> Any:
    """What comes of a call, or that it is refused."""
    try:
        return write()
    except (ValidationError, ValueError, TypeError):
        return "refused"
    except Exception as error:
        if type(error).__module__.startswith("jinja2"):
            return "refused"
        raise


@pytest.mark.parametrize("name", TEMPLATES)
def test_chats_are_as_by_transformers(tmp_path: Path, name: str) -> None:
    from transformers import AutoTokenizer

    write_byte_tokenizer(tmp_path, tokenizer_class="PreTrainedTokenizerFast", pad_token="<|end|>")  # noqa: S106 - no password
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES[name])
    ours: Any = get_tokenizer(str(tmp_path))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    cases = product(range(1, len(CHAT) + 1), (None, TOOLS), (False, True), (False, True))
    texts = set()
    for length, tools, prompt, goes_on in cases:
        options: dict[str, Any] = {
            "tools": tools,
            "add_generation_prompt": prompt,
            "continue_final_message": goes_on,
        }
        more = {**options, "enable_thinking": length % 2 == 0, "documents": [{"title": "t", "text": "d"}]}
        chat = CHAT[:length]
        found = given_by(lambda: ours.apply_chat_template(chat, tokenize=False, **more))  # noqa: B023 - called here
        wanted = given_by(lambda: theirs.apply_chat_template(chat, tokenize=False, **more))  # noqa: B023 - called here
        assert found == wanted, (length, options)
        texts.add(found)
        if found != "refused":
            ids = theirs.apply_chat_template(chat, tokenize=True, return_dict=True, **more)["input_ids"]
            assert ours.apply_chat_template(chat, **more) == ids
    assert len(texts) > 1


def test_masks_are_as_by_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_byte_tokenizer(tmp_path, tokenizer_class="PreTrainedTokenizerFast")
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["controls"])
    asked: dict[str, Any] = {"return_dict": True, "return_assistant_tokens_mask": True}
    ours: Any = get_tokenizer(str(tmp_path))
    found = ours.apply_chat_template(CHAT, **asked)
    wanted = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(CHAT, **asked)
    assert found["assistant_masks"] == wanted["assistant_masks"]
    assert 0 < sum(found["assistant_masks"]) < len(found["input_ids"])
