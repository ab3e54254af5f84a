"""How an engine shares its machine: sequences at once, tokens a step, prefix caching; and what is chosen by default.

It knows sizes of models and machines, and no clocks: nothing is measured here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flyweight.engine.scheduler import SchedulerPolicy, StepBudget
from flyweight.errors import UsageError
from flyweight.models.spec import ModelSpec

# A step of prompts should take about a second, so that those who decode beside it do not wait longer. What a thread was
# seen to do of int4 layers in a second, by instruction set: docs/results.
OPERATIONS_PER_THREAD: Mapping[str, float] = {"generic": 30e9, "avx2": 190e9}
OPERATIONS_PER_THREAD_ELSEWHERE = 300e9
FEWEST_STEP_TOKENS, MOST_STEP_TOKENS, STEP_TOKEN_UNIT = 128, 2048, 64
MOST_SEQUENCES = 32
TOKENS_PER_SEQUENCE = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """How requests share the engine.

    Raises:
        UsageError: when a value is outside its range.
    """

    max_sequences: int | None = None
    """Requests that run at once; by default up to 32, fewer where the cache is small."""

    step_tokens: int | None = None
    """Tokens that a step computes at most; by default what this machine computes in about a second, 128 to 2048."""

    prefix_caching: bool = True
    """Keep the keys and values of finished requests, for later ones that begin with the same tokens."""

    policy: SchedulerPolicy = field(default_factory=SchedulerPolicy)
    """How requests are put in order, begun and preempted."""

    def __post_init__(self) -> None:
        for name in ("max_sequences", "step_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value} is not allowed; choose 1 or more")

    def for_model(self, spec: ModelSpec, *, cache_tokens: int, threads: int, isa: str) -> "EngineOptions":
        """These options with every choice made, and what the model does not allow taken back."""
        step_tokens = self.step_tokens if self.step_tokens is not None else default_step_tokens(spec, threads, isa)
        max_sequences = self.max_sequences
        if max_sequences is None:
            max_sequences = max(1, min(MOST_SEQUENCES, cache_tokens // TOKENS_PER_SEQUENCE))
        policy = self.policy
        if policy.long_prefill_tokens == 0:
            policy = replace(policy, long_prefill_tokens=max(1, step_tokens // 2))
        if not has_moving_rope(spec):
            return replace(self, max_sequences=max_sequences, step_tokens=step_tokens, policy=policy)
        # Keys depend on the length of their sequence: they must come from one prompt computed at once, and stay.
        policy = replace(policy, whole_prompts=True, max_preemptions=0)
        return replace(self, max_sequences=max_sequences, step_tokens=step_tokens, policy=policy, prefix_caching=False)

    @property
    def budget(self) -> StepBudget:
        """What one step may do, once every choice is made."""
        assert self.step_tokens is not None
        assert self.max_sequences is not None
        return StepBudget(tokens=self.step_tokens, sequences=self.max_sequences)

    def describe(self) -> str:
        """One line for the head of a log, once every choice is made."""
        return (
            f"engine: up to {self.max_sequences} sequences and {self.step_tokens} tokens a step, "
            f"{self.policy.batching} batching, prefix caching {'on' if self.prefix_caching else 'off'}"
        )


def default_step_tokens(spec: ModelSpec, threads: int, isa: str) -> int:
    """Tokens whose linear layers take about a second on so many threads of an instruction set, in units of 64."""
    weights = sum(linear.in_features * linear.out_features for linear in spec.linears)
    operations = threads * OPERATIONS_PER_THREAD.get(isa, OPERATIONS_PER_THREAD_ELSEWHERE)
    tokens = operations / (2 * max(weights, 1))
    units = round(tokens / STEP_TOKEN_UNIT) * STEP_TOKEN_UNIT
    return min(max(units, FEWEST_STEP_TOKENS), MOST_STEP_TOKENS)


def has_moving_rope(spec: ModelSpec) -> bool:
    """Whether rotary frequencies follow the length of the sequence."""
    return any(
        block.attention.rope is not None and block.attention.rope.kind in ("dynamic", "longrope")
        for block in spec.blocks
    )
