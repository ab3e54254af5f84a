"""Renders a conversation to text with the Jinja template that comes with a model.

Templates are code from strangers: they run in Jinja's immutable sandbox and see nothing but plain JSON values.
The names and filters they may use are those that transformers gives them. It knows no tokens.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from flyweight.errors import CheckpointError, UsageError


class ChatTemplate:
    """One compiled template; ``source`` is its Jinja text, ``origin`` the file named in messages.

    Raises:
        CheckpointError: when the text is not valid Jinja.
    """

    def __init__(self, source: str, *, origin: str) -> None:
        self._origin = origin
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise CheckpointError(f"the chat template of {origin} is not valid Jinja: {error}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        variables: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The text of the conversation; with ``add_generation_prompt`` it ends where the answer begins.

        ``variables`` holds ``bos_token``, ``eos_token`` and the like, which templates write themselves (encode the
        result without adding them again), and whatever else a template reads. Keys of messages whose value is None
        count as absent.

        Raises:
            UsageError: when a message is not plain data or the template refuses the conversation.
        """
        conversation = [{key: _plain(value) for key, value in m.items() if value is not None} for m in messages]
        try:
            return self._template.render(
                {
                    **{name: _plain(value) for name, value in variables.items()},
                    "messages": conversation,
                    "tools": None if tools is None else [_plain(tool) for tool in tools],
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except (jinja2.TemplateError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"the chat template of {self._origin} refuses this conversation: {error}") from error


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


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["namespace"] = _GuardedNamespace
    return environment


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


def _plain(value: Any) -> Any:
    """A copy made of plain JSON types: objects with methods of their own would be a way out of the sandbox."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    raise UsageError(
        f"a message holds a {type(value).__name__}; chat messages are made of strings, numbers, true, false, null, "
        "lists and objects"
    )
