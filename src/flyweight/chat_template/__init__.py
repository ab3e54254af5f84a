"""Renders a conversation to text with the Jinja template that comes with a model.

Templates are code from strangers: they run in a sandbox, within limits of time and size, and see nothing but plain
JSON values.
The names and filters they may use are those that transformers gives them. It knows no tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from flyweight.chat_template.sandbox import BUDGET_KEY, RenderBudget, Sandbox, TemplateLimits
from flyweight.errors import CheckpointError, UsageError

__all__ = ["ChatTemplate", "TemplateLimits"]


class ChatTemplate:
    """One compiled template; ``source`` is its Jinja text, ``origin`` the file named in messages.

    Raises:
        CheckpointError: when the text is not valid Jinja, too long or too deeply nested.
    """

    def __init__(self, source: str, *, origin: str, limits: TemplateLimits | None = None) -> None:
        self.source = source
        self._origin = origin
        self._limits = limits if limits is not None else TemplateLimits()
        try:
            self._template = Sandbox().compile_bounded(source, self._limits)
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
            UsageError: when a message is not plain data, or the template refuses the conversation or takes more
                time, steps or memory than its limits allow.
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
                    BUDGET_KEY: RenderBudget(self._limits),
                }
            )
        except RecursionError as error:
            raise UsageError(f"the chat template of {self._origin} refuses this conversation: too deep") from error
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, MemoryError) as error:
            raise UsageError(f"the chat template of {self._origin} refuses this conversation: {error}") from error


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
