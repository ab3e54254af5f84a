"""What a narrow KV cache costs, measured on the model itself before anyone relies on it.

Some models put a few keys far above all others; an 8- or 4-bit cache, or float16's range, can then destroy the answers
without any error. So the model reads one text with the chosen cache and with a float32 cache, and the predictions are
compared. It knows no files and no options of loading.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flyweight.errors import UsageError
from flyweight.formats.base import Array
from flyweight.kernels import KVDtype
from flyweight.models.spec import ModelSpec
from flyweight.runtime.kv_cache import BLOCK_SIZE, KVCache
from flyweight.runtime.native_ops import NativeOps
from flyweight.runtime.prepared import PreparedWeights
from flyweight.runtime.runner import OpByOp
from flyweight.runtime.sequences import CachedSequence, SequencePlanner
from flyweight.tokenizer import Tokenizer

TESTED: tuple[KVDtype, ...] = ("float16", "int8", "int4")
TOKENS = 256
ROWS_AT_ONCE = 32
DEFAULT_MOST_KL = 0.5
TEXT = """The old lighthouse stands on a rock two miles from the harbour. Every evening, a little before sunset, Anna
rowed out with bread, oil and letters for the keeper, who had not left the island in eleven years. "Any
news?" he would ask, and she would tell him about the market, the price of fish, and who was to be married
in June. One day in 1893 a storm came up from the north-west so fast that she could not return. They sat by
the stove while the wind shook the windows, and he showed her how the lamp was kept: trim the wick, wind the
clockwork every four hours, write the time in the book. At ten past three the clockwork stopped. He took it
apart on the kitchen table, cleaned the small wheel that had broken, and found that no spare part would fit.
"Then we turn it by hand," said Anna. They took turns, sixty turns for every minute, until morning. When the
harbour master came out at noon to see whether they were alive, he brought a telegram: three ships had
passed in the night, and all of them had seen the light. The keeper read it twice, folded it, and put it
between the pages of the book. "Write it down," he said. "Wind north-west, force ten. Lamp lit from 4:52 to
7:40."
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class KVSelfTest:
    """Mean Kullback-Leibler divergence of predictions, in nats over ``tokens`` positions: float32 cache || this one."""

    kv_dtype: KVDtype
    mean_kl: float
    tokens: int

    def describe(self) -> str:
        return f"KV cache {self.kv_dtype} against float32: mean KL {self.mean_kl:.2g} nats over {self.tokens} tokens"


def run_kv_self_test(
    spec: ModelSpec, weights: PreparedWeights, kv_dtype: KVDtype, tokens: Sequence[int], most_kl: float
) -> KVSelfTest:
    """Run ``tokens`` with both caches.

    Raises:
        UsageError: when the mean KL is above ``most_kl`` nats, or is not a number.
    """
    mean_kl = float(np.mean(_divergences(spec, weights, kv_dtype, tokens)))
    found = KVSelfTest(kv_dtype=kv_dtype, mean_kl=mean_kl, tokens=len(tokens))
    if not mean_kl <= most_kl:
        raise UsageError(
            f"kv_dtype={kv_dtype!r} spoils this model: {found.describe()}, and kv_most_kl={most_kl} is allowed; choose "
            "kv_dtype='bfloat16', or a higher kv_most_kl if the answers are still good enough"
        )
    return found


def self_test_tokens(spec: ModelSpec, tokenizer: Tokenizer | None) -> list[int]:
    """At most 256 tokens: of a text, or without a tokenizer drawn evenly from the vocabulary."""
    count = min(TOKENS, spec.max_positions)
    if tokenizer is not None:
        return tokenizer.encode(TEXT)[:count]
    return [int(one) for one in np.random.default_rng(0).integers(0, spec.vocab_size, count)]


def _divergences(spec: ModelSpec, weights: PreparedWeights, kv_dtype: KVDtype, tokens: Sequence[int]) -> Array:
    num_blocks = -(-len(tokens) // BLOCK_SIZE)
    runners, hidden = [], []
    for dtype in ("float32", kv_dtype):
        cache = KVCache(spec.blocks, num_blocks=num_blocks, dtype=dtype)
        batch = SequencePlanner.of(cache).plan([CachedSequence()], [tokens], all_logits=True)
        runners.append(OpByOp(spec, NativeOps(weights, cache)))
        hidden.append(runners[-1].hidden(batch))
    pieces = []
    for start in range(0, len(tokens), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        exact, narrow = (_log_softmax(runner.logits(x[rows])) for runner, x in zip(runners, hidden, strict=True))
        pieces.append((np.exp(exact) * (exact - narrow)).sum(axis=1))
    return np.concatenate(pieces)


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
