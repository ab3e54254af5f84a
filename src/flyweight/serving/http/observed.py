"""Tells the watch of every HTTP request: its route, status and time. It stands outside all else, the guard too."""

import time
from collections.abc import Iterable

from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flyweight.serving.http.operations import Operation
from flyweight.serving.observation import HttpEnded
from flyweight.serving.watch import Watch

UNKNOWN_ROUTE = "unknown"
LONGEST_TRACEPARENT = 128


class ObservedHttp:
    """The outermost application.

    Args:
        operations: whose paths are told by name; all others are one unknown route, since a label costs memory for ever.
    """

    def __init__(self, app: ASGIApp, watch: Watch, operations: Iterable[Operation]) -> None:
        self._app = app
        self._watch = watch
        paths = {one.path for one in operations}
        self._plain = {path for path in paths if "{" not in path}
        self._patterns = [(compile_path(path)[0], path) for path in sorted(paths - self._plain)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 499  # as nginx has it: the client left before an answer began

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            self._watch.end_http(
                HttpEnded(
                    request_id=scope.get("flyweight.request_id", ""),
                    method=scope["method"] if scope["method"] in ("GET", "POST", "DELETE") else "other",
                    route=self._route(scope["path"]),
                    status=status,
                    began=began,
                    ended=time.perf_counter(),
                    traceparent=_traceparent(scope),
                )
            )

    def _route(self, path: str) -> str:
        if path in self._plain:
            return path
        return next((name for pattern, name in self._patterns if pattern.match(path)), UNKNOWN_ROUTE)


def _traceparent(scope: Scope) -> str:
    found = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
    return found[:LONGEST_TRACEPARENT].decode("latin-1")
