"""From a checkpoint to a model that runs: reads, packs, chooses sizes, and says in the log's first lines what it chose.

It knows neither how a checkpoint is laid out nor how a backend computes.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from flyweight import kernels
from flyweight.checkpoint.huggingface import Checkpoint, read_json
from flyweight.checkpoint.weights import Weights
from flyweight.engine.kv_self_test import DEFAULT_MOST_KL, TESTED, run_kv_self_test, self_test_tokens
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.memory import MemoryNeeds, MemoryPlan, plan_memory
from flyweight.engine.options import EngineOptions, has_moving_rope
from flyweight.engine.preparing import WeightOptions, open_or_build
from flyweight.engine.proposer import Proposer
from flyweight.engine.sampling import SamplingOptions
from flyweight.engine.speculation.choice import SpeculationChoice
from flyweight.engine.speculation.draft_model import DraftModel, vocabulary_mismatch
from flyweight.engine.speculation.prompt_lookup import PromptLookup
from flyweight.engine.stop_ids import read_stop_ids
from flyweight.engine.tokenizer_loading import TokenizerChoice, TokenizerLoading
from flyweight.errors import ResourceError, UsageError
from flyweight.formats.base import Array
from flyweight.kernels import KV_DTYPES, KVDtype
from flyweight.machine import Machine, resident_bytes
from flyweight.models import read_spec
from flyweight.models.spec import ModelSpec
from flyweight.progress import Progress, Silent
from flyweight.reporting.units import format_bytes
from flyweight.runtime.batch_invariant import BatchInvariant
from flyweight.runtime.kv_cache import BLOCK_SIZE, KVCache, cache_block_bytes
from flyweight.runtime.native_ops import NativeOps
from flyweight.runtime.native_program import NativeRuntime
from flyweight.runtime.pager import describe_streaming
from flyweight.runtime.prepared import ModelCompute, Packing, PreparedWeights, base_compute, linear_compute
from flyweight.runtime.runner import OpByOp, Runner
from flyweight.tokenizer import Tokenizer

Backend = Literal["native", "torch"]
KVChoice = Literal["auto", "float32", "float16", "bfloat16", "int8", "int4"]
COMPUTES = ("auto", "float32", "bfloat16", "int8")

log = logging.getLogger("flyweight")


def load(
    model: str | Path | Checkpoint,
    *,
    compute: ModelCompute = "auto",
    backend: Backend = "native",
    cache_tokens: int | None = None,
    kv_dtype: KVChoice = "auto",
    kv_most_kl: float = DEFAULT_MOST_KL,
    weights: WeightOptions | None = None,
    fused: bool = True,
    engine: EngineOptions | None = None,
    batch_invariant: bool = False,
    speculate: str = "off",
    tokenizer: TokenizerChoice = "eager",
    progress: Progress | None = None,
) -> LanguageModel:
    """Load a checkpoint for running.

    Args:
        model: a folder, a hub id, or an opened checkpoint.
        compute: what linear layers compute in. ``float32``; ``bfloat16``; ``int8``: integer weights take dynamically
            quantized 8-bit inputs, plain ones bfloat16. ``auto``: float32 for models stored so entirely, else bfloat16,
            and int8 inputs where the checkpoint asks for them.
        backend: ``native``, this package's kernels, or ``torch``, the second opinion (needs the torch extra).
        cache_tokens: tokens that the KV cache holds, all sequences together. Default: 16 contexts, but not more than
            memory allows (see :func:`flyweight.engine.memory.plan_memory`); where that is less than one context,
            prompts are limited to it.
        kv_dtype: how keys and values are stored: ``float32``, ``float16``, ``bfloat16``, ``int8`` (1.1 bytes a number),
            ``int4`` (0.6). ``auto``: bfloat16, or float32 when the linear layers compute in it. With float16, int8 and
            int4 the model first reads a text of 256 tokens, and how far its predictions move is logged.
        kv_most_kl: mean KL divergence, in nats, above which such a cache is refused.
        weights: how the native backend keeps the weights: a cached image, a limit on memory, a rounded head.
        fused: run each step of the native backend as one call. Without, it calls one operation after another, with the
            same results, more slowly. The torch backend always does, and so do models whose weights do not all stay in
            memory.
        engine: how requests share the engine; what is left open is chosen by model and machine.
        batch_invariant: compute every token to the same bits whatever runs beside it and however prompts are cut into
            chunks, so that an answer does not depend on its neighbours; somewhat slower. In float32 answers are the
            same without it, though not to the bit.
        speculate: guess tokens ahead and verify them, which changes the speed and not the answers: ``prompt-lookup``
            from the request's own text, or ``draft:PATH`` by a smaller model of the same vocabulary; ``off`` not.
        tokenizer: ``eager``: read beside the weights. ``lazy``: read when text is first wanted, for who gives token ids
            to ``engine``, ``forward`` or ``score`` and never needs it; what is wrong with it shows then. A limit on
            memory and the trial of a narrow KV cache still read it at once. Or the checkpoint's own, read before.

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
    if kv_dtype not in ("auto", *KV_DTYPES):
        raise UsageError(f"kv_dtype={kv_dtype!r} is unknown; choose auto, {', '.join(KV_DTYPES)}")
    speculation = SpeculationChoice.parse(speculate)
    checkpoint = model if isinstance(model, Checkpoint) else Checkpoint.open(model)
    spec = read_spec(checkpoint.config)
    if speculation.kind != "off" and has_moving_rope(spec):
        raise UsageError(
            f"speculate={speculate!r} is not possible for this model: its rotary frequencies follow the length of the "
            "sequence, so a wrong guess cannot be taken back; choose off"
        )
    tokenizer_loading = TokenizerLoading(checkpoint.folder, tokenizer)
    stored = Weights.open(checkpoint, spec)
    options = weights if weights is not None else WeightOptions()
    kv_type = chosen_kv_dtype(kv_dtype, base_compute(spec, stored, compute))
    if backend == "torch" and options != WeightOptions():
        raise UsageError("options of the weights are for backend='native'; leave them out with backend='torch'")
    generation_config = _generation_config(checkpoint.folder)
    machine = f"{Machine.detect().describe()}, {kernels.thread_count()} threads"
    log.info(machine)
    if spec.unread_keys:
        log.warning("config.json has keys that %s does not read: %s", spec.architecture, ", ".join(spec.unread_keys))
    cache: KVCache
    runner: Runner
    if backend == "native":
        packing = Packing(spec=spec, weights=stored, compute=compute, head=options.head)
        what = _describe(spec, stored, compute, backend, packing.head_format.name)
        log.info(what)
        loaded = _load_native(packing, what, options, cache_tokens, kv_type, progress or Silent(), tokenizer_loading)
        cache, lines = loaded.cache, loaded.lines
        if kv_type in TESTED:
            text = self_test_tokens(spec, tokenizer_loading.result())
            tried = run_kv_self_test(spec, loaded.weights, kv_type, text, kv_most_kl)
            log.info(tried.describe())
            lines += (tried.describe(),)
        # A step in one call cannot wait between its layers for weights that are not in memory.
        one_call = fused and loaded.weights.pager is None
        runner = (
            NativeRuntime(spec, loaded.weights, cache) if one_call else OpByOp(spec, NativeOps(loaded.weights, cache))
        )
    else:
        what = _describe(spec, stored, compute, backend, stored.head_format(spec).name)
        log.info(what)
        plan = _plan(spec, 0, options, cache_tokens, kv_type)
        lines = (f"KV cache {kv_type}, {plan.num_blocks * BLOCK_SIZE} tokens",)
        log.info(lines[0])
        cache = KVCache((), num_blocks=plan.num_blocks)  # plans only: the torch side keeps keys and values itself
        runner = _torch_runner(spec, stored, compute, plan.num_blocks, kv_type)
    engine_options = (engine if engine is not None else EngineOptions()).for_model(
        spec, cache_tokens=cache.num_blocks * BLOCK_SIZE, threads=kernels.thread_count(), isa=kernels.isa()
    )
    shared = engine_options.describe() + (", batch-invariant" if batch_invariant else "")
    if speculation.kind != "off":
        shared += f", speculation by {speculate}"
    log.info(shared)
    description = (machine, what, *lines, shared)
    language_model = LanguageModel(
        spec=spec,
        checkpoint=checkpoint,
        tokenizer=tokenizer_loading,
        runner=BatchInvariant(runner) if batch_invariant else runner,
        cache=cache,
        default_options=SamplingOptions.from_generation_config(generation_config),
        read_stop_ids=partial(read_stop_ids, spec, generation_config),
        description=description,
        engine_options=engine_options,
        make_proposer=_proposer_maker(speculation, checkpoint, spec, compute, kv_dtype, progress),
    )
    if tokenizer != "lazy":
        language_model.read_text_files()
    return language_model


def _proposer_maker(
    speculation: SpeculationChoice,
    checkpoint: Checkpoint,
    spec: ModelSpec,
    compute: ModelCompute,
    kv_dtype: KVChoice,
    progress: Progress | None,
) -> Callable[[], Proposer] | None:
    """What makes a fresh proposer for each engine; a draft model is loaded here, once."""
    if speculation.kind == "off":
        return None
    if speculation.kind == "prompt-lookup":
        return PromptLookup
    assert speculation.draft_model is not None
    draft_checkpoint = Checkpoint.open(speculation.draft_model)
    _check_same_vocabulary(checkpoint, draft_checkpoint)
    draft = load(draft_checkpoint, compute=compute, kv_dtype=kv_dtype, tokenizer="lazy", progress=progress)
    # Refuse now what the first request would meet.
    if draft.spec.vocab_size != spec.vocab_size:
        raise UsageError(vocabulary_mismatch(spec.vocab_size, draft.spec.vocab_size))
    return lambda: DraftModel(
        draft.forward,
        draft.open_planner(),
        vocab_size=spec.vocab_size,
        draft_vocab_size=draft.spec.vocab_size,
        context_length=draft.context_length,
    )


def _check_same_vocabulary(checkpoint: Checkpoint, draft: Checkpoint) -> None:
    """Refuse a draft model whose tokenizer gives other ids, where both have one."""
    folders = (checkpoint.folder, draft.folder)
    if not all((folder / "tokenizer.json").is_file() for folder in folders):
        return
    ours, theirs = (Tokenizer.open(folder) for folder in folders)
    size = max(ours.vocab_size, theirs.vocab_size)
    different = next((token for token in range(size) if ours.token(token) != theirs.token(token)), None)
    if different is not None:
        raise UsageError(
            f"the draft model {draft.folder} spells token {different} as {theirs.token(different)!r} and the model "
            f"{ours.token(different)!r}; choose a smaller model of the same family"
        )


def chosen_kv_dtype(chosen: KVChoice, base: Literal["float32", "bfloat16"]) -> KVDtype:
    """How keys and values are stored for a model whose layers compute in ``base``."""
    if chosen != "auto":
        return chosen
    return "float32" if base == "float32" else "bfloat16"


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Native:
    """What the native backend runs on, and lines about it."""

    weights: PreparedWeights
    cache: KVCache
    lines: tuple[str, ...]


def _load_native(
    packing: Packing,
    what: str,
    options: WeightOptions,
    cache_tokens: int | None,
    kv_dtype: KVDtype,
    progress: Progress,
    tokenizer: TokenizerLoading,
) -> _Native:
    """Weights from the image, or packed into memory where there is none, and the cache in what they leave."""
    spec = packing.spec
    progress.start("load", len(spec.blocks) + 1)
    image = open_or_build(packing, options, description=what, advance=progress.advance)
    weights = None if image is not None else PreparedWeights.from_packing(packing, progress.advance)
    progress.finish()
    if options.memory is not None:
        tokenizer.result()  # what it takes is a part of the limit
    plan = _plan(spec, 0 if image is None else image.nbytes, options, cache_tokens, kv_dtype)
    if image is not None:
        beyond = image.nbytes > Machine.detect().free_memory_bytes
        weights = image.weights(ceiling=plan.ceiling, drop_cache=beyond)
    assert weights is not None
    pool = plan.num_blocks * cache_block_bytes(spec.blocks, kv_dtype)
    place = "packed in memory" if image is None else f"mapped from {image.image.path}"
    memory = "the free memory" if options.memory is None else options.memory
    lines = [
        f"weights {format_bytes(weights.nbytes)}, {place}",
        f"KV cache {kv_dtype}, {plan.num_blocks * BLOCK_SIZE} tokens in {format_bytes(pool)}; "
        f"{format_bytes(plan.left_bytes)} of {memory} are left",
    ]
    for line in lines:
        log.info(line)
    if image is not None and weights.pager is not None and weights.pager.streamed_bytes:
        slow = describe_streaming(image.image, weights.pager)
        log.warning(slow)
        lines.append(slow)
    return _Native(weights=weights, cache=_make_cache(spec, plan.num_blocks, kv_dtype), lines=tuple(lines))


def _plan(
    spec: ModelSpec, weight_bytes: int, options: WeightOptions, cache_tokens: int | None, kv_dtype: KVDtype
) -> MemoryPlan:
    needs = MemoryNeeds(
        weight_bytes=weight_bytes,
        block_bytes=cache_block_bytes(spec.blocks, kv_dtype),
        block_tokens=BLOCK_SIZE,
        max_tokens=spec.max_positions,
    )
    return plan_memory(
        needs,
        free_bytes=Machine.detect().free_memory_bytes,
        used_bytes=resident_bytes(),
        limit=options.memory_bytes,
        cache_tokens=cache_tokens,
    )


def _make_cache(spec: ModelSpec, num_blocks: int, kv_dtype: KVDtype) -> KVCache:
    try:
        return KVCache(spec.blocks, num_blocks=num_blocks, dtype=kv_dtype)
    except MemoryError:
        wanted = num_blocks * cache_block_bytes(spec.blocks, kv_dtype)
        raise ResourceError(
            f"a KV cache of {num_blocks * BLOCK_SIZE} tokens in {kv_dtype} takes {wanted / 1e9:.1f} GB, more than "
            "there is; choose fewer cache_tokens, or kv_dtype='bfloat16'"
        ) from None


def _describe(spec: ModelSpec, weights: Weights, compute: ModelCompute, backend: Backend, head: str) -> str:
    """Which formats and compute types a model runs in, counted over its linear layers."""
    base = base_compute(spec, weights, compute)
    counts = Counter(
        f"{weights.format(linear).name} in {linear_compute(linear, weights, compute, base)}" for linear in spec.linears
    )
    layers = ", ".join(f"{count} {text}" for text, count in counts.most_common())
    return f"{spec.architecture}, {len(spec.blocks)} blocks on {backend} kernels; linear layers: {layers}; head {head}"


def _generation_config(folder: Path) -> Mapping[str, Any]:
    """generation_config.json; empty where there is none."""
    path = folder / "generation_config.json"
    return read_json(path, "repair it or remove it") if path.is_file() else {}
