"""How fast: kernels against the limits of this machine, and this engine against its peers.

It measures and compares; it decides nothing and serves nobody. No peer is a dependency of the package.
"""

from flyweight.bench.compare import compare
from flyweight.bench.compare_options import CompareOptions
from flyweight.bench.compare_report import CompareReport
from flyweight.bench.kernel_options import KernelOptions
from flyweight.bench.kernel_report import KernelReport
from flyweight.bench.kernels import measure_kernels

__all__ = ["CompareOptions", "CompareReport", "KernelOptions", "KernelReport", "compare", "measure_kernels"]
