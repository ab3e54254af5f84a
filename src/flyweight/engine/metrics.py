"""What an engine has done so far, in numbers. It counts nothing itself."""

from dataclasses import dataclass

from flyweight.engine.block_pool import PoolStatistics


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineMetrics:
    """A snapshot; counts are since the engine was made.

    Attributes:
        running, waiting: requests now.
        held_blocks, findable_blocks: cache blocks that requests hold, and those whose content another could find.
        prefix: tokens looked up and found in the prefix cache, and contents evicted.
        prompt_tokens, answer_tokens: of requests that have begun; answers as far as they are.
        computed_tokens: tokens that steps computed, drafts and repetitions included.
        finished: requests ended, by reason; aborted ones under ``abort``.
        mask_seconds, mask_wait_seconds: what the masks of constraints have taken beside the forward pass, and what
            steps have waited for them after it.
        steps, step_seconds: all steps and their time; ``last_step_seconds`` and ``last_step_tokens`` of the last one.
    """

    running: int
    waiting: int
    num_blocks: int
    held_blocks: int
    findable_blocks: int
    prefix: PoolStatistics
    preemptions: int
    prompt_tokens: int
    answer_tokens: int
    computed_tokens: int
    draft_tokens: int
    accepted_tokens: int
    finished: dict[str, int]
    steps: int
    step_seconds: float
    last_step_seconds: float
    last_step_tokens: int
    mask_seconds: float = 0.0
    mask_wait_seconds: float = 0.0

    @property
    def cache_usage(self) -> float:
        """Share of the cache's blocks that requests hold: 0 to 1."""
        return self.held_blocks / self.num_blocks
