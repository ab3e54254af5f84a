"""What two rows of logits say: log-likelihood of the target, most likely token, KL divergence.

Rows are worked in slices, so that temporary arrays stay small whatever the vocabulary. It does not know where logits
come from.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from flyweight.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]

SLICE_ELEMENTS = 1 << 21


@dataclass(frozen=True, kw_only=True, slots=True)
class RowStatistics:
    """Per scored token: ``nll`` float64 (rows,) in nats and ``top1`` int32 (rows,), the most likely token."""

    nll: Array
    top1: Array

    @property
    def probability(self) -> Array:
        """float64 (rows,): the probability given to the token that came."""
        return np.exp(-self.nll)


def row_slices(num_rows: int, vocab_size: int) -> list[slice]:
    """Slices of rows of at most about two million logits each."""
    step = max(1, SLICE_ELEMENTS // vocab_size)
    return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def log_normalizers(logits: Array) -> Array:
    """float64 (rows,): log of the sum of exponentials of float32 (rows, vocab)."""
    largest = logits.max(axis=1, keepdims=True)
    total = np.exp(logits - largest).sum(axis=1, dtype=np.float64)
    result: Array = largest[:, 0].astype(np.float64) + np.log(total)
    return result


def row_statistics(logits: Array, targets: Array) -> RowStatistics:
    """Negative log-likelihood of ``targets`` (rows,) under ``logits`` float32 (rows, vocab), and the top token.

    Raises:
        DataError: when a row holds NaN or infinity: the model is broken, and no figure of it would mean anything.
    """
    nll = np.empty(len(targets), np.float64)
    top1 = np.empty(len(targets), np.int32)
    for rows in row_slices(*logits.shape):
        part = logits[rows]
        if not np.isfinite(part).all():
            raise DataError("the model gives NaN or infinite logits; check its weights with flyweight inspect")
        picked = part[np.arange(len(part)), targets[rows]]
        nll[rows] = log_normalizers(part) - picked
        top1[rows] = part.argmax(axis=1)
    return RowStatistics(nll=nll, top1=top1)


def kl_divergence(original: Array, candidate: Array) -> Array:
    """KL(original || candidate) in nats, float64 (rows,), of two float32 (rows, vocab) arrays of logits.

    Logits need not be normalised. Sums run in float64 over float32 terms: the error is about 1e-7.
    """
    result = np.empty(len(original), np.float64)
    for rows in row_slices(*original.shape):
        # Shifted to a largest logit of 0, the likely tokens' logits are small and their differences precise.
        p = original[rows] - original[rows].max(axis=1, keepdims=True)
        q = candidate[rows] - candidate[rows].max(axis=1, keepdims=True)
        log_total_q = np.log(np.exp(q).sum(axis=1, dtype=np.float64))
        weights = np.exp(p)
        total = weights.sum(axis=1, dtype=np.float64)
        weights *= p - q
        result[rows] = weights.sum(axis=1, dtype=np.float64) / total - (np.log(total) - log_total_q)
    # Rounding can leave a few units of 1e-8 below zero, where no divergence lies.
    return np.maximum(result, 0.0)
