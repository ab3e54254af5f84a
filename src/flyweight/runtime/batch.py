"""One step's work for the decoder: which tokens of which sequences, where their keys and values go.

A batch is ragged: sequences lie one after another along the token axis, prefill chunks and single decode
tokens side by side. It holds plain numpy integers; it does not know who planned it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.integer[Any]]]
Int32Array = np.ndarray[Any, np.dtype[np.int32]]
Int64Array = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Tokens to run now.

    token_ids       int32 (tokens,)       the tokens, sequence after sequence
    positions       int32 (tokens,)       each token's position in its own sequence
    query_starts    int32 (sequences+1,)  sequence s owns tokens query_starts[s]:query_starts[s+1]
    context_lengths int32 (sequences,)    tokens of the sequence in the cache after this step, new ones included
    block_tables    int32 (sequences, n)  cache blocks of each sequence in order; unused entries are 0
    slots           int64 (tokens,)       where each token's key and value go: block * block_size + offset
    output_rows     int64 (outputs,)      the tokens whose logits are wanted
    """

    token_ids: Int32Array
    positions: Int32Array
    query_starts: Int32Array
    context_lengths: Int32Array
    block_tables: Int32Array
    slots: Int64Array
    output_rows: Int64Array

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_sequences(self) -> int:
        return len(self.context_lengths)
