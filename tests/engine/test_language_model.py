"""A loaded model against transformers: logits of given tokens in any chunking, greedy answers, alone and in batches."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flyweight.engine.generation import Completion
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.load import load
from flyweight.engine.options import EngineOptions, default_step_tokens
from flyweight.engine.request import Request
from flyweight.engine.sampling import SamplingOptions
from flyweight.engine.scheduler import SchedulerPolicy
from flyweight.errors import CheckpointError, ResourceError, UnsupportedModelError, UsageError
from tests.support.checkpoints import tiny_llama_config, write_tiny_llama, write_word_tokenizer

DATA = Path(os.environ.get("FLYWEIGHT_TEST_DATA", "/nonexistent"))
STORIES = DATA / "models" / "stories3M"
needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason="FLYWEIGHT_TEST_DATA does not hold models/stories3M")
GREEDY = SamplingOptions(max_tokens=20, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_llama(path, num_layers=2, tied=False)
    write_word_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return load(folder)


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread() -> Iterator[None]:
    """Torch's threads wait actively: on a busy machine of two cores tiny steps would take seconds."""
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_prompts(count: int, *, low: int = 1, high: int = 40, vocab: int = 128, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, vocab, rng.integers(low, high)).tolist() for _ in range(count)]


def their_model(folder: Path) -> Any:
    torch = pytest.importorskip("torch")
    return pytest.importorskip("transformers").AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def their_answer(theirs: Any, prompt: list[int], max_tokens: int, stop_ids: list[int] | None = None) -> list[int]:
    torch = pytest.importorskip("torch")
    ids = torch.tensor([prompt])
    out = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=stop_ids,
        pad_token_id=0,
    )
    answer: list[int] = out[0, len(prompt) :].tolist()
    return answer


def gathered(model: LanguageModel, sequences: list[list[int]], chunk_tokens: int) -> list[Any]:
    """The chunks of ``score`` put together, checked to come in order."""
    found: list[list[Any]] = [[] for _ in sequences]
    last = (0, 0)
    for index, first, logits in model.score(sequences, chunk_tokens=chunk_tokens):
        assert (index, first) >= last
        assert logits.dtype == np.float32
        assert first == sum(len(part) for part in found[index])
        last = (index, first)
        found[index].append(logits)
    return [np.concatenate(parts) if parts else np.zeros((0, model.spec.vocab_size)) for parts in found]


@pytest.mark.parametrize("chunk_tokens", [1, 7, 64, 1000])
def test_scores_are_the_logits_of_transformers_in_any_chunking(
    model: LanguageModel, folder: Path, chunk_tokens: int
) -> None:
    torch = pytest.importorskip("torch")
    theirs = their_model(folder)
    sequences = [*random_prompts(5), [], random_prompts(1, low=100, high=101)[0]]
    free = model.engine.pool.num_free
    for tokens, ours in zip(sequences, gathered(model, sequences, chunk_tokens), strict=True):
        assert len(ours) == len(tokens)
        if tokens:
            with torch.no_grad():
                expected = theirs(torch.tensor([tokens])).logits[0].numpy()
            np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert model.engine.pool.num_free == free


def test_scoring_holds_few_logits_at_once(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from flyweight.engine import scoring

    monkeypatch.setattr(scoring, "LOGIT_BYTES", 4 * 128 * 10)
    rows = [(first, len(logits)) for _, first, logits in model.score([[5] * 25], chunk_tokens=20)]
    assert rows == [(0, 10), (10, 10), (20, 5)]


def test_scored_sequences_give_their_blocks_to_the_next(folder: Path) -> None:
    small = load(folder, cache_tokens=96)
    sequences = random_prompts(30, low=1, high=96)
    for chunk_tokens in (10, 16, 512):
        found = gathered(small, sequences, chunk_tokens)
        assert [len(logits) for logits in found] == [len(tokens) for tokens in sequences]
    assert small.engine.pool.num_free == 3


def test_a_score_that_is_not_read_to_the_end_gives_the_cache_back(model: LanguageModel) -> None:
    free = model.engine.pool.num_free
    scores = model.score([[5] * 100], chunk_tokens=16)
    next(scores)
    assert model.engine.pool.num_free < free
    scores.close()  # type: ignore[attr-defined]
    assert model.engine.pool.num_free == free


def test_greedy_answers_are_those_of_transformers(model: LanguageModel, folder: Path) -> None:
    theirs = their_model(folder)
    prompts = random_prompts(8)
    for prompt, ours in zip(prompts, model.generate(prompts, GREEDY, batch_size=3), strict=True):
        assert list(ours.token_ids) == their_answer(theirs, prompt, 20)


@pytest.mark.parametrize("options", [GREEDY, SamplingOptions(temperature=1.0, top_p=0.95, seed=5, max_tokens=20)])
def test_a_batch_gives_the_answers_of_single_prompts(model: LanguageModel, options: SamplingOptions) -> None:
    prompts = random_prompts(9, seed=1)
    together = model.generate(prompts, options, batch_size=4)
    for prompt, ours in zip(prompts, together, strict=True):
        [alone] = model.generate([prompt], options)
        assert (alone.text, alone.token_ids, alone.finish_reason) == (ours.text, ours.token_ids, ours.finish_reason)
        pieces = list(model.stream(prompt, options))
        assert "".join(piece.text for piece in pieces) == ours.text
        assert [piece.token_id for piece in pieces] == list(ours.token_ids)
        assert [piece.completion is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]


@needs_stories
def test_a_trained_model_tells_the_story_that_transformers_tells() -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = load(STORIES), their_model(STORIES)
    prompts = ["Once upon a time", "Lily and Tom went to the", "The dog"]
    for prompt, completion in zip(prompts, ours.generate(prompts, SamplingOptions(max_tokens=150)), strict=True):
        ids, answer = ours.encode(prompt), list(completion.token_ids)
        assert answer[:40] == their_answer(theirs, ids, 40, sorted(ours.stop_ids))
        with torch.no_grad():  # each token is the most likely one after all before it: one pass instead of 150
            logits = theirs(torch.tensor([ids + answer])).logits[0]
        assert answer == logits[len(ids) - 1 : -1].argmax(dim=-1).tolist()
        assert prompt + completion.text == ours.tokenizer.decode(ids + answer)


@needs_stories
def test_stop_strings_end_an_answer_across_tokens() -> None:
    model = load(STORIES)
    plain = last(model, "Once upon a time", SamplingOptions(max_tokens=60))
    for stop in (" girl named", "rl na", ". She"):
        place = plain.text.index(stop)
        pieces = list(model.stream("Once upon a time", SamplingOptions(max_tokens=60, stop=("never said", stop))))
        completion = pieces[-1].completion
        assert completion is not None
        assert (completion.finish_reason, completion.stop_string) == ("stop", stop)
        assert completion.text == "".join(piece.text for piece in pieces) == plain.text[:place]


def test_what_was_held_back_is_shown_when_the_answer_ends(model: LanguageModel) -> None:
    plain = last(model, [5, 6], GREEDY)
    held = SamplingOptions(max_tokens=20, ignore_eos=True, stop=(plain.text[-3:] + "and more",))
    assert last(model, [5, 6], held).text == plain.text


def last(model: LanguageModel, prompt: Any, options: SamplingOptions) -> Completion:
    *_, piece = model.stream(prompt, options)
    assert piece.completion is not None
    return piece.completion


def test_each_prompt_may_have_its_own_options(model: LanguageModel) -> None:
    prompts = random_prompts(2)
    short, long = model.generate(prompts, [SamplingOptions(max_tokens=3), SamplingOptions(max_tokens=9)])
    assert (len(short.token_ids), len(long.token_ids)) == (3, 9)
    with pytest.raises(UsageError, match="1 options were given for 2 prompts"):
        model.generate(prompts, [GREEDY])


def test_prompts_are_text_conversations_or_ids(model: LanguageModel) -> None:
    assert model.encode("w3 w4") == [3, 4]
    assert model.encode([{"role": "w5", "content": "w6"}]) == [5, 6]
    assert model.encode(np.array([3, 4])) == [3, 4]
    assert last(model, "w3 w4", GREEDY).token_ids == last(model, [3, 4], GREEDY).token_ids
    with pytest.raises(UsageError, match=r"a prompt is a string, a list of token ids, or a list of messages"):
        model.encode(["w3"])  # type: ignore[list-item]


def test_prompts_are_refused_before_anything_is_computed(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "forward", lambda batch: pytest.fail("it computed"))
    with pytest.raises(UsageError, match="the prompt has 200 tokens and the context holds 128"):
        model.generate([[5], [5] * 200], GREEDY)
    with pytest.raises(UsageError, match="token id 128 is outside the model's vocabulary; ids go from 0 to 127"):
        model.stream([5, 128])
    with pytest.raises(UsageError, match="token id -1 is outside"):
        model.generate([[-1]])
    with pytest.raises(UsageError, match="a sequence has 129 tokens and the context holds 128"):
        next(iter(model.score([[5] * 129])))
    with pytest.raises(UsageError, match="no tokens"):
        model.stream([])


def test_a_lazy_tokenizer_is_read_for_text_and_not_for_ids(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
        load(tmp_path)
    model = load(tmp_path, tokenizer="lazy")
    assert next(model.score([[1, 2, 3]]))[2].shape == (3, model.spec.vocab_size)
    options = SamplingOptions(max_tokens=2).with_defaults(model.default_options)
    model.engine.add(Request(token_ids=(1, 2, 3), options=options))
    assert [len(event.token_ids) for event in [*model.engine.step(), *model.engine.step()]] == [1, 1]
    for use in (lambda: model.encode("hello"), lambda: model.generate([[1, 2]]), lambda: model.stop_ids):
        with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
            use()
    write_word_tokenizer(tmp_path)
    model = load(tmp_path, tokenizer="lazy")
    assert model.stop_ids == load(tmp_path).stop_ids
    assert last(model, "w3 w4", GREEDY).text == last(load(tmp_path), "w3 w4", GREEDY).text


def test_a_model_without_a_tokenizer_takes_ids(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    model = load(tmp_path)
    assert len(last(model, [5, 6], GREEDY).token_ids) == 20
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json, so it takes token ids only"):
        model.stream("w3")


def test_end_tokens_come_from_every_file(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    write_word_tokenizer(tmp_path)
    assert load(tmp_path).stop_ids == {1, 2}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 77], "do_sample": True}))
    model = load(tmp_path)
    assert model.stop_ids == {1, 2, 77}
    assert model.default_options.temperature == 1.0
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": "end"}))
    with pytest.raises(CheckpointError, match="eos_token_id is 'end'; it must be an id or a list of ids"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_stored_dtype_and_compute_runs(tmp_path: Path, dtype: str, tied: bool) -> None:
    pytest.importorskip("torch")
    write_tiny_llama(tmp_path, dtype=dtype, tied=tied)
    tokens = random_prompts(1, low=30)[0]
    [expected] = gathered(load(tmp_path, backend="torch", compute="float32"), [tokens], 16)
    for compute, limit in (("float32", 1e-4), ("bfloat16", 0.15)):
        for kv_dtype in ("float32", "bfloat16"):
            model = load(tmp_path, compute=compute, kv_dtype=kv_dtype)  # type: ignore[arg-type]
            [ours] = gathered(model, [tokens], 16)
            tolerance = max(limit, 0.05 if kv_dtype == "bfloat16" else 0.0)
            assert np.abs(ours - expected).max() < tolerance * np.abs(expected).max()


def test_the_torch_backend_gives_the_same_answers(model: LanguageModel, folder: Path) -> None:
    pytest.importorskip("torch")
    theirs = load(folder, backend="torch")
    prompts = random_prompts(3)
    for ours, other in zip(model.generate(prompts, GREEDY), theirs.generate(prompts, GREEDY), strict=True):
        assert ours.token_ids == other.token_ids


def test_moving_frequencies_see_whole_prompts(tmp_path: Path) -> None:
    config = {**tiny_llama_config(max_positions=32), "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}
    write_tiny_llama(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, theirs = load(tmp_path, engine=EngineOptions(step_tokens=4)), their_model(tmp_path)
    model.context_length = 64  # the frequencies move only beyond the trained length
    prompt = random_prompts(1, low=40, high=41)[0]
    torch = pytest.importorskip("torch")
    with torch.no_grad():  # before it generates: transformers keeps the frequencies of its longest sequence
        expected = theirs(torch.tensor([prompt])).logits[0].numpy()
    np.testing.assert_allclose(gathered(model, [prompt], 4)[0], expected, atol=1e-4)
    answer = last(model, prompt, SamplingOptions(max_tokens=3, ignore_eos=True))
    assert list(answer.token_ids) == their_answer(theirs, prompt, 3)


def test_the_log_says_first_what_runs(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="flyweight"):
        model = load(folder, cache_tokens=100)
    machine, formats, weights, cache, engine = model.description
    assert [record.getMessage() for record in caplog.records[:5]] == [machine, formats, weights, cache, engine]
    assert "kernels " in machine
    assert machine.endswith("threads")
    assert formats == "llama, 2 blocks on native kernels; linear layers: 14 float32 in float32; head float32"
    assert weights.startswith("weights ")
    assert cache.startswith("KV cache float32, 128 tokens in 65.5 kB; ")
    assert engine == "engine: up to 1 sequences and 2048 tokens a step, continuous batching, prefix caching on"


def test_a_small_cache_limits_the_context(folder: Path) -> None:
    model = load(folder, cache_tokens=40)
    assert model.context_length == 64
    assert last(model, [5] * 56, GREEDY).usage.completion_tokens == 8
    with pytest.raises(UsageError, match="the prompt has 64 tokens and the context holds 64"):
        model.stream([5] * 64)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"compute": "int4"}, UsageError, "compute='int4' is unknown; choose auto, float32, bfloat16, int8"),
        ({"backend": "cuda"}, UsageError, "backend='cuda' is unknown; choose native or torch"),
        ({"kv_dtype": "int3"}, UsageError, "kv_dtype='int3' is unknown; choose auto, float32"),
        ({"cache_tokens": 1}, UsageError, "cache_tokens=1 is not allowed; choose 32 or more"),
        ({"cache_tokens": 10**15}, ResourceError, "choose fewer cache_tokens"),
        ({"backend": "torch", "compute": "int8"}, UsageError, "compute='int8' is not available with backend='torch'"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(
    folder: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        load(folder, **options)
    assert message in str(caught.value)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    config = {**tiny_llama_config(), "model_type": "lama"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=r"unknown model_type 'lama'.*did you mean 'llama'"):
        load(tmp_path)


@pytest.fixture(scope="module")
def exact(folder: Path) -> LanguageModel:
    """In batch-invariant mode, with a cache in which few answers fit at once."""
    options = EngineOptions(max_sequences=6, step_tokens=24, policy=SchedulerPolicy(watermark=0.0))
    return load(folder, batch_invariant=True, cache_tokens=208, engine=options)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_does_not_depend_on_what_runs_beside_it(exact: LanguageModel, temperature: float) -> None:
    shared = random_prompts(1, low=40, high=41)[0]
    prompts = [[*shared, *own] for own in random_prompts(4, high=20)] + random_prompts(6, low=20, seed=3)
    options = [
        SamplingOptions(max_tokens=40, ignore_eos=True, temperature=temperature, seed=seed, logprobs=1)
        for seed in range(len(prompts))
    ]
    exact.open_engine()
    alone = []
    for prompt, one in zip(prompts, options, strict=True):
        exact.engine.forget_prefixes()
        alone += exact.generate([prompt], one)
    hits = exact.engine.pool.statistics.hits
    together = exact.generate(prompts, options)
    static = EngineOptions(max_sequences=3, step_tokens=64, policy=SchedulerPolicy(batching="static", watermark=0.0))
    metrics = exact.engine.metrics()
    assert metrics.preemptions > 0, "the cache was to be short"
    assert exact.engine.pool.statistics.hits > hits
    exact.engine.check_integrity()
    exact.open_engine(static)
    in_groups = exact.generate(prompts, options)
    for found in (together, in_groups):
        for ours, theirs in zip(found, alone, strict=True):
            assert (ours.token_ids, ours.text) == (theirs.token_ids, theirs.text)
            assert ours.log_probabilities == theirs.log_probabilities  # bit for bit


def test_a_conversation_computes_only_what_is_new(model: LanguageModel) -> None:
    first = random_prompts(1, low=70, high=71, seed=4)[0]
    size = model.engine.pool.block_size
    answer = last(model, first, GREEDY)
    again = last(model, [*first, *answer.token_ids, 5, 6], GREEDY)
    assert answer.usage.cached_tokens == 0
    assert again.usage.cached_tokens == (70 + 19) // size * size
    assert last(model, first, GREEDY).usage.cached_tokens == 69 // size * size
    [other] = model.generate([first], GREEDY, salt="other")
    assert other.usage.cached_tokens == 0
    assert other.token_ids == answer.token_ids


def test_prefix_caching_can_be_switched_off(folder: Path) -> None:
    model = load(folder, engine=EngineOptions(prefix_caching=False))
    prompt = random_prompts(1, low=40, high=41)[0]
    assert [last(model, prompt, GREEDY).usage.cached_tokens for _ in range(2)] == [0, 0]
    assert model.engine.metrics().findable_blocks == 0
    assert model.description[-1].endswith("prefix caching off")


def test_samples_are_side_by_side_and_share_their_prompt(model: LanguageModel) -> None:
    prompts = random_prompts(2, low=40, high=60, seed=5)
    options = SamplingOptions(max_tokens=9, ignore_eos=True, temperature=1.0, seed=3)
    model.open_engine()
    found = model.generate(prompts, options, samples=3)
    assert len({one.token_ids for one in found}) == 6
    assert [one.usage.prompt_tokens for one in found] == [len(prompts[0])] * 3 + [len(prompts[1])] * 3
    assert all(one.usage.cached_tokens >= 32 for one in [*found[1:3], *found[4:6]])
    assert found[0].token_ids == model.generate(prompts[:1], options)[0].token_ids
    with pytest.raises(UsageError, match="samples=0 is not allowed; choose 1 or more"):
        model.generate(prompts, options, samples=0)


def test_streams_may_be_read_in_turns(model: LanguageModel) -> None:
    prompts = random_prompts(3, seed=6)
    alone = [last(model, prompt, GREEDY).token_ids for prompt in prompts]
    streams = [model.stream(prompt, GREEDY) for prompt in prompts]
    found: list[list[int]] = [[], [], []]
    for _ in range(20):
        for tokens, stream in zip(found, streams, strict=True):
            tokens.append(next(stream).token_id)
    assert [tuple(tokens) for tokens in found] == alone
    half = model.stream(prompts[0], GREEDY)
    next(half)
    assert model.engine.has_work
    with pytest.raises(UsageError, match="the engine has requests that have not ended"):
        model.open_engine()
    half.close()
    assert not model.engine.has_work
    assert model.engine.metrics().held_blocks == 0


def test_sizes_are_chosen_by_model_and_cache(folder: Path) -> None:
    spec = load(folder).spec
    chosen = EngineOptions().for_model(spec, cache_tokens=1024, threads=2, isa="avx2")
    assert (chosen.max_sequences, chosen.step_tokens) == (4, 2048)
    assert chosen.policy.long_prefill_tokens == 1024
    given = EngineOptions(max_sequences=7, step_tokens=9).for_model(spec, cache_tokens=1024, threads=2, isa="avx2")
    assert (given.budget.sequences, given.budget.tokens) == (7, 9)
    large = SimpleNamespace(linears=[SimpleNamespace(in_features=10_000, out_features=20_000)])
    steps = {isa: default_step_tokens(large, 2, isa) for isa in ("generic", "avx2", "avx512")}
    assert steps == {"generic": 128, "avx2": 960, "avx512": 1472}
    for name in ("max_sequences", "step_tokens"):
        with pytest.raises(UsageError, match=f"{name}=0 is not allowed; choose 1 or more"):
            EngineOptions(**{name: 0})
