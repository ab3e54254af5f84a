"""One line for each request that ends: as text or JSON, without a word of the prompt or the answer.

Every value is written so that it stays on its line and within its field, whatever a client put into it.
"""

import json
import re
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["text", "json"]
LOG_FORMATS = ("text", "json")
MOST_CHARACTERS = 256
# Control characters of both planes, line and paragraph separators, marks that turn the direction of writing, and
# halves of surrogate pairs, which no encoding of a log can hold.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\\\\]")
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+-]+")


def safe(text: str) -> str:
    """Text on one line: what could end a line, move a cursor or turn the writing is escaped, and long text is cut."""
    cut = text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "..."
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), cut)


def format_line(fields: dict[str, object], form: LogFormat, *, at: float) -> str:
    """One line of a log, without its end.

    Args:
        fields: names of our own and values of any origin; None is left out.
        at: seconds since 1970.
    """
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    known = {name: value for name, value in fields.items() if value is not None}
    if form == "json":
        shown = {name: safe(value) if isinstance(value, str) else _rounded(value) for name, value in known.items()}
        return json.dumps({"time": time, **shown}, ensure_ascii=True, separators=(",", ":"))
    return " ".join([time, *(f"{name}={_field(value)}" for name, value in known.items())])


def _rounded(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value


def _field(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = safe(str(value))
    return text if _PLAIN.fullmatch(text) else '"' + text.replace('"', '\\"') + '"'
