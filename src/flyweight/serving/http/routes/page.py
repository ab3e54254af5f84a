"""The page at ``/`` and its files. They hold nothing of the server, so they need no key: what they show is asked for
with one. A strict policy keeps the browser from running or loading anything else.
"""

import hashlib
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from flyweight.serving.http.operations import Handler, Operation

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE_FILES = (
    "index.html",
    "style.css",
    "icon.svg",
    "app.js",
    "api.js",
    "chat.js",
    "engine.js",
    "events.js",
    "format.js",
    "plots.js",
)
# No script, style or image but our own files; nothing inline; no text of a model can ever become HTML.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",
}


def page_operations() -> list[Operation]:
    """One operation for each file; the page itself is at ``/``."""
    return [_operation(name) for name in PAGE_FILES]


def _path(name: str) -> str:
    return "/" if name == "index.html" else f"/page/{name}"


PAGE_PATHS = frozenset(_path(name).encode("ascii") for name in PAGE_FILES)


def _operation(name: str) -> Operation:
    content_type = CONTENT_TYPES[name[name.rindex(".") :]]
    return Operation(
        method="GET",
        path=_path(name),
        handler=_handler(name, content_type),
        summary="The page" if name == "index.html" else f"A file of the page: {name}",
        answer={"type": "string"},
        answer_type=content_type.split(";")[0],
    )


def _handler(name: str, content_type: str) -> Handler:
    content = files("flyweight.serving.page").joinpath(name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag, "Content-Type": content_type}

    async def show(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    show.__name__ = "show_" + name.replace(".", "_")
    return show
