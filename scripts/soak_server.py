"""``flyweight serve`` as a user starts it, beside a thread that answers questions of the soak test on standard input.

    python scripts/soak_server.py serve demo --port 0

``count`` asks for the memory blocks that the interpreter has handed out, ``check`` for contradictions in the engine's
accounts and for blocks of the cache that are held. Each answer is one line of JSON on standard output. The server knows
nothing of it.
"""

import gc
import json
import sys
import threading

from flyweight.cli import main
from flyweight.serving.service import ModelService


def check() -> dict[str, object]:
    """What the engines of all services say of themselves."""
    faults: list[str] = []
    held = 0
    for service in [one for one in gc.get_objects() if isinstance(one, ModelService)]:
        try:
            service._worker.run(lambda engine: engine.check_integrity()).result(20)
        except Exception as error:  # noqa: BLE001 - whatever it says is the finding
            faults.append(f"check_integrity: {error}")
        held += service._worker.run(lambda engine: engine.metrics().held_blocks).result(20)
    return {"faults": faults, "held": held}


def listen() -> None:
    for line in sys.stdin:
        question = line.strip()
        answer = check() if question == "check" else {"blocks": sys.getallocatedblocks()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    threading.Thread(target=listen, name="questions", daemon=True).start()
    sys.exit(main())
