"""Every architecture against transformers: random weights, saved to disk, read by us, logits compared.

Each case runs a prefill of two sequences of different length in one batch, then the same sequences token by token
from a short prefix, and asserts the largest difference to transformers' float32 eager path. The cases choose sizes
where a slip shows: windows smaller than the prompt, contexts beyond the trained length, odd head sizes.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle needs the torch extra")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle")

from tokenizers import Tokenizer  # noqa: E402

from flyweight.checkpoint.huggingface import Checkpoint  # noqa: E402
from flyweight.checkpoint.weights import Weights  # noqa: E402
from flyweight.models import read_spec  # noqa: E402
from flyweight.models.spec import AttentionSpec, BlockSpec, ModelSpec  # noqa: E402
from flyweight.runtime.decoder import run_model  # noqa: E402
from flyweight.runtime.kv_cache import KVCache  # noqa: E402
from flyweight.runtime.native_ops import NativeOps, PreparedWeights  # noqa: E402
from flyweight.runtime.native_program import NativeRuntime  # noqa: E402
from flyweight.runtime.ops import Ops  # noqa: E402
from flyweight.runtime.runner import OpByOp  # noqa: E402
from flyweight.runtime.sequences import CachedSequence, FreeBlocks, SequencePlanner  # noqa: E402
from flyweight.runtime.torch_ops import TorchCache, TorchOps  # noqa: E402

TOLERANCE = 1e-4
NUM_BLOCKS, BLOCK_SIZE = 16, 4
PREFIX = 3


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and on a busy machine they wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True, kw_only=True)
class Case:
    model_type: str
    variant: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.model_type}-{self.variant}"


def case(model_type: str, variant: str, **options: Any) -> Case:
    return Case(model_type=model_type, variant=variant, options=options)


def rope(kind: str, **options: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, **options}


FACTORS = {
    "short_factor": [1.0, 1.1, 1.3, 1.4],
    "long_factor": [1.0, 1.5, 3.0, 6.0],
}

CASES = [
    case("llama", "untied"),
    case("llama", "tied-biases", tie_word_embeddings=True, attention_bias=True, mlp_bias=True, num_key_value_heads=1),
    case("llama", "wide-heads", hidden_size=48, num_attention_heads=3, num_key_value_heads=3, head_dim=22),
    case("llama", "gelu", hidden_act="gelu"),
    case("llama", "linear", rope_parameters=rope("linear", factor=4.0)),
    case("llama", "dynamic", rope_parameters=rope("dynamic", factor=3.0), max_position_embeddings=16),
    case(
        "llama",
        "llama3",
        rope_parameters=rope(
            "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
        ),
    ),
    case("llama", "yarn", rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    case(
        "llama",
        "yarn-mscale",
        rope_parameters=rope(
            "yarn",
            factor=4.0,
            original_max_position_embeddings=32,
            mscale=1.2,
            mscale_all_dim=0.7,
            beta_fast=8.0,
            beta_slow=0.5,
            truncate=False,
        ),
    ),
    case("mistral", "window", sliding_window=5),
    case("mistral", "no-window", sliding_window=None, head_dim=24, num_key_value_heads=4),
    case("qwen2", "full", tie_word_embeddings=True),
    case("qwen2", "upper-layers-slide", use_sliding_window=True, sliding_window=6, max_window_layers=1),
    case("qwen3", "head-dim", head_dim=24, num_key_value_heads=1),
    case(
        "qwen3",
        "layer-types",
        head_dim=16,
        attention_bias=True,
        use_sliding_window=True,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    case(
        "gemma2",
        "soft-caps",
        head_dim=24,
        sliding_window=6,
        query_pre_attn_scalar=20,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=4.0,
    ),
    case("gemma2", "no-caps", head_dim=16, sliding_window=9, attn_logit_softcapping=None, final_logit_softcapping=None),
    case("gemma3_text", "pattern", head_dim=24, sliding_window=6, sliding_window_pattern=2, query_pre_attn_scalar=20),
    case(
        "gemma3_text",
        "rope-per-layer-type",
        head_dim=16,
        sliding_window=7,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
        final_logit_softcapping=5.0,
        rope_parameters={
            "full_attention": rope("linear", factor=8.0),
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    ),
    case("gemma3", "wrapper", head_dim=16, sliding_window=6, layer_types=["sliding_attention", "full_attention"] * 2),
    case("phi3", "window", sliding_window=6, pad_token_id=0),
    case(
        "phi3",
        "partial",
        pad_token_id=0,
        tie_word_embeddings=True,
        rope_parameters=rope("default") | {"partial_rotary_factor": 0.75},
    ),
    case(
        "phi3",
        "longrope",
        pad_token_id=0,
        original_max_position_embeddings=16,
        max_position_embeddings=64,
        rope_parameters=rope("longrope", **FACTORS, partial_rotary_factor=0.5),
    ),
    case("smollm3", "no-rope-layers", no_rope_layer_interval=2, pad_token_id=0),
    case(
        "smollm3",
        "sliding",
        no_rope_layers=[1, 0, 1],
        use_sliding_window=True,
        sliding_window=5,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=False,
        pad_token_id=0,
    ),
    case("olmo2", "grouped"),
    case("olmo2", "one-key-head", num_key_value_heads=1, attention_bias=True, tie_word_embeddings=True),
    case(
        "granite",
        "multipliers",
        embedding_multiplier=6.0,
        attention_multiplier=0.11,
        residual_multiplier=0.22,
        logits_scaling=2.5,
        tie_word_embeddings=True,
    ),
    case("granite", "biases", attention_bias=True, mlp_bias=True, attention_multiplier=0.25),
]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A checkpoint on disk, two sequences, and transformers' logits for them: at once, and step by step."""

    folder: Path
    sequences: list[list[int]]
    prefill: list[np.ndarray]  # per sequence (tokens, vocab)
    steps: list[np.ndarray]  # per sequence (tokens - PREFIX + 1, vocab): after the prefix, then after each token


def build(case: Case, folder: Path) -> Any:
    """The randomly initialised transformers model of a case, saved to ``folder``."""
    options = {
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **case.options,
    }
    torch.manual_seed(len(case.name))
    if case.model_type == "gemma3":
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
        options["num_hidden_layers"] = 4
        config = transformers.Gemma3Config(
            text_config=options, vision_config={**vision, "image_size": 28, "patch_size": 14}, image_token_index=96
        )
        model = transformers.Gemma3ForConditionalGeneration._from_config(config, attn_implementation="eager")
    else:
        config = transformers.AutoConfig.for_model(case.model_type, **options)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.5 if "embed_tokens" in name else 0.15 if parameter.ndim == 2 else 0.3
            noise = torch.randn_like(parameter) * spread
            parameter.copy_(noise if parameter.ndim == 2 or name.endswith("bias") else parameter + noise)
    model.eval()
    model.save_pretrained(folder)
    return model


def oracle(model: Any, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        ids = torch.tensor([tokens])
        at_once = model(input_ids=ids, use_cache=False).logits[0].numpy()
        result = model(input_ids=ids[:, :PREFIX], use_cache=True)
        steps = [result.logits[0, -1].numpy()]
        for position in range(PREFIX, len(tokens)):
            result = model(
                input_ids=ids[:, position : position + 1], past_key_values=result.past_key_values, use_cache=True
            )
            steps.append(result.logits[0, -1].numpy())
    return at_once, np.stack(steps)


def example_of(folder: Path, model: Any, sequences: list[list[int]]) -> Example:
    logits = [oracle(model, tokens) for tokens in sequences]
    return Example(
        folder=folder,
        sequences=sequences,
        prefill=[at_once for at_once, _ in logits],
        steps=[steps for _, steps in logits],
    )


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    folder = tmp_path_factory.mktemp(request.param.name)
    model = build(request.param, folder)
    rng = np.random.default_rng(7)
    # The short one first: transformers' dynamic rope keeps the longest length that it has seen.
    return example_of(folder, model, [rng.integers(3, 95, size=length).tolist() for length in (9, 27)])


@pytest.fixture(scope="module", params=["stories260K", "stories3M", "tinystories-656k"])
def trained(request: pytest.FixtureRequest) -> Example:
    data = os.environ.get("FLYWEIGHT_TEST_DATA")
    if data is None or not (Path(data) / "models" / request.param).exists():
        pytest.skip("set FLYWEIGHT_TEST_DATA to the folder that holds models/ to compare trained models")
    folder = Path(data) / "models" / request.param
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stories = ["Tom had a red ball.", "Once upon a time there was a little girl who lived near the big green forest."]
    return example_of(folder, model, [tokenizer.encode(story).ids for story in stories])


def torch_ops(spec: ModelSpec, weights: Weights) -> tuple[Ops, SequencePlanner]:
    cache = TorchCache(spec, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)
    return TorchOps(spec, weights, cache=cache), SequencePlanner(FreeBlocks(NUM_BLOCKS), block_size=BLOCK_SIZE)


def native_ops(spec: ModelSpec, weights: Weights) -> tuple[Ops, SequencePlanner]:
    cache = KVCache(spec.blocks, num_blocks=4)
    return NativeOps(PreparedWeights.prepare(spec, weights, "float32"), cache), SequencePlanner.of(cache)


BACKENDS: dict[str, Callable[[ModelSpec, Weights], tuple[Ops, SequencePlanner]]] = {
    "torch": torch_ops,
    "native": native_ops,
}


def compare(example: Example, backend: str) -> None:
    """Prefill of all sequences in one batch, then token by token, against the example's logits."""
    checkpoint = Checkpoint.open(example.folder)
    spec = read_spec(checkpoint.config)
    assert spec.unread_keys == ()
    ops, planner = BACKENDS[backend](spec, Weights.open(checkpoint, spec))

    assert np.std(example.prefill[1]) > 0.5, "logits too small for an absolute tolerance to mean anything"
    together = [CachedSequence(), CachedSequence()]
    logits = np.asarray(run_model(spec, ops, planner.plan(together, example.sequences, all_logits=True)))
    assert np.abs(logits - np.concatenate(example.prefill)).max() < TOLERANCE
    for sequence in together:
        planner.release(sequence)

    stepping = [CachedSequence(), CachedSequence()]
    prefixes = [tokens[:PREFIX] for tokens in example.sequences]
    logits = np.asarray(run_model(spec, ops, planner.plan(stepping, prefixes)))
    assert np.abs(logits - [steps[0] for steps in example.steps]).max() < TOLERANCE
    for position in range(PREFIX, max(len(tokens) for tokens in example.sequences)):
        rows = [row for row, tokens in enumerate(example.sequences) if position < len(tokens)]
        batch = planner.plan([stepping[row] for row in rows], [[example.sequences[row][position]] for row in rows])
        logits = np.asarray(run_model(spec, ops, batch))
        expected = [example.steps[row][position - PREFIX + 1] for row in rows]
        assert np.abs(logits - expected).max() < TOLERANCE, f"at position {position}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_agree_with_transformers(example: Example, backend: str) -> None:
    compare(example, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_trained_models_agree_with_transformers(trained: Example, backend: str) -> None:
    compare(trained, backend)


def slips(spec: ModelSpec) -> Iterator[tuple[str, ModelSpec]]:
    """Specs that are wrong in one way each, for every option this spec makes use of."""

    def attention_slip(change: Callable[[AttentionSpec], AttentionSpec]) -> ModelSpec:
        return block_slip(lambda block: replace(block, attention=change(block.attention)))

    def block_slip(change: Callable[[BlockSpec], BlockSpec]) -> ModelSpec:
        return replace(spec, blocks=tuple(change(block) for block in spec.blocks))

    def wider(attention: AttentionSpec) -> AttentionSpec:
        return replace(attention, window=attention.window + 1 if attention.window else 0)

    attentions = [block.attention for block in spec.blocks]
    ropes = [attention.rope for attention in attentions if attention.rope is not None]
    yield "scale", attention_slip(lambda attention: replace(attention, scale=attention.scale * 1.1))
    if any(attention.window for attention in attentions):
        yield "window", attention_slip(wider)
    if any(attention.softcap for attention in attentions):
        yield "attention soft cap", attention_slip(lambda attention: replace(attention, softcap=0.0))
    if attentions[0].query_norm is not None:
        yield "query norm", attention_slip(lambda attention: replace(attention, query_norm=None))
        yield "key norm", attention_slip(lambda attention: replace(attention, key_norm=None))
    if any(rope.kind != "default" for rope in ropes):
        yield (
            "rope kind",
            attention_slip(
                lambda attention: replace(attention, rope=attention.rope and replace(attention.rope, kind="default"))
            ),
        )
    if len(ropes) < len(attentions) or len(set(ropes)) > 1:
        yield "rope of layers", attention_slip(lambda attention: replace(attention, rope=ropes[0]))
    if ropes[0].rotary_dim < attentions[0].head_dim and ropes[0].kind == "default":
        whole = replace(ropes[0], rotary_dim=attentions[0].head_dim)
        yield "partial rotation", attention_slip(lambda attention: replace(attention, rope=whole))
    if spec.blocks[0].post_mlp_norm is not None:
        yield "post norms", block_slip(lambda block: replace(block, post_attention_norm=None, post_mlp_norm=None))
    if spec.blocks[0].residual_scale != 1.0:
        yield "residual scale", block_slip(lambda block: replace(block, residual_scale=1.0))
    if spec.embedding.scale != 1.0:
        yield "embedding scale", replace(spec, embedding=replace(spec.embedding, scale=1.0))
    if spec.logit_scale != 1.0:
        yield "logit scale", replace(spec, logit_scale=1.0)
    if spec.logit_softcap:
        yield "logit soft cap", replace(spec, logit_softcap=0.0)


def test_every_option_shows_in_the_logits(example: Example) -> None:
    """The comparison above would notice: each option, done wrongly, moves the logits far out of tolerance."""
    checkpoint = Checkpoint.open(example.folder)
    spec = read_spec(checkpoint.config)
    weights = Weights.open(checkpoint, spec)
    planner = SequencePlanner(FreeBlocks(NUM_BLOCKS), block_size=BLOCK_SIZE)
    batch = planner.plan([CachedSequence(), CachedSequence()], example.sequences, all_logits=True)
    ops = TorchOps(spec, weights)
    for name, wrong in slips(spec):
        difference = np.abs(np.asarray(run_model(wrong, ops, batch)) - np.concatenate(example.prefill)).max()
        assert difference > 20 * TOLERANCE, f"a wrong {name} goes unnoticed"


def test_one_call_a_step_gives_the_bits_of_op_by_op(example: Example) -> None:
    """Nothing that an architecture asks for is lost where its step becomes a program."""
    checkpoint = Checkpoint.open(example.folder)
    spec = read_spec(checkpoint.config)
    weights = PreparedWeights.prepare(spec, Weights.open(checkpoint, spec), "float32")
    logits: list[list[np.ndarray]] = []
    for fused in (False, True):
        cache = KVCache(spec.blocks, num_blocks=4)
        planner, sequences = SequencePlanner.of(cache), [CachedSequence(), CachedSequence()]
        runner = NativeRuntime(spec, weights, cache) if fused else OpByOp(spec, NativeOps(weights, cache))
        chunks = [
            [tokens[:PREFIX] for tokens in example.sequences],
            [tokens[PREFIX:-3] for tokens in example.sequences],
        ]
        chunks += [[tokens[place : place + 1 or None] for tokens in example.sequences] for place in (-3, -2, -1)]
        steps = [planner.plan(sequences, chunk, all_logits=len(chunk[0]) > 1) for chunk in chunks]
        logits.append([runner.forward(batch) for batch in steps])
    for apart, together in zip(*logits, strict=True):
        np.testing.assert_array_equal(together, apart)
