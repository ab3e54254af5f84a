import platform
import subprocess
import sys

import pytest

COUNT_HEAPS = """
import ctypes, sys, tempfile, threading
from flyweight import kernels
library = ctypes.CDLL(None)
library.fopen.restype = ctypes.c_void_p
if sys.argv[1] == "shared" and not kernels.share_one_heap():
    raise SystemExit("the C library refused")
library.malloc.restype = ctypes.c_void_p
ready = threading.Barrier(5)

def take():
    library.malloc(5000)
    ready.wait(20)

threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads:
    thread.start()
ready.wait(20)
with tempfile.NamedTemporaryFile("r") as file:
    stream = ctypes.c_void_p(library.fopen(file.name.encode(), b"w"))
    library.malloc_info(0, stream)
    library.fclose(stream)
    print(file.read().count("<heap nr="))
"""


def heaps(way):
    result = subprocess.run(
        [sys.executable, "-c", COUNT_HEAPS, way], capture_output=True, text=True, check=True, timeout=60
    )
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only this C library gives each thread a heap of its own")
def test_threads_share_one_heap_when_asked():
    assert heaps("shared") == 1
    assert heaps("apart") > 1
