"""The items of a response while they are made, and the events that tell of them: a message, and one for each call."""

from collections.abc import Callable
from typing import Any

from flyweight.serving.http.routes.generation import new_id
from flyweight.serving.tools.deltas import ContentDelta, Delta

MESSAGE = -1

Tell = Callable[[str, dict[str, Any]], bytes]
LogProbabilities = list[dict[str, Any]]


class OutputItems:
    """Collects the items of one answer.

    Args:
        tell: makes an event of a name and its content.

    Attributes:
        items: as they stand in the response.
    """

    def __init__(self, tell: Tell) -> None:
        self.items: list[dict[str, Any]] = []
        self._tell = tell
        self._kind: int | None = None  # of the open item: MESSAGE, or the number of a call
        self._text = ""
        self._log_probabilities: LogProbabilities = []

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls among the items."""
        return [item for item in self.items if item["type"] == "function_call"]

    def add(self, delta: Delta) -> list[bytes]:
        """What a delta is told as."""
        if isinstance(delta, ContentDelta):
            told = self._open_message()
            self._text += delta.text
            content = {"delta": delta.text, "logprobs": []}
            return [*told, self._tell("response.output_text.delta", {**self._place(), "content_index": 0, **content})]
        told = []
        if self._kind != delta.index:
            item = {"type": "function_call", "call_id": delta.id, "name": delta.name, "arguments": ""}
            told = self._open(delta.index, {"id": new_id("fc"), **item})
        if delta.arguments:
            self._text += delta.arguments
            content = {"delta": delta.arguments}
            told.append(self._tell("response.function_call_arguments.delta", {**self._place(), **content}))
        return told

    def score(self, found: LogProbabilities) -> None:
        """Log probabilities that belong to the message."""
        self._log_probabilities += found

    def end(self, status: str) -> list[bytes]:
        """The last item is complete; an answer without any has an empty message."""
        told = [] if self.items else self._open_message()
        return [*told, *self._close(status)]

    def _open_message(self) -> list[bytes]:
        if self._kind == MESSAGE:
            return []
        item = {"id": new_id("msg"), "type": "message", "role": "assistant", "content": []}
        told = self._open(MESSAGE, item)
        part = {**self._place(), "content_index": 0, "part": text_part("", [])}
        return [*told, self._tell("response.content_part.added", part)]

    def _open(self, kind: int, item: dict[str, Any]) -> list[bytes]:
        told = self._close("completed")
        self._kind, self._text = kind, ""
        self.items.append({**item, "status": "in_progress"})
        return [*told, self._tell("response.output_item.added", self._whole())]

    def _close(self, status: str) -> list[bytes]:
        if self._kind is None:
            return []
        item, text = self.items[-1], self._text
        item["status"] = status
        if self._kind == MESSAGE:
            part = text_part(text, self._log_probabilities)
            item["content"] = [part]
            place = {**self._place(), "content_index": 0}
            told = [
                self._tell("response.output_text.done", {**place, "text": text, "logprobs": part["logprobs"]}),
                self._tell("response.content_part.done", {**place, "part": part}),
            ]
        else:
            item["arguments"] = text
            content = {"name": item["name"], "arguments": text}
            told = [self._tell("response.function_call_arguments.done", {**self._place(), **content})]
        self._kind = None
        return [*told, self._tell("response.output_item.done", self._whole())]

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}

    def _whole(self) -> dict[str, Any]:
        return {"output_index": len(self.items) - 1, "item": dict(self.items[-1])}


def text_part(text: str, log_probabilities: LogProbabilities) -> dict[str, Any]:
    """The text of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": log_probabilities}
