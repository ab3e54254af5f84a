"""How fast: kernels against the limits of this machine, and this engine against its peers.

It measures and compares; it decides nothing and serves nobody. No peer is a dependency of the package.
"""

from flyweight.bench.compare import compare
from flyweight.bench.compare_options import CompareOptions
from flyweight.bench.compare_report import CompareReport

__all__ = ["CompareOptions", "CompareReport", "compare"]
