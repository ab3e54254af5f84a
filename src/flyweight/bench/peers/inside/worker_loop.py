"""The loop of a process that holds one engine and answers requests as JSON lines.

    PYTHON worker_loop.py MODULE OPTIONS

It runs in the environment of the engine, so it uses the standard library alone. MODULE has ``open_engine(options)``,
which returns an object with ``facts`` (a dict of strings: version, settings) and
``run(prompts, max_tokens) -> list[list[float]]``: all prompts (lists of token ids) at once, greedily and without
stopping at an end-of-text token, and for each the seconds (``time.perf_counter``) at which its tokens came.

The first line that it writes is ``{"facts": ...}``, when the engine is ready. Then each line it reads,
``{"prompts": [[...]], "max_tokens": n}``, is answered by ``{"times": [[seconds since the request, ...], ...]}``, or by
``{"error": "..."}``. What the engine itself prints goes to standard error.
"""

import importlib
import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Serve until standard input is closed."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # engines print to standard output, which would mix with the answers
    engine = importlib.import_module(sys.argv[1]).open_engine(json.loads(sys.argv[2]))
    print(json.dumps({"facts": engine.facts}), file=answers)
    for line in sys.stdin:
        print(json.dumps(answer(engine, json.loads(line))), file=answers)


def answer(engine: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Run one request; what goes wrong in the engine is told, since the other side cannot see it."""
    began = time.perf_counter()
    try:
        times = engine.run(request["prompts"], request["max_tokens"])
    except Exception as error:  # noqa: BLE001  whatever a foreign engine raises has to cross the pipe
        return {"error": f"{type(error).__name__}: {error}"}
    wrong = [len(one) for one in times if len(one) != request["max_tokens"]]
    if wrong:
        return {"error": f"{wrong[0]} tokens came where {request['max_tokens']} were asked for"}
    return {"times": [[moment - began for moment in one] for one in times]}


if __name__ == "__main__":
    main()
