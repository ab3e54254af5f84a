"""The table of architectures: ``model_type`` of a config.json to the function that reads such a config.

It does not import the architectures; each family's file registers itself.
"""

from collections.abc import Callable

from flyweight.errors import UnsupportedModelError
from flyweight.models.config import ConfigReader
from flyweight.models.spec import ModelSpec
from flyweight.registry import Registry

Architecture = Callable[[ConfigReader], ModelSpec]

ARCHITECTURES: Registry[Architecture] = Registry("model_type", UnsupportedModelError)
