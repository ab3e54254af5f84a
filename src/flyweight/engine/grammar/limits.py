"""How large, how deep and how slow a grammar may be. It knows no grammar."""

from dataclasses import dataclass, fields

from flyweight.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class GrammarLimits:
    """Bounds on what is compiled, all finite, since grammars come from strangers.

    Raises:
        UsageError: when a value is below 1.
    """

    source_bytes: int = 256 << 10
    """Of a JSON schema, a pattern, a grammar or a list of choices, as UTF-8."""

    nesting: int = 64
    """Levels of a JSON schema: of its objects and lists inside each other."""

    enum_values: int = 5_000
    """Entries of one enum, and of a list of choices."""

    literal_bytes: int = 16 << 10
    """Of one string that must come out as it is: an entry of an enum, a const, a choice."""

    pattern_bytes: int = 4 << 10
    """Of one regular expression, in a schema too."""

    repetitions: int = 20_000
    """Of one part of a regular expression, the counts of nested repetitions multiplied."""

    compile_seconds: float = 5.0
    """From the moment it is asked for; also the time that a grammar waits for its turn counts."""

    compile_threads: int = 2
    """Grammars compiled at once."""

    cached_grammars: int = 256
    """Compiled grammars, and refusals, that are remembered."""

    cached_bytes: int = 16 << 20
    """Of their sources together."""

    lexer_states: int = 100_000
    """Of one grammar, 1 to 2 kB each; one that needs more is given up with its request."""

    grammar_symbols: int = 250_000
    """Of one compiled grammar."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not value > 0:
                raise UsageError(f"{one.name}={value} is not allowed; choose a number above 0")
