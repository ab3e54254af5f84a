"""The version of this package, as written into reports, journals and checkpoints."""

__version__ = "0.1.0"
