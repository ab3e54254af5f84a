"""A load generator for any OpenAI-compatible server: what its users would see, and whether the client could see it.

Open loops send when a request is due, not when the server is ready for it, and count time from then on. Tokens are
those that the server's ``usage`` tells, never events of a stream. It speaks HTTP and knows no engine.
"""

from flyweight.bench.load.compare import compare_loads
from flyweight.bench.load.measure import measure_load
from flyweight.bench.load.options import LoadOptions
from flyweight.bench.load.result import LoadReport, read_report

__all__ = ["LoadOptions", "LoadReport", "compare_loads", "measure_load", "read_report"]
