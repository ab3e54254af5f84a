"""What can be asked of a compression job besides the model, the output and the recipe."""

from dataclasses import dataclass
from pathlib import Path

from flyweight.errors import UsageError
from flyweight.reporting import parse_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressOptions:
    """Options of :func:`flyweight.compress` and of ``flyweight compress``.

    Raises:
        UsageError: when a value is out of range.
    """

    calibration: Path | str | None = None
    """Text for methods that calibrate: a text file (documents separated by <|endoftext|>), .jsonl with "text" or
    "messages", or token ids as .npy (sequences, length)."""

    sequences: int = 128
    """How many calibration sequences to run."""

    sequence_length: int | None = None
    """Tokens in each; by default 512, or the model's context where that is shorter."""

    seed: int = 0
    """Chooses which parts of the calibration text are taken."""

    group_size: int | None = None
    """Inputs that share a scale, instead of the recipe's, in every rule that stores groups."""

    memory: str | None = None
    """Ceiling on resident memory, such as 2GB; a job that cannot keep it is refused before it starts."""

    revision: str | None = None
    """Branch, tag or commit of a model on the hub."""

    restart: bool = False
    """Throw away what an interrupted job left for this output, and begin again."""

    def __post_init__(self) -> None:
        if self.sequences < 1:
            raise UsageError(f"sequences={self.sequences} must be at least 1")
        if self.sequence_length is not None and self.sequence_length < 2:
            raise UsageError(f"sequence_length={self.sequence_length} must be at least 2")
        if self.group_size is not None and self.group_size < 1:
            raise UsageError(f"group_size={self.group_size} must be at least 1")
        if self.memory is not None:
            parse_bytes(self.memory)

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory is None else parse_bytes(self.memory)
