"""How a weight is made smaller: one file per method, each of which registers itself."""

from flyweight.compression.methods import gptq, rtn
from flyweight.compression.methods.base import METHODS, Method, MethodOptions, Quantized

__all__ = ["METHODS", "Method", "MethodOptions", "Quantized", "gptq", "rtn"]
