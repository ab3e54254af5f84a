"""Flyweight makes an LLM checkpoint smaller, proves that it still answers as well, and runs it on a CPU."""

from flyweight.errors import FlyweightError

__version__ = "0.1.0"

__all__ = ["FlyweightError", "__version__"]
