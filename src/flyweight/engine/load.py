"""From a checkpoint to a model that runs: reads, packs, chooses sizes, and says in the log's first lines what it chose.

It knows neither how a checkpoint is laid out nor how a backend computes.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from flyweight import kernels
from flyweight.checkpoint.huggingface import Checkpoint, read_json
from flyweight.checkpoint.weights import Weights
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.options import EngineOptions
from flyweight.engine.sampling import SamplingOptions
from flyweight.errors import CheckpointError, ResourceError, UsageError
from flyweight.formats.base import Array
from flyweight.kernels import KV_DTYPES, KVDtype
from flyweight.machine import Machine
from flyweight.models import read_spec
from flyweight.models.spec import ModelSpec
from flyweight.progress import Progress, Silent
from flyweight.runtime.batch_invariant import BatchInvariant
from flyweight.runtime.kv_cache import BLOCK_SIZE, KVCache, cache_block_bytes
from flyweight.runtime.native_ops import NativeOps
from flyweight.runtime.native_program import NativeRuntime
from flyweight.runtime.prepared import ModelCompute, PreparedWeights, base_compute, linear_compute
from flyweight.runtime.runner import OpByOp, Runner
from flyweight.tokenizer import Tokenizer

Backend = Literal["native", "torch"]
DEFAULT_CONTEXTS = 16
COMPUTES = ("auto", "float32", "bfloat16", "int8")

log = logging.getLogger("flyweight")


def load(
    model: str | Path | Checkpoint,
    *,
    compute: ModelCompute = "auto",
    backend: Backend = "native",
    cache_tokens: int | None = None,
    kv_dtype: KVDtype = "float32",
    fused: bool = True,
    engine: EngineOptions | None = None,
    batch_invariant: bool = False,
    progress: Progress | None = None,
) -> LanguageModel:
    """Load a checkpoint for running.

    Args:
        model: a folder, a hub id, or an opened checkpoint.
        compute: what linear layers compute in. ``float32``; ``bfloat16``; ``int8``: integer weights take dynamically
            quantized 8-bit inputs, plain ones bfloat16. ``auto``: float32 for models stored so entirely, else bfloat16,
            and int8 inputs where the checkpoint asks for them.
        backend: ``native``, this package's kernels, or ``torch``, the second opinion (needs the torch extra).
        cache_tokens: tokens that the KV cache holds, all sequences together. Default: 16 contexts, but not more than a
            quarter of the free memory; where that is less than one context, prompts are limited to it.
        kv_dtype: how keys and values are stored.
        fused: run each step of the native backend as one call. Without, it calls one operation after another, with the
            same results, more slowly; the torch backend always does.
        engine: how requests share the engine; what is left open is chosen by model and machine.
        batch_invariant: compute every token to the same bits whatever runs beside it and however prompts are cut into
            chunks, so that an answer does not depend on its neighbours; somewhat slower. In float32 answers are the
            same without it, though not to the bit.

    Raises:
        CheckpointError: when files are missing or damaged.
        UnsupportedModelError: for an unknown architecture, or a compute that a layer's format does not have.
        UsageError: for an unknown option.
        ResourceError: when the cache does not fit into memory.
    """
    if compute not in COMPUTES:
        raise UsageError(f"compute={compute!r} is unknown; choose {', '.join(COMPUTES)}")
    if backend not in ("native", "torch"):
        raise UsageError(f"backend={backend!r} is unknown; choose native or torch")
    if kv_dtype not in KV_DTYPES:
        raise UsageError(f"kv_dtype={kv_dtype!r} is unknown; choose {', '.join(KV_DTYPES)}")
    checkpoint = model if isinstance(model, Checkpoint) else Checkpoint.open(model)
    spec = read_spec(checkpoint.config)
    weights = Weights.open(checkpoint, spec)
    generation_config = _generation_config(checkpoint.folder)
    tokenizer = Tokenizer.open(checkpoint.folder) if (checkpoint.folder / "tokenizer.json").is_file() else None
    num_blocks = _num_cache_blocks(spec, cache_tokens, kv_dtype)
    engine_options = (engine if engine is not None else EngineOptions()).for_model(
        spec, cache_tokens=num_blocks * BLOCK_SIZE, threads=kernels.thread_count()
    )
    description = (
        f"{Machine.detect().describe()}, {kernels.thread_count()} threads",
        _describe(spec, weights, compute, backend),
        f"KV cache {kv_dtype}, {num_blocks * BLOCK_SIZE} tokens",
        engine_options.describe() + (", batch-invariant" if batch_invariant else ""),
    )
    for line in description:
        log.info(line)
    if spec.unread_keys:
        log.warning("config.json has keys that %s does not read: %s", spec.architecture, ", ".join(spec.unread_keys))
    progress = progress if progress is not None else Silent()
    cache: KVCache
    runner: Runner
    if backend == "native":
        cache = _make_cache(spec, num_blocks, kv_dtype)
        progress.start("load", len(spec.blocks) + 1)
        prepared = PreparedWeights.prepare(spec, weights, compute, progress.advance)
        runner = NativeRuntime(spec, prepared, cache) if fused else OpByOp(spec, NativeOps(prepared, cache))
        progress.finish()
    else:
        cache = KVCache((), num_blocks=num_blocks)  # plans only: the torch side keeps keys and values itself
        runner = _torch_runner(spec, weights, compute, num_blocks, kv_dtype)
    return LanguageModel(
        spec=spec,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        runner=BatchInvariant(runner) if batch_invariant else runner,
        cache=cache,
        default_options=SamplingOptions.from_generation_config(generation_config),
        stop_ids=_stop_ids(spec, generation_config, tokenizer),
        description=description,
        engine_options=engine_options,
    )


def _torch_runner(
    spec: ModelSpec, weights: Weights, compute: ModelCompute, num_blocks: int, kv_dtype: KVDtype
) -> Runner:
    if compute == "int8":
        raise UsageError("compute='int8' is not available with backend='torch'; choose float32 or bfloat16")
    if kv_dtype not in ("float32", "bfloat16"):
        raise UsageError(f"kv_dtype={kv_dtype!r} is not available with backend='torch'; choose float32 or bfloat16")
    from flyweight.runtime.torch_ops import TorchCache, TorchOps  # torch is an extra and takes seconds to import

    cache = TorchCache(spec, num_blocks=num_blocks, dtype=kv_dtype)
    ops = TorchOps(spec, weights, dtype=base_compute(spec, weights, compute), cache=cache)
    return OpByOp(spec, ops, _from_torch)


def _from_torch(logits: Any) -> Array:
    array: Array = logits.detach().float().cpu().numpy()
    return array


def _num_cache_blocks(spec: ModelSpec, cache_tokens: int | None, kv_dtype: KVDtype) -> int:
    if cache_tokens is not None:
        if cache_tokens < BLOCK_SIZE:
            raise UsageError(f"cache_tokens={cache_tokens} is not allowed; choose {BLOCK_SIZE} or more")
        return -(-cache_tokens // BLOCK_SIZE)
    affordable = Machine.detect().free_memory_bytes // 4 // cache_block_bytes(spec.blocks, kv_dtype)
    return max(1, min(-(-DEFAULT_CONTEXTS * spec.max_positions // BLOCK_SIZE), affordable))


def _make_cache(spec: ModelSpec, num_blocks: int, kv_dtype: KVDtype) -> KVCache:
    try:
        return KVCache(spec.blocks, num_blocks=num_blocks, dtype=kv_dtype)
    except MemoryError:
        wanted = num_blocks * cache_block_bytes(spec.blocks, kv_dtype)
        raise ResourceError(
            f"a KV cache of {num_blocks * BLOCK_SIZE} tokens in {kv_dtype} takes {wanted / 1e9:.1f} GB, more than "
            "there is; choose fewer cache_tokens, or kv_dtype='bfloat16'"
        ) from None


def _describe(spec: ModelSpec, weights: Weights, compute: ModelCompute, backend: Backend) -> str:
    """Which formats and compute types a model runs in, counted over its linear layers."""
    base = base_compute(spec, weights, compute)
    counts = Counter(
        f"{weights.format(linear).name} in {linear_compute(linear, weights, compute, base)}" for linear in spec.linears
    )
    layers = ", ".join(f"{count} {text}" for text, count in counts.most_common())
    head = weights.head_format(spec).name
    return f"{spec.architecture}, {len(spec.blocks)} blocks on {backend} kernels; linear layers: {layers}; head {head}"


def _generation_config(folder: Path) -> Mapping[str, Any]:
    """generation_config.json; empty where there is none."""
    path = folder / "generation_config.json"
    return read_json(path, "repair it or remove it") if path.is_file() else {}


def _stop_ids(spec: ModelSpec, generation_config: Mapping[str, Any], tokenizer: Tokenizer | None) -> frozenset[int]:
    """Ids that end an answer, from all files that name any; BOS is one, since it begins the next text."""
    given = generation_config.get("eos_token_id")
    named = given if isinstance(given, list) else [given]
    if not all(one is None or (isinstance(one, int) and not isinstance(one, bool)) for one in named):
        raise CheckpointError(f"generation_config.json: eos_token_id is {given!r}; it must be an id or a list of ids")
    found = [*spec.eos_token_ids, *named, spec.bos_token_id]
    if tokenizer is not None:
        found += [tokenizer.eos_token_id, tokenizer.bos_token_id]
    return frozenset(one for one in found if one is not None)
