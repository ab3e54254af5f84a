"""A report as one self-contained HTML file: no script, no fonts, nothing fetched; readable in light and dark.

All text is escaped by the template; the only raw pieces are the SVG drawings that ``plots.py`` made.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flyweight.reporting.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A paragraph, under a heading when one is given."""

    text: str
    heading: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Names and values, such as a protocol or a machine."""

    title: str
    facts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A drawing made by ``plots.py``, with a line that says what is to be seen."""

    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A yes or a no, and why."""

    passed: bool
    text: str


Block = Text | Facts | Plot | Verdict | Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A report: a title, a line below it, and blocks in order."""

    title: str
    subtitle: str = ""
    blocks: tuple[Block, ...] = field(default=())


def render_page(page: Page) -> str:
    """The page as an HTML document."""
    environment = Environment(
        loader=PackageLoader("flyweight.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    blocks = [
        (type(block).__name__, block, Markup(block.svg) if isinstance(block, Plot) else "") for block in page.blocks
    ]
    return environment.get_template("page.html.jinja").render(page=page, blocks=blocks)


def write_page(page: Page, path: str | Path) -> Path:
    """Write the page under a temporary name and rename it; returns the path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".part")
    temporary.write_text(render_page(page), encoding="utf-8")
    os.replace(temporary, target)
    return target
