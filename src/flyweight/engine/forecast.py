"""What loading a checkpoint would take, told from its headers: no weight is read and nothing is allocated."""

from dataclasses import dataclass
from pathlib import Path

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.weights import Weights
from flyweight.engine.load import KVChoice, chosen_kv_dtype
from flyweight.engine.memory import RESERVE_BYTES, MemoryNeeds, plan_memory
from flyweight.errors import ResourceError
from flyweight.kernels import KVDtype
from flyweight.models import read_spec
from flyweight.reporting.units import format_bytes
from flyweight.runtime.kv_cache import BLOCK_SIZE, cache_block_bytes
from flyweight.runtime.prepared import HeadChoice, ModelCompute, Packing, base_compute


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryForecast:
    """Bytes that a loaded model takes: packed weights, embedding and norms; the KV cache of ``cache_tokens`` tokens;
    what a step works in."""

    weight_bytes: int
    cache_bytes: int
    step_bytes: int
    cache_tokens: int
    kv_dtype: KVDtype

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.cache_bytes + self.step_bytes

    def describe(self) -> str:
        return (
            f"{format_bytes(self.total_bytes)}: weights {format_bytes(self.weight_bytes)}, a {self.kv_dtype} cache of "
            f"{self.cache_tokens} tokens {format_bytes(self.cache_bytes)}, a step {format_bytes(self.step_bytes)}"
        )


def forecast_memory(
    model: str | Path | Checkpoint,
    *,
    room_bytes: int,
    compute: ModelCompute = "auto",
    kv_dtype: KVChoice = "auto",
    cache_tokens: int | None = None,
    head: HeadChoice = "as-stored",
) -> MemoryForecast:
    """What ``load`` would take with the same options on the native backend.

    Args:
        room_bytes: what the model may take. Where ``cache_tokens`` is None, the cache gets up to 16 contexts, but no
            more than a quarter of what the weights leave of the room.

    Raises:
        CheckpointError, UnsupportedModelError: as ``load``.
        ResourceError: when the weights and the cache do not fit into the room, with the numbers.
    """
    checkpoint = model if isinstance(model, Checkpoint) else Checkpoint.open(model)
    spec = read_spec(checkpoint.config)
    stored = Weights.open(checkpoint, spec)
    base = base_compute(spec, stored, compute)
    packing = Packing(spec=spec, weights=stored, compute=compute, head=head)
    embedding = spec.vocab_size * spec.hidden_size * (4 if base == "float32" else 2)
    weight_bytes = packing.expected_bytes + embedding
    kv_type = chosen_kv_dtype(kv_dtype, base)
    block_bytes = cache_block_bytes(spec.blocks, kv_type)
    needs = MemoryNeeds(
        weight_bytes=weight_bytes, block_bytes=block_bytes, block_tokens=BLOCK_SIZE, max_tokens=spec.max_positions
    )

    def forecast(num_blocks: int) -> MemoryForecast:
        return MemoryForecast(
            weight_bytes=weight_bytes,
            cache_bytes=num_blocks * block_bytes,
            step_bytes=RESERVE_BYTES,
            cache_tokens=num_blocks * BLOCK_SIZE,
            kv_dtype=kv_type,
        )

    room = max(0, room_bytes - RESERVE_BYTES)
    smallest = forecast(1 if cache_tokens is None else -(-cache_tokens // BLOCK_SIZE))
    if smallest.weight_bytes + smallest.cache_bytes > room:
        raise ResourceError(
            f"the model would take {smallest.describe()}; {format_bytes(max(0, room_bytes))} are left. Unload another "
            "model, allow more memory, or choose fewer cache_tokens"
        )
    plan = plan_memory(needs, free_bytes=room, used_bytes=0, limit=None, cache_tokens=cache_tokens)
    return forecast(plan.num_blocks)
