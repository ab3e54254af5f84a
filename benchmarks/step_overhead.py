"""What a decode step costs beside its weights and its attention: one call a step against one call an operation.

    python benchmarks/step_overhead.py SHAPE [--streams 1,8] [--depth 64] [--seconds 10]

SHAPE is one of make_random_checkpoint.py, or ``stories3m``. Weights are random int4 codes by groups of 128 (of 64 where
that does not divide), the head int8, activations int8; both sides share them. Steps of both sides alternate in blocks;
the figures are medians over steps, the shares come from the clock inside the one call.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
from make_random_checkpoint import SHAPES, Shape

from flyweight import kernels
from flyweight.machine import Machine
from flyweight.models import read_spec
from flyweight.models.spec import LinearGroup, ModelSpec
from flyweight.runtime.batch import Batch
from flyweight.runtime.kv_cache import KVCache
from flyweight.runtime.native_ops import NativeOps, PreparedWeights
from flyweight.runtime.native_program import NativeRuntime
from flyweight.runtime.prepared import PreparedGroup
from flyweight.runtime.runner import OpByOp, Runner
from flyweight.runtime.sequences import CachedSequence, SequencePlanner

STORIES3M = Shape(
    model_type="llama",
    vocab_size=4096,
    hidden_size=192,
    num_layers=6,
    intermediate_size=512,
    num_heads=6,
    num_kv_heads=2,
    head_dim=32,
    rope_theta=10000.0,
    context=512,
    norm_eps=1e-5,
)
STEPS_A_BLOCK = 8


def random_weights(spec: ModelSpec) -> PreparedWeights:
    rng = np.random.default_rng(1)
    norms = {norm.name: np.ones(norm.size, np.float32) for block in spec.blocks for norm in block.norms}
    norms[spec.final_norm.name] = np.ones(spec.final_norm.size, np.float32)
    groups = {
        group.linears[0].name: random_group(group, rng, bits=4) for block in spec.blocks for group in block.groups
    }
    groups[spec.head.linears[0].name] = random_group(spec.head, rng, bits=8)
    embedding = rng.standard_normal((1024, spec.hidden_size), np.float32).astype(ml_dtypes.bfloat16)
    return PreparedWeights(groups=groups, norms=norms, embedding=embedding)


def random_group(group: LinearGroup, rng: np.random.Generator, *, bits: int) -> PreparedGroup:
    rows, columns = group.out_features, group.in_features
    size = 128 if columns % 128 == 0 else 64
    codes = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (rows, columns), np.int8)
    scales = np.full((rows, columns // size), 2.0**-bits / np.sqrt(columns), np.float32)
    handle = kernels.prepare_int_group(codes, scales, None, bits=bits, group_size=size, compute="int8")
    bias = np.zeros(rows, np.float32) if group.linears[0].bias else None
    return PreparedGroup(handles=(handle,), biases=(bias,))


def decode_batch(cache: KVCache, streams: int, depth: int) -> Batch:
    """One token for each of so many sequences of which ``depth`` tokens are in the cache."""
    planner, sequences = SequencePlanner.of(cache), [CachedSequence() for _ in range(streams)]
    if depth:
        planner.plan(sequences, [[1] * depth] * streams)
    return planner.plan(sequences, [[2 + stream] for stream in range(streams)])


def median_seconds(runners: Mapping[str, Runner], batch: Batch, seconds: float) -> dict[str, float]:
    """Median time of a step of each, in turns of a few steps."""
    spent: dict[str, list[float]] = {name: [] for name in runners}
    for runner in runners.values():
        runner.forward(batch)
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        for name, runner in runners.items():
            for _ in range(STEPS_A_BLOCK):
                began = time.perf_counter()
                runner.forward(batch)
                spent[name].append(time.perf_counter() - began)
    return {name: float(np.median(times)) for name, times in spent.items()}


def median_profile(runtime: NativeRuntime, batch: Batch, times: int) -> tuple[dict[str, float], float]:
    """Seconds of each kind of instruction and of the whole call: medians over steps."""
    profiles, walls = [], []
    for _ in range(times):
        began = time.perf_counter()
        profiles.append(runtime.profile(batch))
        walls.append(time.perf_counter() - began)
    return {name: float(np.median([one[name] for one in profiles])) for name in profiles[0]}, float(np.median(walls))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=[*SHAPES, "stories3m"])
    parser.add_argument("--streams", default="1,8")
    parser.add_argument("--depth", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    arguments = parser.parse_args()
    shape: Any = SHAPES.get(arguments.shape, STORIES3M)
    spec = read_spec(
        shape.config() if arguments.layers is None else replace(shape, num_layers=arguments.layers).config()
    )
    weights = random_weights(spec)
    print(f"{Machine.detect().describe()}, {kernels.thread_count()} threads, {kernels.isa()}")
    megabytes = weights.nbytes / 1e6
    print(f"{arguments.shape}, {len(spec.blocks)} layers, {megabytes:.0f} MB of weights, depth {arguments.depth}")
    for streams in map(int, arguments.streams.split(",")):
        cache = KVCache(spec.blocks, num_blocks=streams * (arguments.depth // 16 + 4), dtype="float16")
        batch = decode_batch(cache, streams, arguments.depth)
        runtime = NativeRuntime(spec, weights, cache)
        runners = {"op by op": OpByOp(spec, NativeOps(weights, cache)), "one call": runtime}
        medians = median_seconds(runners, batch, arguments.seconds)
        profile, wall = median_profile(runtime, batch, 50)
        print(f"{streams} streams:")
        for name, seconds in medians.items():
            print(f"  {name:9} {seconds * 1e6:9.0f} us a step, {streams / seconds:8.1f} tokens/s")
        needed = profile["linear"] + profile["attend"]
        print(f"  linear and attention {needed / wall:.1%} of a step of {wall * 1e6:.0f} us; "
              + ", ".join(f"{name} {seconds * 1e6:.0f}" for name, seconds in profile.items()) + " us")  # fmt: skip


if __name__ == "__main__":
    main()
