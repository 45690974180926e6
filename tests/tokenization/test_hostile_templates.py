"""Templates of strangers: none reaches out of its variables, loops for ever or fills the memory."""

from typing import Any

import pytest
from jinja2.exceptions import SecurityError

from tinker_actors.errors import ChatTemplateError
from tinker_actors.tokenization import budget, sandbox
from tinker_actors.tokenization.budget import MOST_SIZE, OverBudgetError
from tinker_actors.tokenization.chat import render_chat

CHAT = [{"role": "user", "content": "a"}]
DOUBLED = "{% set ns = namespace(x=START, y=START) %}{% for i in range(60) %}STEP{% endfor %}"


def cause_of(source: str, **variables: Any) -> BaseException | None:
    with pytest.raises(ChatTemplateError, match="the chat template gave no text: ") as caught:
        render_chat(source, CHAT, variables=variables)
    return caught.value.__cause__


def doubled(start: str, step: str) -> str:
    return DOUBLED.replace("START", start).replace("STEP", step)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ [''] | map(attribute='__class__') | list }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{a.__class__}'.format_map({'a': 1}) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__closure__ }}",
        "{{ self._TemplateReference__context }}",
        "{% macro f() %}{% endmacro %}{{ f.__call__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages[0].pop('role') }}",
        "{{ messages.clear() }}",
        "{{ given.__init__ }}",
    ],
)
def test_no_template_reaches_out_of_its_variables(source: str) -> None:
    assert isinstance(cause_of(source, given=object()), SecurityError)


@pytest.mark.parametrize("source", ["{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}"])
def test_no_template_reads_files(source: str) -> None:
    assert isinstance(cause_of(source), TypeError)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% macro f() %}{{ caller() }}{% endmacro %}{% for i in range(99999) %}{% call f() %}{% endcall %}{% endfor %}",
        "{% for x in [1, 2] recursive %}{% if loop.depth < 40 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
        "{% for x in [1] recursive %}{% if loop.depth < 4 %}{{ loop(range(99999)) }}{% endif %}{% endfor %}",
        "{% for i in range(99999) %}{{ range(99999) | map('upper') | list }}{% endfor %}",
        "{% for i in range(99999) %}{{ range(99999) | select('eq', 1) | list }}{% endfor %}",
        "{% for i in range(99999) %}{{ range(99999) | groupby('real') }}{% endfor %}",
    ],
)
def test_what_would_run_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(budget, "MOST_STEPS", 20_000)
    assert isinstance(cause_of(source), OverBudgetError)


@pytest.mark.parametrize(
    "source",
    [
        "{% macro f(n) %}{{ f(n - 1) }}{% endmacro %}{{ f(1) }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "-" * 5000 + "1 }}",
    ],
)
def test_what_is_nested_too_deeply_is_ended(source: str) -> None:
    assert isinstance(cause_of(source), RecursionError)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10 ** 12 }}",
        "{{ 10 ** 12 * 'x' }}",
        "{{ [1] * 10 ** 12 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{% set ns = namespace(n=9) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
        "{{ 'x' | center(10 ** 12) }}",
        "{{ 'x'.center(10 ** 12) }}",
        "{{ 'x'.ljust(10 ** 12) }}",
        "{{ 'x'.rjust(10 ** 12) }}",
        "{{ 'x'.zfill(10 ** 12) }}",
        "{{ 'x'.encode().ljust(10 ** 12) }}",
        "{{ ('x' | safe).ljust(10 ** 12) }}",
        "{{ 'x\t'.expandtabs(10 ** 12) }}",
        "{{ 'x\t'.expandtabs(tabsize=10 ** 12) }}",
        "{{ (1).to_bytes(10 ** 12) }}",
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000).join(range(99999) | map('string')) }}",
        "{{ range(99999) | join('a' * 100000) }}",
        "{{ ('\n' * 100000) | indent(100000) }}",
        "{{ ('\n' * 100000) | indent('x' * 100000) }}",
        "{{ 'a' | batch(10 ** 12, 'x') | list }}",
        "{{ 'a' | slice(10 ** 12) | list }}",
        "{{ ('a' * 10 ** 7) | batch(1) | list }}",
        "{{ ('a' * 10 ** 7).split('a') }}",
        "{{ ('\n' * 10 ** 7).splitlines() }}",
        "{{ 1.5 | round(10 ** 9) }}",
        "{{ [[1]] | sum(start=[]) }}",
        "{% for i in range(99999) %}" + "y" * 100_000 + "{% endfor %}",
        "{% macro f() %}" + "y" * 100_000 + "{% endmacro %}{% for i in range(99999) %}{{ f() }}{% endfor %}",
    ],
)
def test_what_would_fill_the_memory_is_refused_before_it_is_made(source: str) -> None:
    assert isinstance(cause_of(source), OverBudgetError)


@pytest.mark.parametrize(
    "source",
    [
        doubled("'xx'", "{% set ns.x = ns.x ~ ns.x %}"),
        doubled("'xx'", "{% set ns.x = ns.x + ns.x %}"),
        doubled("'xx'", "{% set ns.x = '%s%s' % (ns.x, ns.x) %}"),
        doubled("'xx'", "{% set ns.x = '%s%s' | format(ns.x, ns.x) %}"),
        doubled("'xx'", "{% set ns.x = '{}{}'.format(ns.x, ns.x) %}"),
        doubled("'xx'", "{% set ns.x = [ns.x, ns.x] | join %}"),
        doubled("'xx'", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
        doubled("[1]", "{% set ns.x = ns.x + ns.x %}"),
        doubled("[1]", "{% set ns.x = [ns.x, ns.x] %}") + "{{ ns.x }}",
        doubled("[1]", "{% set ns.x = [ns.x, ns.x] %}") + "{{ ns.x | tojson }}",
        doubled("[1]", "{% set ns.x = [ns.x, ns.x] %}") + "{{ ns.x | string }}",
        doubled("[1]", "{% set ns.x = [ns.x, ns.x] %}") + "{{ 'x' ~ ns.x }}",
        doubled("[1]", "{% set ns.x = {'a': ns.x, 'b': ns.x} %}") + "{{ ns.x | tojson }}",
        doubled("[1]", "{% set ns.x, ns.y = [ns.x, ns.x], [ns.y, ns.y] %}") + "{{ ns.x == ns.y }}",
        doubled("[1]", "{% set ns.x, ns.y = [ns.x, ns.x], [ns.y, ns.y] %}") + "{{ ns.x in [ns.y] }}",
        doubled("[1]", "{% set ns.x, ns.y = [ns.x, ns.x], [ns.y, ns.y] %}") + "{{ ns.x is eq(ns.y) }}",
        doubled("[1]", "{% set ns.x, ns.y = [ns.x, ns.x], [ns.y, ns.y] %}") + "{{ [ns.x].index(ns.y) }}",
        doubled("(1,)", "{% set ns.x = (ns.x, ns.x) %}") + "{{ {ns.x: 1} }}",
        doubled("(1,)", "{% set ns.x = (ns.x, ns.x) %}") + "{{ {}[ns.x] }}",
        doubled("(1,)", "{% set ns.x = (ns.x, ns.x) %}") + "{{ {}.get(ns.x) }}",
        doubled("(1,)", "{% set ns.x = (ns.x, ns.x) %}") + "{{ [ns.x] | unique | list }}",
    ],
)
def test_what_doubles_again_and_again_is_refused(source: str) -> None:
    assert isinstance(cause_of(source), OverBudgetError)


@pytest.mark.parametrize(
    "work",
    [
        "{{ 'b' in x }}",
        "{{ x[1:] | length }}",
        "{{ x.find('b') }}",
        "{{ (x | upper) | length }}",
        "{{ x == y }}",
    ],
)
def test_work_that_is_long_is_ended(monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    monkeypatch.setattr(budget, "MOST_WORK", 10**8)
    source = "{% for i in range(99999) %}" + work + "{% endfor %}"
    assert isinstance(cause_of(source, x="a" * 10**6, y="a" * 10**6), OverBudgetError)


@pytest.mark.parametrize(
    "source",
    [
        "{{ '%1000000000d' % 1 }}",
        "{{ '%(a)-1000000000d' % {'a': 1} }}",
        "{{ '%.1000000000f' % 1 }}",
        "{{ '%*d' % (10 ** 9, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{a:>1000000000}'.format(a=1) }}",
        "{{ '{:{}}'.format(1, 10 ** 9) }}",
        "{{ '{:1000000000}'.format_map({}) }}",
        "{{ strftime_now('%1000000000d') }}",
        "{{ 'a'.translate({97: 'b'}) }}",
    ],
)
def test_widths_that_nobody_needs_are_refused(source: str) -> None:
    assert isinstance(cause_of(source), SecurityError)


def test_json_that_is_mostly_blanks_is_ended() -> None:
    deep: list[Any] = [1] * 1000
    for _ in range(300):
        deep = [deep]
    assert isinstance(cause_of("{{ x | tojson(indent=1000) }}", x=deep), OverBudgetError)


@pytest.mark.parametrize(
    "name", ["lipsum(10 ** 9)", "'a' | wordwrap", "'a' | urlize", "{} | xmlattr", "'a' | pprint"]
)
def test_what_is_for_web_pages_is_not_there(name: str) -> None:
    cause_of(f"{{{{ {name} }}}}")


def test_a_template_has_a_length() -> None:
    assert isinstance(cause_of("x" * (sandbox.MOST_SOURCE + 1)), SecurityError)


def test_a_text_may_be_as_long_as_is_said() -> None:
    """The bound is one of texts, not of how often they are handed on."""
    content = "x" * (MOST_SIZE - 1)
    assert (
        render_chat("{{ messages[0].content }}", [{"role": "user", "content": content}], variables={}).text
        == content
    )
    assert isinstance(cause_of("{{ x }}{{ x }}", x=content), OverBudgetError)


def test_a_refusal_says_little_of_what_the_template_said() -> None:
    with pytest.raises(ChatTemplateError) as caught:
        render_chat("{{ raise_exception('x' * 10000) }}", CHAT, variables={})
    assert len(str(caught.value)) < 600


def test_the_next_chat_has_a_budget_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MOST_STEPS", 150)
    source = "{% for i in range(100) %}x{% endfor %}"
    assert [render_chat(source, CHAT, variables={}).text for _ in range(5)] == ["x" * 100] * 5


def test_long_chats_are_far_from_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand messages of a thousand characters, by a template that looks at each of them from both ends."""
    monkeypatch.setattr(budget, "MOST_STEPS", budget.MOST_STEPS // 50)
    monkeypatch.setattr(budget, "MOST_WORK", budget.MOST_WORK // 50)
    source = (
        "{% set ns = namespace(last=0) %}{% for m in messages[::-1] %}"
        "{% if m.role == 'user' and not m.content.startswith('<tool>') %}{% set ns.last = loop.index0 %}{% endif %}"
        "{% endfor %}{% for m in messages %}{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}"
        "{{ '<' + m.role + '>' + m.content + '</>' }}{% elif '</think>' in m.content %}"
        "{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% else %}{{ m.content | trim }}{% endif %}"
        "{% if loop.index0 == messages | length - 1 %}{{ ns.last }}{% endif %}{% endfor %}"
    )
    messages = [{"role": role, "content": "x" * 1000} for _ in range(500) for role in ("user", "assistant")]
    assert len(render_chat(source, messages, variables={}).text) > 10**6
