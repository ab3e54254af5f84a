"""Makes a checkpoint smaller: recipes, methods, calibration, the journalled job."""

from flyweight.compression.compress import compress
from flyweight.compression.options import CompressOptions
from flyweight.compression.plan import CompressionPlan, plan_compression
from flyweight.compression.recipe import Recipe, preset_names, read_recipe
from flyweight.compression.report import CompressionReport

__all__ = [
    "CompressOptions",
    "CompressionPlan",
    "CompressionReport",
    "Recipe",
    "compress",
    "plan_compression",
    "preset_names",
    "read_recipe",
]
