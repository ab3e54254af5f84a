"""``flyweight serve`` as a user starts it, beside a thread that answers questions of the soak test on standard input.

    python scripts/soak_server.py serve demo --port 0

``count`` asks for the memory blocks that the interpreter has handed out and the bytes that the C library has, ``check``
for contradictions in the engine's accounts and for blocks of the cache that are held. Each answer is one line of JSON
on standard output. The server knows nothing of it.
"""

import ctypes
import gc
import json
import sys
import threading

from flyweight.cli import main
from flyweight.serving.service import ModelService


class Mallinfo2(ctypes.Structure):
    """What ``mallinfo2`` of the GNU C library returns: ten sizes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def bytes_in_use() -> int:
    """Bytes that the C library has handed out and not got back; -1 where it does not tell."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return -1
    library.mallinfo2.restype = Mallinfo2
    told = library.mallinfo2()
    return int(told.uordblks + told.hblkhd)


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
        answer = check() if question == "check" else {"blocks": sys.getallocatedblocks(), "bytes": bytes_in_use()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    threading.Thread(target=listen, name="questions", daemon=True).start()
    sys.exit(main())
