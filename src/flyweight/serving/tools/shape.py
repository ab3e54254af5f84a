"""How a family of models writes its calls, as data: marks around calls, and names and arguments inside them.

The reader (``shape_parser``) and the writer of grammars (``shape_grammar``) both follow it, so that what is forced is
what is read.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class CallShape:
    """One section of calls: ``opening first CALL (separator CALL)* last``, blanks between the parts.

    A call is an ``object`` with a name and arguments, or ``tagged``: ``head NAME name_end middle ARGUMENTS tail``.

    Attributes:
        opening: the mark that begins a section.
        is_opened_by_prompt: whether the answer begins inside a section, because the prompt ends with its opening.
        at_start: whether a section may begin without its opening, where the answer does.
        first, separator, last: None as the separator: one call in a section.
        style: how a call is written.
        name_key, argument_keys: of the object; grammars write the first of the argument keys.
        head: what a grammar writes before the name, and for tagged calls what is read there; a part between slashes is
            a regular expression.
        name_end, middle, tail: of tagged calls; ``name_end`` is one character that no name has. Objects: what grammars
            write between name and arguments and at the end, where it is not the usual.
        aside: of tagged calls: what may come behind ``name_end`` instead of ``middle`` and begins an identifier that is
            read over, up to the next ``name_end``, behind which ``middle`` comes. Grammars do not write it.
        text_name: what stands for a name where text follows and not a call.
        between: what a grammar writes between sections where several may follow each other; None: one section.
    """

    opening: str
    is_opened_by_prompt: bool = False
    at_start: bool = False
    first: str = ""
    separator: str | None = None
    last: str = ""
    style: Literal["object", "tagged"] = "object"
    name_key: str = "name"
    argument_keys: tuple[str, ...] = ("arguments", "parameters")
    head: tuple[str, ...] = ('{"name": "',)
    name_end: str = ""
    middle: str = ""
    tail: str = ""
    aside: str = ""
    text_name: str | None = None
    between: str | None = None
