"""Where chat templates run: Jinja's sandbox, whose loops, calls and sizes are bounded, too.

Templates come with a model from strangers. Jinja's sandbox keeps them from reaching out of their variables; it does not
keep them from looping for ever or from filling the memory. So everything in them that repeats or grows is
counted by a `Budget`: loops, calls, filters and operators, wherever they are.
"""

import functools
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from tinker_actors.tokenization.budget import MOST_SIZE, Counted, budget, budgeted
from tinker_actors.tokenization.growth import FILTERS, check_method, check_operation

__all__ = ["MOST_SOURCE", "render"]

MOST_SOURCE = 2**20
"""Characters of a template."""
_UNNEEDED = ("pprint", "urlize", "wordwrap", "xmlattr")
"""Filters of web pages that are left out, as no prediction tells what they make."""
_SHALLOW = {
    *("attr", "count", "d", "default", "first", "items", "last", "length", "list", "map", "random", "reject"),
    *("rejectattr", "reverse", "select", "selectattr", "trim"),
}
"""Filters that do not look into the items of what they are given."""
_BUILT_IN = (str, bytes, int, float, list, tuple, dict, set, frozenset)
_COMPARING = {
    *("!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in"),
    *("le", "lessthan", "lt", "ne"),
}
"""Tests that look into the items of what they compare."""


class _Counting(NodeTransformer):
    """Puts filters that count around whatever repeats or grows and is not a call, a filter or an operator itself."""

    def visit_For(self, node: nodes.For) -> Any:  # noqa: N802 - the visitor's name
        self.generic_visit(node)
        data = sum(len(part.data) for part in node.find_all(nodes.TemplateData))
        node.iter = _through("_counted", node.iter, nodes.Const(data))
        return node

    def visit_Concat(self, node: nodes.Concat) -> Any:  # noqa: N802 - the visitor's name
        self.generic_visit(node)
        return _through("_concatenated", nodes.List(node.nodes))

    def visit_Getitem(self, node: nodes.Getitem) -> Any:  # noqa: N802 - the visitor's name
        self.generic_visit(node)
        return _through("_measured", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Pair(self, node: nodes.Pair) -> Any:  # noqa: N802 - the visitor's name
        self.generic_visit(node)
        node.key = _weighed(node.key)
        return node

    def visit_Compare(self, node: nodes.Compare) -> Any:  # noqa: N802 - the visitor's name
        self.generic_visit(node)
        node.expr = _weighed(node.expr)
        for operand in node.ops:
            operand.expr = _weighed(operand.expr)
        return node


def _through(name: str, node: Any, *arguments: nodes.Expr) -> Any:
    return nodes.Filter(node, name, list(arguments), [], None, None).set_lineno(node.lineno or 1)


def _weighed(node: nodes.Node) -> Any:
    return node if isinstance(node, nodes.Const) else _through("_weighed", node)


class _Generation(Extension):
    """`{% generation %}`: what a model is to write, which is marked where that is asked for."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        """The block as a call that is given its text."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(
            self.call_method("_marked", [nodes.ContextReference()]), [], [], body
        ).set_lineno(line)

    def _marked(self, context: Context, caller: Callable[[], str]) -> str:
        before, after = context.get(_MARKS) or ("", "")
        return f"{before}{caller()}{after}"


_MARKS = "generation marks"
"""The variable with what goes before and after what a model is to write; no template can spell it."""


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_printed
        )
        for name in _UNNEEDED:
            del self.filters[name]
        self.filters["tojson"] = _to_json
        for name, function in list(self.filters.items()):
            self.filters[name] = _guarded(name, function)
        self.filters |= {
            "_concatenated": _concatenated,
            "_counted": _counted,
            "_measured": _measured,
            "_weighed": _weighed_value,
        }
        self.tests |= {name: _guarded(name, self.tests[name]) for name in _COMPARING if name in self.tests}
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception

    def _generate(self, source: nodes.Template, *arguments: Any, **more: Any) -> str:
        return super()._generate(_Counting().visit(source), *arguments, **more)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"a template may not reach for {attribute!r} of {type(obj).__name__}")

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, tuple):
            budget().weigh(argument)
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operation(operator, left, right, budget())
        return _measured(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        mine = budget()
        mine.step()
        method = getattr(obj, "__wrapped__", obj)
        if isinstance(getattr(method, "__self__", None), _BUILT_IN):
            args = tuple(_listed(value) for value in args)
            check_method(method, (*args, *kwargs.values()), mine)
        elif isinstance(obj, LoopContext):
            args = tuple(Counted(value, mine.loop_size, mine) for value in args)
        return _measured(super().call(context, obj, *args, **kwargs))


def _listed(value: Any) -> Any:
    """What an iterator gives, so that it can be counted twice."""
    return list(value) if hasattr(value, "__next__") else value


def _guarded(name: str, function: Any) -> Callable[..., Any]:
    """A filter or test that counts what it is given and what it makes."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0
    predict = FILTERS.get(name)

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        mine = budget()
        mine.step()
        count = mine.measure if name in _SHALLOW else mine.weigh
        values = tuple(_listed(value) for value in args[first:])
        for value in (*values, *kwargs.values()):
            count(value)
        if predict is not None:
            mine.make(predict(*values, **kwargs))
        return _measured(function(*args[:first], *values, **kwargs))

    return guarded


def _measured(value: Any) -> Any:
    budget().measure(value)
    return value


def _weighed_value(value: Any) -> Any:
    budget().weigh(value)
    return value


def _counted(items: Any, size: int) -> Counted:
    return Counted(items, size, budget())


def _concatenated(parts: list[Any]) -> str:
    budget().weigh(parts)
    return "".join(map(str, parts))


def _printed(value: Any) -> Any:
    budget().weigh(value)
    return value


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: Jinja's own filter writes it for web pages, with `<` and `>` escaped."""
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if indent is None:
        return encoder.encode(value)
    pieces = []
    for piece in encoder.iterencode(value):
        budget().make(len(piece))  # how wide a line is depends on how deep it lies
        pieces.append(piece)
    return "".join(pieces)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


@functools.cache
def _sandbox() -> _Sandbox:
    return _Sandbox()


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> Any:
    return _sandbox().from_string(source)


def render(
    source: str,
    variables: Mapping[str, Any],
    *,
    marks: tuple[str, str] | None = None,
    now: Callable[[], datetime],
) -> str:
    """The text of a template.

    Args:
        source: of the template.
        variables: what it may use.
        marks: what to write before and after what stands in `{% generation %}`.
        now: the local time, for `strftime_now`.

    Raises:
        Exception: whatever the template raises, or `SecurityError` where it leaves its bounds.
    """
    if len(source) > MOST_SOURCE:
        raise SecurityError(f"a template may have {MOST_SOURCE} characters, got {len(source)}")

    def strftime_now(form: str) -> str:
        check_operation("%", form, (), budget())
        return now().strftime(form)

    with budgeted() as mine:
        pieces, total = [], 0
        for piece in _compiled(source).generate({**variables, "strftime_now": strftime_now, _MARKS: marks}):
            total += len(piece)
            if total > MOST_SIZE:
                mine.make(total)
            pieces.append(piece)
        return "".join(pieces)
