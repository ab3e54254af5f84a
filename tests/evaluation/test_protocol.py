"""Which tokens a protocol scores, against definitions written here a second time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight.errors import DataError, UsageError
from flyweight.evaluation.protocol import ScoringPlan, plan_scoring
from flyweight.evaluation.text import EvaluationText

BOS, EOS = 1, 2


def text_of(documents: list[list[int]]) -> EvaluationText:
    return EvaluationText(name="t", documents=tuple(" ".join(map(str, one)) for one in documents), sha256="0")


def encode(document: str) -> list[int]:
    return [int(word) for word in document.split()]


def plan(documents: list[list[int]], **changes: object) -> ScoringPlan:
    options = {
        "kind": "rolling",
        "window": 4,
        "stride": None,
        "bos_rule": "auto",
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    return plan_scoring(text_of(documents), encode, **{**options, **changes})  # type: ignore[arg-type]


def pieces(found: ScoringPlan) -> list[tuple[list[int], list[int]]]:
    """(model input, scored tokens) of every sequence, as lm-evaluation-harness passes them to a model."""
    return [(one.token_ids[:-1].tolist(), one.token_ids[one.num_context :].tolist()) for one in found.scored]


def harness_windows(tokens: list[int], prefix: int, length: int) -> list[tuple[list[int], list[int]]]:
    """The harness's rolling loglikelihood, from its description: disjoint predictions of at most ``length`` tokens;
    the first window sees the prefix token, a later one the token before it; the model's input is filled up to
    ``length`` tokens on its left when the last prediction is shorter."""
    found = []
    for first in range(0, len(tokens), length):
        predicted = tokens[first : first + length]
        history = ([prefix, *tokens])[: first + len(predicted)]  # all that precedes the last predicted token
        found.append((history[-length:] if first else history, predicted))
    return found


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.integers(3, 90), min_size=1, max_size=40), st.integers(2, 12))
def test_rolling_is_the_harness_definition(tokens: list[int], window: int) -> None:
    assert pieces(plan([tokens], window=window)) == harness_windows(tokens, BOS, window)


def test_rolling_by_hand() -> None:
    assert pieces(plan([[10, 11, 12, 13, 14, 15]], window=4)) == [
        ([BOS, 10, 11, 12], [10, 11, 12, 13]),
        ([11, 12, 13, 14], [14, 15]),
    ]


def test_rolling_starts_with_eos_where_there_is_no_bos() -> None:
    found = plan([[10, 11]], bos_token_id=None)
    assert pieces(found)[0][0][0] == EOS
    assert found.protocol.bos_rule == "each document starts with EOS"


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.integers(3, 90), min_size=1, max_size=15), min_size=1, max_size=5),
    st.integers(3, 12),
    st.data(),
)
def test_windows_score_every_token_once_with_all_the_context_there_is(
    documents: list[list[int]], window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window - 1))
    found = plan(documents, kind="windows", window=window, stride=stride)
    stream = [token for document in documents for token in document]
    owners = [number for number, document in enumerate(documents) for _ in document]
    assert found.targets.tolist() == stream
    assert found.documents.tolist() == owners
    scored_until = 0
    for number, one in enumerate(found.scored):
        begin = number * stride
        assert one.token_ids.tolist() == [BOS, *stream[begin : begin + window - 1]]
        assert one.num_context == 1 + scored_until - begin
        scored_until = min(begin + window - 1, len(stream))
    np.testing.assert_array_equal(np.bincount(found.sequences), np.diff(found.row_starts))


def test_windows_without_bos_leave_tokens_without_context_out_and_scale_words_and_bytes() -> None:
    found = plan([[10, 11, 12, 13, 14, 15]], kind="windows", window=3, bos_rule="none")
    assert pieces(found) == [([10, 11], [11, 12]), ([13, 14], [14, 15])]
    assert found.protocol.num_tokens == 6
    assert found.protocol.num_tokens_scored == 4
    assert found.words.sum() == pytest.approx(6 * 4 / 6)
    assert found.bytes.sum() == pytest.approx(len("10 11 12 13 14 15") * 4 / 6)


def test_documents_are_cut_off_at_the_window() -> None:
    found = plan([[10, 11, 12, 13, 14, 15], [20]], kind="documents", window=4)
    assert pieces(found) == [([BOS, 10, 11], [10, 11, 12]), ([BOS], [20])]
    assert found.words.tolist() == [3.0, 1.0]
    assert found.protocol.num_words == 7


def test_the_protocol_names_tokens_and_text() -> None:
    first, again, other = (plan([[10, 11, 12]]), plan([[10, 11, 12]]), plan([[10, 11, 13]]))
    assert first.protocol == again.protocol
    assert first.protocol.tokens_sha256 != other.protocol.tokens_sha256
    assert first.protocol.tokens_sha256 != plan([[10, 11, 12]], window=2).protocol.tokens_sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 1}, "window=1 is too short"),
        ({"stride": 2}, "stride=2 has no meaning under protocol rolling"),
        ({"kind": "windows", "stride": 4}, "stride=4 must be 1 to 3 with window=4"),
        ({"kind": "windows", "stride": 0}, "stride=0 must be 1 to 3"),
        ({"bos_rule": "none"}, "bos=none contradicts protocol rolling"),
        ({"bos_token_id": None, "eos_token_id": None}, "needs a BOS or EOS token"),
        ({"kind": "windows", "bos_rule": "window", "bos_token_id": None}, "bos=window needs a BOS token"),
    ],
)
def test_what_cannot_be_followed_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan([[10, 11, 12]], **changes)


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(DataError, match="leaves nothing to score under protocol documents"):
        plan([[10], [11]], kind="documents", bos_rule="none")
