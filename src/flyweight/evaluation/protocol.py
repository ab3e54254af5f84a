"""The protocol of a perplexity as data: which tokens are scored, given which context. Printed with every result.

Three ways to cut a text:

    rolling     lm-evaluation-harness's ``loglikelihood_rolling``: each document after one prefix token (BOS, else
                EOS), cut into windows that score every token once and see one token of context; the last window of
                a document is filled up with context on its left.
    documents   each document alone after BOS, cut off at the window.
    windows     the documents' tokens as one stream; windows of fixed length start every ``stride`` tokens and score
                what no earlier window has scored. Under BOS rule ``window`` each window starts with BOS.

This module knows token ids; it does not know models or tokenizers.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flyweight.errors import DataError, UsageError
from flyweight.evaluation.text import EvaluationText, count_words

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["rolling", "documents", "windows"]
BosRule = Literal["auto", "window", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """Everything needed to repeat a perplexity, except the model.

    ``num_tokens`` is all tokens of the text used, ``num_tokens_scored`` those whose probability entered the figures.
    Word and byte perplexity use the words and bytes of the text times the share of its tokens that were scored.
    """

    kind: Kind
    text: str
    text_sha256: str
    window: int
    stride: int
    bos_rule: str
    prefix_token_id: int | None
    num_documents: int
    num_words: int
    num_bytes: int
    num_tokens: int
    num_tokens_scored: int
    tokens_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSequence:
    """Token ids to run, of which all from ``num_context`` on are scored (each given all before it)."""

    token_ids: Array  # int32 (tokens,)
    num_context: int
    documents: Array  # int32 (tokens - num_context,): the document each scored token is of


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringPlan:
    """A text cut by a protocol. Row r is the r-th scored token, sequence after sequence.

    targets    int32 (rows,)         the scored token
    documents  int32 (rows,)         the document it is of
    sequences  int32 (rows,)         the scored sequence it is of
    row_starts int64 (sequences+1,)  sequence s owns rows row_starts[s]:row_starts[s+1]
    words, bytes  float64 (documents,)  of each document, times the share of its tokens that are scored
    """

    protocol: Protocol
    scored: tuple[ScoredSequence, ...]
    targets: Array
    documents: Array
    sequences: Array
    row_starts: Array
    words: Array
    bytes: Array

    @property
    def num_rows(self) -> int:
        return len(self.targets)


def plan_scoring(
    text: EvaluationText,
    encode: Callable[[str], Sequence[int]],
    *,
    kind: Kind,
    window: int,
    stride: int | None,
    bos_rule: BosRule,
    bos_token_id: int | None,
    eos_token_id: int | None,
    max_documents: int | None = None,
) -> ScoringPlan:
    """Cut ``text`` into sequences to score.

    Args:
        encode: text to token ids, without special tokens.
        window: tokens a model call may see at most, BOS included.
        stride: tokens between the starts of ``windows``; None means the window's length.
        max_documents: use only the first so many documents.

    Raises:
        UsageError: for a window, stride or BOS rule that cannot be followed.
        DataError: when nothing is left to score.
    """
    documents = text.documents[:max_documents]
    token_ids = [np.asarray(encode(document), np.int32) for document in documents]
    prefix, rule = _prefix(kind, bos_rule, bos_token_id, eos_token_id)
    if window < 2:
        raise UsageError(f"window={window} is too short; a window needs at least 2 tokens")
    if stride is not None and kind != "windows":
        raise UsageError(f"stride={stride} has no meaning under protocol {kind}; leave it out or choose windows")
    if kind == "rolling":
        stride = window
        scored = [one for number, ids in enumerate(token_ids) for one in _rolling(ids, prefix, window, number)]
    elif kind == "documents":
        stride = window
        scored = [one for number, ids in enumerate(token_ids) for one in _document(ids, prefix, window, number)]
    else:
        room = window - (prefix is not None)
        stride = room if stride is None else stride
        if not 1 <= stride <= room:
            raise UsageError(f"stride={stride} must be 1 to {room} with window={window}, or tokens would be skipped")
        scored = list(_windows(token_ids, prefix, room, stride))
    if not scored:
        raise DataError(
            f"evaluation text {text.name} leaves nothing to score under protocol {kind} "
            f"({sum(map(len, token_ids))} tokens in {len(documents)} documents); give a longer text"
        )
    return _assemble(text, documents, token_ids, scored, kind, window, stride, rule, prefix)


def _prefix(kind: Kind, bos_rule: BosRule, bos: int | None, eos: int | None) -> tuple[int | None, str]:
    if kind == "rolling":
        if bos_rule == "none":
            raise UsageError("bos=none contradicts protocol rolling, which starts each document with a prefix token")
        if bos is None and eos is None:
            raise UsageError("protocol rolling needs a BOS or EOS token and the tokenizer has neither; choose windows")
        prefix = bos if bos is not None else eos
        return prefix, f"each document starts with {'BOS' if bos is not None else 'EOS'}"
    if bos_rule == "none" or (bos_rule == "auto" and bos is None):
        return None, "none"
    if bos is None:
        raise UsageError("bos=window needs a BOS token and the tokenizer has none; choose --bos none")
    return bos, f"each {'document' if kind == 'documents' else 'window'} starts with BOS"


def _rolling(ids: Array, prefix: int | None, window: int, document: int) -> list[ScoredSequence]:
    """Windows of at most ``window`` inputs; the inputs are the sequence without its last token."""
    stream = np.concatenate([[prefix], ids]).astype(np.int32)
    found = []
    for start in range(0, len(ids), window):
        end = min(start + window, len(ids))  # scores ids[start:end], which are stream[start+1:end+1]
        begin = max(0, end - window)  # a short last window is filled up with context
        owner = np.full(end - start, document, np.int32)
        found.append(ScoredSequence(token_ids=stream[begin : end + 1], num_context=start + 1 - begin, documents=owner))
    return found


def _document(ids: Array, prefix: int | None, window: int, document: int) -> list[ScoredSequence]:
    whole = ids if prefix is None else np.concatenate([[prefix], ids]).astype(np.int32)
    if len(whole) < 2:
        return []
    whole = whole[:window]
    return [ScoredSequence(token_ids=whole, num_context=1, documents=np.full(len(whole) - 1, document, np.int32))]


def _windows(token_ids: list[Array], prefix: int | None, room: int, stride: int) -> list[ScoredSequence]:
    stream = np.concatenate(token_ids)
    owners = np.repeat(np.arange(len(token_ids), dtype=np.int32), [len(ids) for ids in token_ids])
    found, scored_until = [], 0
    for begin in range(0, len(stream), stride):
        end = min(begin + room, len(stream))
        first = max(scored_until, begin + (prefix is None))  # without BOS the very first token has no context
        if first < end:
            ids = stream[begin:end]
            if prefix is not None:
                ids = np.concatenate([[prefix], ids]).astype(np.int32)
            context = first - begin + (prefix is not None)
            found.append(ScoredSequence(token_ids=ids, num_context=context, documents=owners[first:end]))
        scored_until = end
        if end == len(stream):
            break
    return found


def _assemble(
    text: EvaluationText,
    documents: tuple[str, ...],
    token_ids: list[Array],
    scored: list[ScoredSequence],
    kind: Kind,
    window: int,
    stride: int,
    rule: str,
    prefix: int | None,
) -> ScoringPlan:
    counts = np.array([len(one.token_ids) - one.num_context for one in scored])
    row_documents = np.concatenate([one.documents for one in scored])
    tokens = np.array([len(ids) for ids in token_ids])
    shares = np.bincount(row_documents, minlength=len(documents)) / np.maximum(1, tokens)
    words = np.array([count_words(document) for document in documents], np.float64)
    sizes = np.array([len(document.encode()) for document in documents], np.float64)
    digest = hashlib.sha256()
    for one in scored:
        digest.update(np.array([len(one.token_ids), one.num_context], "<i4").tobytes())
        digest.update(one.token_ids.astype("<i4").tobytes())
    protocol = Protocol(
        kind=kind,
        text=text.name,
        text_sha256=text.sha256,
        window=window,
        stride=stride,
        bos_rule=rule,
        prefix_token_id=prefix,
        num_documents=len(documents),
        num_words=int(words.sum()),
        num_bytes=int(sizes.sum()),
        num_tokens=int(tokens.sum()),
        num_tokens_scored=int(counts.sum()),
        tokens_sha256=digest.hexdigest(),
    )
    return ScoringPlan(
        protocol=protocol,
        scored=tuple(scored),
        targets=np.concatenate([one.token_ids[one.num_context :] for one in scored]).astype(np.int32),
        documents=row_documents,
        sequences=np.repeat(np.arange(len(scored)), counts).astype(np.int32),
        row_starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        words=words * shares,
        bytes=sizes * shares,
    )
