"""The sandbox that chat templates run in: no way out of plain data, and a bound on what one rendering may take.

Jinja's immutable sandbox keeps templates from Python's internals; it does not keep them from running for ever or from
filling memory. Here every turn of a loop, every call, operator and printed value is counted against a `RenderBudget`,
and whatever could make a large value out of a small one is looked at before it is made.
It knows neither messages nor models.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

BUDGET_KEY = "the budget of this rendering"  # with spaces in it no template can name it
LARGEST_INTEGER_BITS = 1024
LARGEST_ARGUMENT = 1_000_000  # a width, a count: an integer argument may become as many characters
LARGEST_SLOW_TEXT = 100_000  # for filters whose time grows faster than their text


class TemplateLimitError(jinja2.TemplateError):
    """A template that took more than a rendering may take."""


@dataclass(frozen=True, kw_only=True)
class TemplateLimits:
    """What one rendering may take.

    Attributes:
        seconds: of the rendering thread's processor time.
        steps: turns of loops, calls, operators and printed values.
        value_size: characters of one string, or items of one list.
        total_size: the same, of all that is made on the way.
        source_size: characters of a template.
    """

    seconds: float = 1.0
    steps: int = 1_000_000
    value_size: int = 16_000_000
    total_size: int = 250_000_000
    source_size: int = 1_000_000


class RenderBudget:
    """Counts one rendering against its limits."""

    __slots__ = ("_deadline", "_limits", "_made", "_steps")

    def __init__(self, limits: TemplateLimits) -> None:
        self._limits = limits
        self._deadline = time.thread_time() + limits.seconds
        self._steps = self._made = 0

    def spend(self, made: Any = None) -> None:
        """Count one step, and the value that it made."""
        self._steps += 1
        if self._steps > self._limits.steps:
            raise TemplateLimitError(f"it takes more than {self._limits.steps} steps")
        if not self._steps % 256 and time.thread_time() > self._deadline:
            raise TemplateLimitError(f"it takes more than {self._limits.seconds:g} s")
        if isinstance(made, (str, list, tuple, dict)):
            self.check_size(len(made))
            self._made += len(made)
            if self._made > self._limits.total_size:
                raise TemplateLimitError(f"it makes more than {self._limits.total_size} characters on the way")

    def check_size(self, size: int) -> None:
        """Refuse a value that would be too large, best before it is made."""
        if size > self._limits.value_size:
            raise TemplateLimitError(f"it makes a value of {size} characters; {self._limits.value_size} are allowed")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of chat templates; give each rendering a budget under ``BUDGET_KEY``."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_count_printed
        )
        self.filters["tojson"] = _to_json
        self.filters = {name: _bounded(name, function) for name, function in self.filters.items()}
        self.filters[_COUNTED], self.filters[_LIMITED] = _counted, _limited
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self.globals["namespace"] = _GuardedNamespace
        del self.globals["lipsum"]  # makes text out of two numbers

    def compile_bounded(self, source: str, limits: TemplateLimits) -> jinja2.Template:
        """A template whose loops and joined strings are counted.

        Raises:
            jinja2.TemplateError: when the text is not Jinja, or too long or too deeply nested.
        """
        if len(source) > limits.source_size:
            raise TemplateLimitError(f"it has {len(source)} characters; {limits.source_size} are allowed")
        try:
            tree = self.parse(source)
            for loop in list(tree.find_all(nodes.For)):
                loop.iter = _filtered(loop.iter, _COUNTED)
            _replace(tree)
            tree.set_environment(self)
            return self.from_string(tree)
        except (RecursionError, MemoryError, SyntaxError, ValueError) as error:
            raise TemplateLimitError("it is nested too deeply") from error

    def call(self, context: Context, function: Any, /, *arguments: Any, **named: Any) -> Any:
        budget = _budget(context)
        budget.spend()
        owner = getattr(function, "__self__", None)
        if isinstance(owner, (str, bytes, list, int)):
            _check_method(budget, owner, function.__name__, arguments, named)
        _check_arguments(arguments, named)
        made = super().call(context, function, *arguments, **named)
        budget.spend(made)
        return made

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapper = super().wrap_str_format(value)
        if wrapper is None:
            return None
        checked = wrapper

        def format_checked(*arguments: Any, **named: Any) -> str:
            _check_format(value.__self__)
            return checked(*arguments, **named)

        return format_checked

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = _budget(context)
        if operator == "%":
            if isinstance(left, str):
                _check_format(left)
        elif operator == "+":
            if isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
                budget.check_size(len(left) + len(right))
        else:
            _check_product(budget, operator, left, right)
        made = super().call_binop(context, operator, left, right)
        budget.spend(made)
        return made


class _Generation(Extension):
    """``{% generation %} ... {% endgeneration %}``, a mark for training masks: renders its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _GuardedNamespace(Namespace):
    """Jinja's namespace without names that begin with an underscore, the way into Python's internals."""

    def __init__(*args: Any, **attributes: Any) -> None:
        # Jinja's own has this signature too, so that a template may name an attribute "self".
        self, *rest = args
        values = dict(*rest, **attributes)
        for name in values:
            _refuse_private(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        Namespace.__setitem__(self, name, value)


def _refuse_private(name: str) -> None:
    if name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace attribute may not begin with an underscore: {name!r}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML characters and sorts keys; prompts want neither."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


# Counting

_COUNTED, _LIMITED = "turns of a loop", "a joined string"  # filters that no template can name


def _budget(context: Context) -> RenderBudget:
    budget: RenderBudget = context.parent[BUDGET_KEY]
    return budget


@jinja2.pass_context
def _count_printed(context: Context, value: Any) -> Any:
    _budget(context).spend(value)
    return value


@jinja2.pass_context
def _counted(context: Context, items: Any) -> Any:
    """What a loop runs over, each turn counted; a list keeps its length, which a template may ask for."""
    return _count_turns(_budget(context), iter(items))


def _count_turns(budget: RenderBudget, items: Iterator[Any]) -> Iterator[Any]:
    for item in items:
        budget.spend()
        yield item


@jinja2.pass_context
def _limited(context: Context, value: Any) -> Any:
    _budget(context).spend(value)
    return value


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _replace(node: nodes.Node) -> None:
    """Wrap every ``a ~ b`` below a node, which Jinja offers no hook for."""
    for field, value in node.iter_fields():
        if isinstance(value, list):
            value[:] = [_wrapped(item) for item in value]
        elif isinstance(value, nodes.Node):
            setattr(node, field, _wrapped(value))


def _wrapped(item: Any) -> Any:
    if not isinstance(item, nodes.Node):
        return item
    _replace(item)
    return _filtered(item, _LIMITED) if isinstance(item, nodes.Concat) else item


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that looks at its arguments first and counts what it made."""
    wants = getattr(function, "jinja_pass_arg", None)

    def run(context: Context, value: Any, /, *arguments: Any, **named: Any) -> Any:
        budget = _budget(context)
        budget.spend()
        _check_method(budget, value, name, arguments, named)
        _check_arguments(arguments, named)
        first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        made = function(*([] if wants is None else [first[wants.name]]), value, *arguments, **named)
        budget.spend(made)
        return made

    return jinja2.pass_context(run)


# Looking before making


def _check_arguments(arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    for value in (*arguments, *named.values()):
        if isinstance(value, int) and abs(value) > LARGEST_ARGUMENT and value.bit_length() > 64:
            raise TemplateLimitError(f"an integer of {value.bit_length()} bits is not allowed as an argument")


def _check_method(
    budget: RenderBudget, owner: Any, name: str, arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    """Methods and filters that can make much out of little."""
    given = [*arguments, *named.values()]
    numbers = [value for value in given if isinstance(value, int)]
    texts = [value for value in given if isinstance(value, str)]
    if name in ("wordwrap", "urlize", "striptags", "encode") and len(str(owner)) > LARGEST_SLOW_TEXT:
        raise TemplateLimitError(f"{name} may be given {LARGEST_SLOW_TEXT} characters")
    if name == "sum" and any(isinstance(value, (list, tuple)) for value in given):
        raise TemplateLimitError("sum may not join lists")
    if name == "tojson" and any(number > 100 for number in numbers):
        raise TemplateLimitError("tojson indents by 100 at most")
    if name in (
        "center",
        "ljust",
        "rjust",
        "zfill",
        "expandtabs",
        "indent",
        "batch",
        "slice",
        "wordwrap",
        "to_bytes",
    ) and any(abs(number) > LARGEST_ARGUMENT for number in numbers):
        raise TemplateLimitError(f"{name} may be asked for {LARGEST_ARGUMENT} at most")
    if name == "indent" and isinstance(owner, str):
        budget.check_size(len(owner) + (owner.count("\n") + 1) * max([4, *numbers, *map(len, texts)]))
    if name == "replace" and isinstance(owner, str) and len(texts) > 1:
        budget.check_size(len(owner) + (owner.count(texts[0]) if texts[0] else len(owner) + 1) * len(texts[1]))
    if name == "expandtabs" and isinstance(owner, str):
        budget.check_size(len(owner) + owner.count("\t") * max([8, *numbers]))
    if name == "join":
        separator, items = (owner, given[0] if given else []) if isinstance(owner, str) else ("".join(texts), owner)
        budget.check_size(len(separator) * (len(items) if isinstance(items, Sized) else LARGEST_ARGUMENT))
    if name == "format" and isinstance(owner, str):
        _check_format(owner)


def _check_format(text: str) -> None:
    """A width is what makes a long string out of a short one: written out, or taken from a value."""
    if re.search(r"%[^a-zA-Z%]*(\d{6}|\*)|\{[^}]*(\d{6}|\{)", text):
        raise TemplateLimitError("a format string asks for a width of six digits or more, or takes it from a value")


def _check_product(budget: RenderBudget, operator: str, left: Any, right: Any) -> None:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, (str, list, tuple)) and isinstance(other, int):
            budget.check_size(len(one) * max(0, other))
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length() if operator == "*" else left.bit_length() * max(0, right)
        if bits > LARGEST_INTEGER_BITS:
            raise TemplateLimitError(f"it computes an integer of more than {LARGEST_INTEGER_BITS} bits")
