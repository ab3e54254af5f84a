"""What a check tells: how much it tried, and what was not as it must be."""

from dataclasses import dataclass, field

LONGEST_SHOWN = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is not as it must be.

    Attributes:
        tried: what was sent or looked at.
        found: what came of it.
        wanted: what must come of it.
    """

    tried: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.tried}: {self.found}; wanted: {self.wanted}"


@dataclass(kw_only=True, slots=True)
class Trials:
    """Counts what a check tries and keeps what it finds."""

    count: int = 0
    findings: list[Finding] = field(default_factory=list)

    def expect(self, holds: bool, *, tried: str, found: str, wanted: str) -> None:
        """Count one trial; where it does not hold, keep it."""
        self.count += 1
        if not holds:
            self.findings.append(Finding(tried=shown(tried), found=shown(found), wanted=wanted))


def shown(text: str) -> str:
    """Text on one printable line, cut."""
    line = "".join(one if one.isprintable() else " " for one in text[: LONGEST_SHOWN + 1])
    return line if len(line) <= LONGEST_SHOWN else line[: LONGEST_SHOWN - 3] + "..."
