"""One family's way to call functions: what its prompt needs, how its calls are read, and what forces them."""

import secrets
import string
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.serving.tools import shape_grammar
from flyweight.serving.tools.call_schema import as_constraint
from flyweight.serving.tools.deltas import NewId, ToolParser
from flyweight.serving.tools.shape import CallShape
from flyweight.serving.tools.shape_parser import ShapeParser
from flyweight.serving.tools.tool import Tool, ToolChoice

Messages = Sequence[Mapping[str, Any]]
Templated = list[dict[str, Any]]
ALPHABET = string.ascii_letters + string.digits


def long_id() -> str:
    """A name of a call as OpenAI gives them."""
    return "call_" + "".join(secrets.choice(ALPHABET) for _ in range(24))


def short_id() -> str:
    """Nine letters and digits, as Mistral's templates demand."""
    return "".join(secrets.choice(ALPHABET) for _ in range(9))


def by_template(messages: Messages, tools: Sequence[Tool]) -> tuple[list[Mapping[str, Any]], Templated | None]:
    """Leave the prompt to the chat template, which knows tools."""
    return list(messages), [tool.to_template() for tool in tools] or None


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFormat:
    """How a family of models calls functions.

    Attributes:
        name: of the family.
        recognises: whether a chat template is this family's, by its text.
        shape: how calls are written, tried in this order by the parser; None where ``make_parser`` and ``make_grammar``
            know it.
        prompt: messages and tools as the chat template takes them; None for tools where they are in the messages.
        new_id: names a call.
        marks: special tokens that the parser must see in the text.
    """

    name: str
    recognises: Callable[[str], bool]
    shape: CallShape | None = None
    make_parser: Callable[[Collection[str], NewId], ToolParser] | None = None
    make_grammar: Callable[[Sequence[Tool], bool, bool], str] | None = None
    prompt: Callable[[Messages, Sequence[Tool]], tuple[list[Mapping[str, Any]], Templated | None]] = by_template
    new_id: NewId = long_id
    marks: tuple[str, ...] = ()

    def parser(self, tools: Sequence[Tool], new_id: NewId | None = None) -> ToolParser:
        """A parser for one answer."""
        names = [tool.name for tool in tools]
        new_id = new_id if new_id is not None else self.new_id
        if self.make_parser is not None:
            return self.make_parser(names, new_id)
        assert self.shape is not None
        return ShapeParser(self.shape, names, new_id)

    def constraint(
        self,
        tools: Sequence[Tool],
        choice: ToolChoice,
        *,
        parallel: bool = True,
        special_id: shape_grammar.SpecialId = lambda text: None,
    ) -> ConstraintSpec | None:
        """What binds the answer: calls only where they are forced; text or valid calls where a function is strict; else
        None.

        Arguments satisfy their function's schema where calls are forced, unless it says ``strict`` false; beside text
        only where it says ``strict`` true.

        Args:
            parallel: whether there may be several calls.
            special_id: the id of a special token that is this text, or None.

        Raises:
            UsageError: when a schema is one of something else than an object.
        """
        if choice.kind == "named":
            tools, parallel = [tool for tool in tools if tool.name == choice.name], False
        if not tools or choice.kind == "none" or not (choice.is_forced or any(tool.strict for tool in tools)):
            return None
        if not choice.is_forced:
            tools = [replace(tool, strict=bool(tool.strict)) for tool in tools]
        if self.make_grammar is not None:
            source = self.make_grammar(tools, parallel, choice.is_forced)
        else:
            assert self.shape is not None
            write = shape_grammar.forced if choice.is_forced else shape_grammar.allowed
            source = write(self.shape, tools, parallel=parallel, special_id=special_id)
        return ConstraintSpec.lark(source, origin="tools", parts=tuple(as_constraint(tool) for tool in tools))
