"""The whole evaluation on tiny checkpoints: against formulas over the model's own logits, and what it refuses."""

import gc
import json
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from flyweight.engine.language_model import LanguageModel
from flyweight.engine.load import load
from flyweight.errors import DataError, UsageError
from flyweight.evaluation import subject
from flyweight.evaluation.options import EvaluateOptions
from flyweight.evaluation.report import EvaluationReport
from flyweight.evaluation.run import evaluate
from tests.support.checkpoints import write_tiny_llama, write_word_tokenizer

QUICK = EvaluateOptions(resamples=100, window=24, compute="float32", against_compute="float32")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLYWEIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluation"


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """An original and a slightly different candidate."""
    folders = (tmp_path / "original", tmp_path / "candidate")
    for folder, dtype in zip(folders, ("float32", "bfloat16"), strict=True):
        write_tiny_llama(folder, dtype=dtype)
        write_word_tokenizer(folder)
    return folders


@pytest.fixture
def text(tmp_path: Path) -> Path:
    generator = np.random.default_rng(2)
    documents = [" ".join(f"w{i}" for i in generator.integers(3, 128, generator.integers(4, 40))) for _ in range(24)]
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": document}) for document in documents))
    return path


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    lines = [
        {
            "id": f"g{n}",
            "task": "echo" if n % 2 else "count",
            "messages": [{"role": "user", "content": f"w{n + 5} w{n + 9}"}],
            "expected": "w7",
            "max_tokens": 3,
        }
        for n in range(6)
    ]
    path = tmp_path / "golden.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def log_probabilities(model: Path, text: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rolling by its definition, one model call per window: (rows, vocab) float64 and the targets."""
    language_model = load(model, compute="float32")
    rows, targets = [], []
    for line in text.read_text().splitlines():
        ids = language_model.tokenizer.encode(json.loads(line)["text"], add_special_tokens=False)
        stream = [1, *ids]
        for first in range(0, len(ids), 24):
            last = min(first + 24, len(ids))
            window = stream[max(0, last - 24) : last]
            logits = np.concatenate([part for _, _, part in language_model.score([window])])
            rows.append(special.log_softmax(logits.astype(np.float64)[first - last :], axis=1))
            targets += ids[first:last]
    return np.concatenate(rows), np.array(targets)


def test_figures_are_those_of_the_models_logits(models: tuple[Path, Path], text: Path, cache: Path) -> None:
    original, candidate = models
    report = evaluate(candidate, against=original, text=text, options=QUICK)
    theirs, targets = log_probabilities(original, text)
    ours, _ = log_probabilities(candidate, text)
    rows = np.arange(len(targets))
    assert report.text is not None
    assert report.text.comparison is not None
    assert report.text.original is not None
    assert report.text.protocol.num_tokens_scored == len(targets)
    assert report.text.perplexity.token.value == pytest.approx(np.exp(-ours[rows, targets].mean()), rel=1e-4)
    assert report.text.original.token.value == pytest.approx(np.exp(-theirs[rows, targets].mean()), rel=1e-4)
    kl = stats.entropy(np.exp(theirs), np.exp(ours), axis=1)
    assert report.text.comparison.kl_mean.value == pytest.approx(kl.mean(), rel=0.02)
    assert report.text.comparison.top1.value == pytest.approx((ours.argmax(1) == theirs.argmax(1)).mean(), abs=2e-3)
    assert report.text.perplexity.token.interval == "bootstrap over 24 documents, 100 resamples, seed 0"
    assert len(list(cache.iterdir())) == 1
    side = evaluate(candidate, against=original, text=text, options=EvaluateOptions(**{**fields(QUICK), "seed": 0}))
    assert side.text is not None
    assert side.text.perplexity == report.text.perplexity


def fields(options: EvaluateOptions) -> dict[str, object]:
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


def changed(**changes: object) -> EvaluateOptions:
    return EvaluateOptions(**{**fields(QUICK), **changes})  # type: ignore[arg-type]


def test_stored_and_side_by_side_agree(models: tuple[Path, Path], text: Path, cache: Path) -> None:
    original, candidate = models
    side = evaluate(candidate, against=original, text=text, options=changed(cache_limit="1kB"))
    assert not list(cache.rglob("*.u16"))
    stored = evaluate(candidate, against=original, text=text, options=QUICK)
    assert list(cache.rglob("*.u16"))
    assert side.text is not None
    assert stored.text is not None
    assert side.text.comparison is not None
    assert stored.text.comparison is not None
    assert side.text.perplexity == stored.text.perplexity
    assert side.text.original == stored.text.original
    assert side.text.comparison.kl_mean.value == pytest.approx(stored.text.comparison.kl_mean.value, abs=1e-7)
    assert "side by side" in side.text.comparison.predictions


def test_a_cached_original_is_not_loaded_and_a_changed_one_is(
    models: tuple[Path, Path], text: Path, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, candidate = models
    loaded: list[Path] = []
    alive: list[weakref.ref[LanguageModel]] = []

    def spy(checkpoint, **options):  # type: ignore[no-untyped-def]
        gc.collect()
        assert not any(one() for one in alive), "two models are held at once"
        loaded.append(checkpoint.folder)
        model = load(checkpoint, **options)
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(subject, "load", spy)
    first = evaluate(candidate, against=original, text=text, golden=golden, options=QUICK)
    assert loaded == [original, candidate]
    second = evaluate(candidate, against=original, text=text, golden=golden, options=QUICK)
    assert loaded == [original, candidate, candidate]
    assert first.text == second.text
    assert first.golden == second.golden
    write_tiny_llama(original, seed=5)
    evaluate(candidate, against=original, text=text, golden=golden, options=QUICK)
    assert loaded[3:] == [original, candidate]


def test_golden_answers_are_the_models_greedy_ones(models: tuple[Path, Path], golden: Path) -> None:
    original, candidate = models
    report = evaluate(candidate, against=original, golden=golden, options=QUICK)
    assert report.text is None
    assert report.golden is not None
    model = load(original, compute="float32")
    for answer, line in zip(report.golden.answers, golden.read_text().splitlines(), strict=True):
        ids = model.tokenizer.encode_chat(json.loads(line)["messages"])
        chosen: list[int] = []
        while len(chosen) < 3:
            *_, (_, _, logits) = model.score([ids + chosen])
            chosen.append(int(logits[-1].argmax()))
            if chosen[-1] in model.stop_ids:
                break
        assert answer.original is not None
        assert answer.original.strip() == model.tokenizer.decode(chosen)
    assert [task.task for task in report.golden.tasks] == ["count", "echo", "all"]


def test_the_report_is_strict_json(models: tuple[Path, Path], text: Path, golden: Path) -> None:
    original, candidate = models
    report = evaluate(candidate, against=original, text=text, golden=golden, options=changed(max_golden=1))
    found = json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert found["passed"] is True
    assert found["text"]["protocol"]["text_sha256"] == report.text.protocol.text_sha256 if report.text else False
    assert found["model"]["compute"] == "float32"
    assert found["model"]["formats"] == {"bfloat16": 14}
    assert found["golden"]["tasks"][0]["exact_match"]["num_samples"] == 1
    assert isinstance(report, EvaluationReport)


@pytest.mark.parametrize(
    ("gate", "passed"), [("max_ppl_ratio: 5\nmin_golden: {all: 0}", True), ("max_kl: 0\nmax_ppl_ratio: 5", False)]
)
def test_a_gate_decides(models: tuple[Path, Path], text: Path, golden: Path, gate: str, passed: bool) -> None:
    path = text.with_name("gate.yaml")
    path.write_text(gate)
    report = evaluate(models[1], against=models[0], text=text, golden=golden, options=changed(gate=path))
    assert report.passed is passed


@pytest.fixture
def no_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        subject, "load", lambda *_, **__: pytest.fail("a model was loaded before the request was checked")
    )


@pytest.mark.usefixtures("no_model_runs")
def test_what_cannot_be_done_is_refused_before_any_model_runs(
    models: tuple[Path, Path], text: Path, golden: Path, tmp_path: Path
) -> None:
    original, candidate = models
    gate = tmp_path / "gate.yaml"
    gate.write_text("max_kl: 0.1\nmin_golden: {echo: 0.5}")
    with pytest.raises(DataError, match="nothing to evaluate on"):
        evaluate(candidate)
    with pytest.raises(UsageError, match="the gate compares with an original on a text"):
        evaluate(candidate, text=text, options=changed(gate=gate))
    with pytest.raises(UsageError, match="sets min_golden; give golden prompts"):
        evaluate(candidate, against=original, text=text, options=changed(gate=gate))
    gate.write_text("min_golden: {ecko: 0.5}")
    with pytest.raises(UsageError, match="task 'ecko'; tasks: count, echo, all; did you mean 'echo'"):
        evaluate(candidate, golden=golden, options=changed(gate=gate))
    with pytest.raises(UsageError, match="window=500 is longer than the context of 128 tokens"):
        evaluate(candidate, text=text, options=changed(window=500))
    plain = tmp_path / "plain"
    write_tiny_llama(plain)
    write_word_tokenizer(plain)
    (plain / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    with pytest.raises(UsageError, match="has no chat template"):
        evaluate(plain, golden=golden, options=QUICK)
    with pytest.raises(UsageError, match="size 'much' is not understood"):
        evaluate(candidate, text=text, options=changed(cache_limit="much"))
    write_word_tokenizer(candidate, vocab_size=60)
    with pytest.raises(UsageError, match="cut the text into different tokens"):
        evaluate(candidate, against=original, text=text, options=QUICK)
    long = tmp_path / "long.jsonl"
    long.write_text(golden.read_text().replace("w5 w9", "w5 " * 200))
    with pytest.raises(DataError, match="golden prompt 'g0' has 201 tokens and the context holds 128"):
        evaluate(original, golden=long, options=QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 1}, "window=1 is too small; choose 2 or more"),
        ({"resamples": 5}, "resamples=5 is out of range"),
        ({"confidence": 1.0}, "confidence=1.0 is out of range"),
        ({"chunk_tokens": 0}, "chunk_tokens=0 is too small"),
    ],
)
def test_options_are_checked_at_birth(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        changed(**change)


STORIES = Path(os.environ.get("FLYWEIGHT_TEST_DATA", "")) / "models" / "stories3M"


@pytest.mark.skipif(
    not os.environ.get("FLYWEIGHT_TEST_DATA") or not STORIES.is_dir(),
    reason="needs models/stories3M under FLYWEIGHT_TEST_DATA",
)
def test_a_trained_model_scores_what_transformers_gives_it() -> None:
    """Perplexity 2.96 and 0.394 bits a character, measured with transformers in float32 on the first 200 stories."""
    text = STORIES.parents[1] / "text" / "tinystories_valid.txt"
    options = EvaluateOptions(protocol="documents", window=512, max_documents=200, resamples=100)
    report = evaluate(STORIES, text=text, options=options)
    assert report.text is not None
    assert report.model.compute == "float32"
    assert report.text.perplexity.token.value == pytest.approx(2.96, abs=0.005)
    assert report.text.perplexity.bits_per_byte.value == pytest.approx(0.394, abs=0.001)
