"""The command line: one file per verb, each nothing but arguments in and a report out.

Options are the fields of the dataclass that the public function takes; there is no second list of them.
Exit codes: 0 done, 1 a gate or check said no, 2 the request cannot be carried out as given, 3 some lines
of a batch failed, 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence

import cyclopts

from flyweight.cli.batch import batch
from flyweight.cli.bench import bench
from flyweight.cli.cache import cache
from flyweight.cli.chat import chat
from flyweight.cli.compress import compress
from flyweight.cli.demo import demo
from flyweight.cli.evaluate import evaluate
from flyweight.cli.generate import generate
from flyweight.cli.inspect import inspect
from flyweight.errors import FlyweightError, ResourceError
from flyweight.version import __version__

app = cyclopts.App(
    name="flyweight",
    version=__version__,
    default_parameter=cyclopts.Parameter(negative_iterable=()),
    help="Make an LLM checkpoint smaller, prove that it still answers as well, and run it on this machine's CPU.",
    result_action="return_value",  # main decides about exit codes; the default would leave through sys.exit
)
COMMANDS = (compress, evaluate, generate, chat, batch, inspect, cache, demo)
VERBS = (*(command.__name__ for command in COMMANDS), "bench")
for command in COMMANDS:
    app.command(command, sort_key=VERBS.index(command.__name__))
bench.sort_key = VERBS.index("bench")
app.command(bench)  # has commands of its own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Bad input gets one line on standard error, never a traceback."""
    try:
        result = app(sys.argv[1:] if arguments is None else list(arguments), exit_on_error=False, print_error=False)
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


def _fail(message: str) -> int:
    print(f"flyweight: {message}", file=sys.stderr)
    return 2
