"""How one weight is stored: one file per format."""

from flyweight.formats.base import Array, Compute, Format, StoredWeight
from flyweight.formats.int_group import IntGroup
from flyweight.formats.plain import Plain, stored_plain

__all__ = ["Array", "Compute", "Format", "IntGroup", "Plain", "StoredWeight", "stored_plain"]
