"""How JSON is written where a schema binds it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# Between the parts of JSON one blank or one line break with an indent may stand: models that are left free to do so
# sometimes write blanks until their tokens are used up.
JSON_OPTIONS: "JsonCompileOptions" = {
    "whitespace_flexible": True,
    "whitespace_pattern": r"(\x20|\r?\n[\x20\t]{0,64})?",
    "coerce_one_of": False,
    "lenient": False,
}
