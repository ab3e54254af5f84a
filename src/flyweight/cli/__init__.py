"""The command line: one file per verb, each nothing but arguments in and a report out.

Options are the fields of the dataclass that the public function takes; there is no second list of them.
Exit codes: 0 done, 1 a gate or check said no, 2 the request cannot be carried out as given, 3 some lines
of a batch failed, 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence

import cyclopts

from flyweight.errors import FlyweightError, ResourceError
from flyweight.version import __version__

app = cyclopts.App(
    name="flyweight",
    version=__version__,
    default_parameter=cyclopts.Parameter(negative_iterable=()),
    help="Make an LLM checkpoint smaller, prove that it still answers as well, and run it on this machine's CPU.",
    result_action="return_value",  # main decides about exit codes; the default would leave through sys.exit
)
VERBS = ("compress", "evaluate", "generate", "chat", "batch", "serve", "inspect", "cache", "demo", "bench", "doctor")
for place, verb in enumerate(VERBS):
    # By name: a verb's module, and all that it imports, is loaded when the verb is used. The first token comes sooner.
    app.command(f"flyweight.cli.{verb}:{verb}", name=verb, sort_key=place)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Bad input gets one line on standard error, never a traceback."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not {*words} & {*VERBS, "--version"}:
        load_verbs()
    try:
        result = app(words, exit_on_error=False, print_error=False)
    except cyclopts.UnusedCliTokensError as error:
        return _fail(_explain_unused(words, error.unused_tokens or []))
    except cyclopts.CycloptsError as error:
        return _fail(f"{error} (see flyweight --help)")
    except FlyweightError as error:
        return _fail(str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        return _fail(
            str(ResourceError(f"{error.strerror or error}: {error.filename or 'the operating system refused'}"))
        )
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0


def load_verbs() -> None:
    """Import every verb, so that the list of them says what each does."""
    for verb in VERBS:
        app[verb]


def _explain_unused(words: Sequence[str], unused: Sequence[str]) -> str:
    """What to do about words that nothing has taken: mostly the second value of an option that takes one at a time."""
    message = f"nothing takes {' '.join(map(repr, unused))}"
    before = words[: words.index(unused[0])] if unused and unused[0] in words else ()
    option = next((word for word in reversed(before) if word.startswith("--") and "=" not in word), None)
    if option:
        return f"{message}; an option takes one value at a time: repeat {option} before each (see flyweight --help)"
    return f"{message} (see flyweight --help)"


def _fail(message: str) -> int:
    print(f"flyweight: {message}", file=sys.stderr)
    return 2
