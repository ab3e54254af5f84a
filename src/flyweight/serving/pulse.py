"""Whether an engine lives: the one thing that another thread may read of it at any time."""

import time
from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class Pulse:
    """Written by the engine's thread, read by whoever asks for its health.

    Attributes:
        steps: made so far.
        failed_steps: steps that raised.
        progressed: when work was last done or found to be none, by ``time.monotonic``.
        has_work: whether requests are before the engine.
        trouble: what goes wrong at present, until a step succeeds.
        fault: why it can no longer be trusted, whatever follows.
    """

    steps: int = 0
    failed_steps: int = 0
    progressed: float = field(default_factory=time.monotonic)
    has_work: bool = False
    trouble: str | None = None
    fault: str | None = None

    def beat(self, *, has_work: bool) -> None:
        """Progress was made."""
        self.has_work = has_work
        self.progressed = time.monotonic()

    @property
    def silent_seconds(self) -> float:
        """How long work has waited without progress; 0 while there is none."""
        return max(0.0, time.monotonic() - self.progressed) if self.has_work else 0.0

    def illness(self, stall_seconds: float) -> str | None:
        """What is wrong, or None for an engine that makes progress or has nothing to do."""
        if self.fault is not None or self.trouble is not None:
            return self.fault or self.trouble
        silent = self.silent_seconds
        if silent > stall_seconds:
            return f"requests wait and no step was made for {silent:.0f} s"
        return None
