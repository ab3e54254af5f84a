"""Function calls in the answers to one request: what its prompt needs, what binds the answers, and how they are read.

It joins the family of the model's chat template (``serving/tools``) with the fields of an API; it knows neither HTTP
nor the engine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.serving.api_errors import ApiError
from flyweight.serving.asks import Conversation
from flyweight.serving.protocol.structure import told
from flyweight.serving.tools.deltas import ContentDelta, Delta, WholeCall, joined
from flyweight.serving.tools.tool import Tool, ToolChoice, read_choice, read_tools
from flyweight.serving.tools.tool_format import ToolFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class Calling:
    """The functions that answers to a request may call.

    Attributes:
        family: how the model writes calls; None where none may be made.
        tools, choice: of the request.
        constraint: what binds the answers, or None.
    """

    family: ToolFormat | None
    tools: tuple[Tool, ...]
    choice: ToolChoice
    constraint: ConstraintSpec | None

    @property
    def marks(self) -> tuple[str, ...]:
        """Special tokens that must be seen in the text."""
        return () if self.family is None else self.family.marks

    def put_into(self, conversation: Conversation) -> Conversation:
        """The conversation with what the model is told of the functions."""
        if self.family is None:
            return conversation
        messages, templated = self.family.prompt(conversation.messages, self.tools)
        return conversation.with_tools(messages, templated)

    def reader(self) -> "AnswerReader":
        """What reads one answer."""
        return AnswerReader(self)


class AnswerReader:
    """Finds calls in one answer, whose text comes in pieces."""

    def __init__(self, calling: Calling) -> None:
        self._parser = None if calling.family is None else calling.family.parser(calling.tools)
        self._deltas: list[Delta] = []

    @property
    def has_calls(self) -> bool:
        """Whether a call was found so far."""
        return any(not isinstance(one, ContentDelta) for one in self._deltas)

    def read(self, text: str, *, is_last: bool) -> list[Delta]:
        """What further text brings."""
        if self._parser is None:
            return [ContentDelta(text=text)] if text else []
        found = self._parser.push(text) if text else []
        if is_last:
            found = [*found, *self._parser.finish()]
        self._deltas += found
        return found

    def whole(self, text: str) -> tuple[str, list[WholeCall]]:
        """The text and the calls of a complete answer."""
        return joined(self.read(text, is_last=True))


def read_calling(
    family: ToolFormat | None,
    *,
    special_id: Callable[[str], int | None],
    tools: Sequence[Mapping[str, Any]] | None,
    choice: str | Mapping[str, Any] | None,
    parallel: bool | None,
    constraint: ConstraintSpec | None,
) -> Calling:
    """What the fields of a request ask for.

    Args:
        family: of the model's chat template, None where it is not known.
        special_id: the id of a special token, None for one that is none.
        constraint: what other fields bind the answers to.

    Raises:
        ApiError: 400, naming the field.
    """
    offered = told(lambda: read_tools(tools))
    chosen = told(lambda: read_choice(choice, offered))
    if not offered or chosen.kind == "none":
        return Calling(family=None, tools=(), choice=chosen, constraint=constraint)
    if family is None:
        raise ApiError(400, "this model's chat template knows no function calls; leave tools out", param="tools")
    if constraint is not None:
        raise ApiError(
            400,
            "an answer that must have a form cannot call functions too; leave the form out, or give tool_choice 'none'",
            param="tools",
        )
    bound = told(lambda: family.constraint(offered, chosen, parallel=parallel is not False, special_id=special_id))
    return Calling(family=family, tools=offered, choice=chosen, constraint=bound)
