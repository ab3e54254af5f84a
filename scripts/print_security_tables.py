"""Makes the generated tables of docs/security.md anew, the limits and the checks, and prints the whole page."""

import ast
import inspect
import re
import textwrap
from dataclasses import fields
from pathlib import Path

from flyweight.serving.doctor import CHECKS
from flyweight.serving.limits import ServerLimits

PAGE = Path(__file__).parents[1] / "docs" / "security.md"


def limits_table() -> str:
    """Flag, default and meaning of every limit."""
    body = ast.parse(textwrap.dedent(inspect.getsource(ServerLimits))).body[0]
    meanings = {}
    for one, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(one, ast.AnnAssign) and isinstance(following, ast.Expr):
            meanings[one.target.id] = " ".join(following.value.value.split())
    rows = [
        f"| `--{one.name.replace('_', '-')}` | {one.default} | {meanings[one.name]} |" for one in fields(ServerLimits)
    ]
    return "\n".join(["| flag | default | meaning |", "|---|---|---|", *rows])


def checks_table() -> str:
    """Name and advisories of every check."""
    rows = [f"| {check.name} | {check.advisories.replace('|', chr(92) + '|')} |" for check in CHECKS]
    return "\n".join(["| check | stands for |", "|---|---|", *rows])


def page(text: str) -> str:
    """The page with both tables made anew."""
    for head, table in (("| flag | default | meaning |", limits_table()), ("| check | stands for |", checks_table())):
        text = re.sub(re.escape(head) + r"\n(\|.*\n)+", lambda _, new=table: new + "\n", text)
    return text


if __name__ == "__main__":
    print(page(PAGE.read_text()), end="")
