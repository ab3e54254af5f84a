"""Sizes, times and intervals as people read and write them."""

import re

from flyweight.errors import UsageError

_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
SMALLEST_PLAIN = 1e-3  # smaller values are written with an exponent
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?", re.IGNORECASE)


def format_bytes(num_bytes: float) -> str:
    """Decimal units, three significant digits.

    >>> format_bytes(999), format_bytes(1_234_567)
    ('999 B', '1.23 MB')
    """
    value, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if abs(value) < 999.5:
            break
        value, unit = value / 1000, larger
    if unit == "B":
        return f"{value:.0f} B"
    return f"{value:.{0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2}f} {unit}"


def parse_bytes(text: str) -> int:
    """The number of bytes that a size such as ``2GB``, ``512MiB`` or ``1000`` names.

    Raises:
        UsageError: when ``text`` is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"size {text!r} is not understood; write a number with a unit, such as 800MB, 2GB or 2GiB")
    return int(float(match[1]) * _FACTORS[(match[2] or "").upper()])


def format_seconds(seconds: float) -> str:
    """
    >>> format_seconds(0.042), format_seconds(7.25), format_seconds(754), format_seconds(7384)
    ('42 ms', '7.2 s', '12 min 34 s', '2 h 3 min')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def format_interval(value: float, low: float | None, high: float | None, digits: int = 3) -> str:
    """A value with its interval; the digits are significant digits of the value, and the ends share its places.

    >>> format_interval(12.3456, 12.1, 12.6, 4)
    '12.35 [12.10, 12.60]'
    >>> format_interval(0.5, None, None)
    '0.500'
    >>> format_interval(0.0000475, 0.0000399, 0.0000569)
    '4.75e-05 [3.99e-05, 5.69e-05]'
    """
    form = f".{digits - 1}e" if 0 < abs(value) < SMALLEST_PLAIN else f".{_places(value, digits)}f"
    if low is None or high is None:
        return f"{value:{form}}"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _places(value: float, digits: int) -> int:
    """Decimal places that show ``digits`` significant digits of ``value``; at most 8."""
    if value == 0:
        return digits
    exponent = int(f"{abs(value):.{digits - 1}e}".split("e")[1])
    return min(8, max(0, digits - 1 - exponent))
