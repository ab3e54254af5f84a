"""From rows to figures: perplexities, and the comparison of two models on the same tokens.

It knows arrays per scored token and the plan they belong to, not models.
"""

import numpy as np

from flyweight.evaluation.distributions import Array, RowStatistics
from flyweight.evaluation.protocol import ScoringPlan
from flyweight.evaluation.report import Comparison, DocumentResult, Histogram, Perplexities
from flyweight.evaluation.scoring import Divergence
from flyweight.evaluation.statistics import Bootstrap

SMALLEST_DRAWN_KL = 1e-9


def exp(values: Array) -> Array:
    """exp that gives infinity, without a warning, where a broken model's figure leaves the range of float64."""
    with np.errstate(over="ignore"):
        result: Array = np.exp(values)
        return result


def perplexities(statistics: RowStatistics, plan: ScoringPlan, bootstrap: Bootstrap) -> Perplexities:
    """Corpus-level ratios: exp(sum of negative log-likelihoods / sum of tokens, words or bytes)."""
    units = bootstrap.units
    totals = np.bincount(units.index, weights=statistics.nll, minlength=units.count)
    # A document's words and bytes are spread evenly over its scored tokens, so that units need not be documents.
    rows_of = np.bincount(plan.documents, minlength=len(plan.words))
    words, sizes = (
        np.bincount(units.index, weights=(per / np.maximum(1, rows_of))[plan.documents], minlength=units.count)
        for per in (plan.words, plan.bytes)
    )
    count = len(statistics.nll)
    return Perplexities(
        token=bootstrap.mean(statistics.nll, transform=exp),
        word=bootstrap.ratio(totals, words, num_samples=round(float(words.sum())), sample="words", transform=exp),
        byte=bootstrap.ratio(totals, sizes, num_samples=round(float(sizes.sum())), sample="bytes", transform=exp),
        bits_per_byte=bootstrap.ratio(
            totals / np.log(2), sizes, num_samples=count, sample="tokens", transform=np.asarray
        ),
    )


def compare(statistics: RowStatistics, divergence: Divergence, bootstrap: Bootstrap) -> Comparison:
    """Every figure of the candidate against the original; all on the same resamples, so paired."""
    original = divergence.original
    change = statistics.probability - original.probability
    median, p99 = bootstrap.quantiles(divergence.kl, (0.5, 0.99))
    return Comparison(
        ppl_ratio=bootstrap.mean(statistics.nll - original.nll, transform=exp),
        ppl_difference=bootstrap.difference_of_exp_means(statistics.nll, original.nll),
        kl_mean=bootstrap.mean(divergence.kl),
        kl_median=median,
        kl_p99=p99,
        kl_max=bootstrap.largest(divergence.kl),
        top1=bootstrap.share(statistics.top1 == original.top1),
        delta_p_mean=bootstrap.mean(change),
        delta_p_rms=bootstrap.mean(change**2, transform=np.sqrt),
        predictions=divergence.source,
    )


def per_document(
    statistics: RowStatistics, divergence: Divergence | None, plan: ScoringPlan
) -> tuple[DocumentResult, ...]:
    """Means over the scored tokens of each document; documents without any are left out."""
    count = len(plan.words)
    rows = np.bincount(plan.documents, minlength=count)

    def means(values: Array) -> Array:
        sums: Array = np.bincount(plan.documents, weights=values, minlength=count)
        return sums / np.maximum(1, rows)

    nll = means(statistics.nll)
    original = None if divergence is None else means(divergence.original.nll)
    kl = None if divergence is None else means(divergence.kl)
    return tuple(
        DocumentResult(
            index=index,
            num_tokens=int(rows[index]),
            nll=float(nll[index]),
            original_nll=None if original is None else float(original[index]),
            kl=None if kl is None else float(kl[index]),
        )
        for index in range(count)
        if rows[index]
    )


def kl_histogram(kl: Array, num_bins: int = 60) -> Histogram:
    """Counts over geometric bins; what lies below 1e-9 nats is counted in the first."""
    drawn = np.maximum(kl, SMALLEST_DRAWN_KL)
    low, high = float(drawn.min()), float(drawn.max())
    edges = np.geomspace(low, max(high, low * 1.01), num_bins + 1)
    # Rounding of the geometric spacing must not leave the extremes outside.
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    counts, _ = np.histogram(drawn, bins=edges)
    return Histogram(edges=tuple(map(float, edges)), counts=tuple(map(int, counts)))
