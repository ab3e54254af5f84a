"""The torch backend: gradients, bfloat16, chunked prefill, quantized weights, and what it refuses."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import random_llama_tensors, tiny_llama_config, write_checkpoint, write_tiny_llama

torch = pytest.importorskip("torch", reason="the torch backend needs the torch extra")

from flyweight.checkpoint.compressed_tensors import linear_tensors  # noqa: E402
from flyweight.checkpoint.compressed_tensors_config import quantization_config  # noqa: E402
from flyweight.checkpoint.huggingface import Checkpoint  # noqa: E402
from flyweight.checkpoint.weights import Weights  # noqa: E402
from flyweight.formats import IntGroup  # noqa: E402
from flyweight.models import read_spec  # noqa: E402
from flyweight.models.spec import ModelSpec  # noqa: E402
from flyweight.runtime.decoder import run_model  # noqa: E402
from flyweight.runtime.sequences import CachedSequence, FreeBlocks, SequencePlanner  # noqa: E402
from flyweight.runtime.torch_ops import TorchCache, TorchOps  # noqa: E402

TOKENS = [[5, 9, 77, 3, 41, 18, 60, 7, 7, 120, 33], [8, 64, 2, 19]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and on a busy machine they wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_llama(folder, seed=3, tied=False)
    return folder


def opened(folder: Path) -> tuple[ModelSpec, Weights]:
    checkpoint = Checkpoint.open(folder)
    spec = read_spec(checkpoint.config)
    return spec, Weights.open(checkpoint, spec)


def planner() -> SequencePlanner:
    return SequencePlanner(FreeBlocks(12), block_size=4)


def whole_logits(spec: ModelSpec, ops: TorchOps) -> torch.Tensor:
    batch = planner().plan([CachedSequence(), CachedSequence()], TOKENS, all_logits=True)
    logits: torch.Tensor = run_model(spec, ops, batch)
    return logits


def test_gradients_are_those_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle")
    spec, weights = opened(folder)
    ops = TorchOps(spec, weights)
    for parameter in ops.parameters.values():
        parameter.requires_grad_()
    targets = torch.tensor([token for sequence in TOKENS for token in sequence])
    torch.nn.functional.cross_entropy(whole_logits(spec, ops), targets).backward()

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    logits = torch.cat([model(input_ids=torch.tensor([sequence])).logits[0] for sequence in TOKENS])
    torch.nn.functional.cross_entropy(logits, targets).backward()
    expected = dict(model.named_parameters())
    assert set(expected) == set(ops.parameters)
    for name, parameter in ops.parameters.items():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-6, msg=name)


def test_cached_and_uncached_agree_in_any_chunks(folder: Path) -> None:
    spec, weights = opened(folder)
    expected = whole_logits(spec, TorchOps(spec, weights))
    for chunk in (1, 3, 5):
        ops = TorchOps(spec, weights, cache=TorchCache(spec, num_blocks=12, block_size=4))
        cache, sequences, rows = planner(), [CachedSequence(), CachedSequence()], [[], []]
        for start in range(0, len(TOKENS[0]), chunk):
            active = [i for i, tokens in enumerate(TOKENS) if start < len(tokens)]
            pieces = [TOKENS[i][start : start + chunk] for i in active]
            logits = run_model(spec, ops, cache.plan([sequences[i] for i in active], pieces, all_logits=True))
            for i, part in zip(active, torch.split(logits, [len(piece) for piece in pieces]), strict=True):
                rows[i].append(part)
        torch.testing.assert_close(torch.cat(rows[0] + rows[1]), expected, rtol=0, atol=2e-5)


def test_a_sequence_may_lie_anywhere_in_the_cache(folder: Path) -> None:
    spec, weights = opened(folder)
    expected = whole_logits(spec, TorchOps(spec, weights))
    ops = TorchOps(spec, weights, cache=TorchCache(spec, num_blocks=12, block_size=4))
    cache = planner()
    filler = [CachedSequence() for _ in range(4)]
    for sequence in filler:
        cache.grow(sequence, 4)
    for sequence in (filler[0], filler[2]):
        cache.release(sequence)
    sequences = [CachedSequence(), CachedSequence()]
    logits = run_model(spec, ops, cache.plan(sequences, TOKENS, all_logits=True))
    assert sequences[0].blocks != sorted(sequences[0].blocks), "the blocks should be out of order here"
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)


def test_bfloat16_stays_close_and_gives_float32_logits(folder: Path) -> None:
    spec, weights = opened(folder)
    exact = whole_logits(spec, TorchOps(spec, weights))
    cache = TorchCache(spec, num_blocks=12, block_size=4, dtype="bfloat16")
    ops = TorchOps(spec, weights, dtype="bfloat16", cache=cache)
    rounded = whole_logits(spec, ops)
    assert rounded.dtype == torch.float32
    assert ops.parameters["model.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16
    error = (rounded - exact).norm() / exact.norm()
    assert 1e-4 < error < 0.05


def test_quantized_layers_run_as_the_weights_they_stand_for(tmp_path: Path) -> None:
    config = tiny_llama_config()
    tensors = random_llama_tensors(config, seed=5)
    spec = read_spec(config)
    decoded, packed = dict(tensors), dict(tensors)
    layout = IntGroup(bits=4, group_size=32)
    for linear in spec.linears:
        stored = layout.encode(tensors[f"{linear.name}.weight"])
        decoded[f"{linear.name}.weight"] = stored.decode()
        del packed[f"{linear.name}.weight"]
        packed |= linear_tensors(linear.name, stored)
    described = config | {"quantization_config": quantization_config({linear.name: layout for linear in spec.linears})}
    write_checkpoint(tmp_path / "packed", described, packed)
    write_checkpoint(tmp_path / "decoded", config, decoded)
    results = [whole_logits(spec, TorchOps(*opened(tmp_path / name))) for name in ("packed", "decoded")]
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_continuing_without_a_cache_is_refused(folder: Path) -> None:
    spec, weights = opened(folder)
    ops, cache, sequence = TorchOps(spec, weights), planner(), CachedSequence()
    run_model(spec, ops, cache.plan([sequence], [[5, 6]]))
    with pytest.raises(ValueError, match="needs TorchOps"):
        run_model(spec, ops, cache.plan([sequence], [[7]]))


def test_a_cache_refuses_to_cut_gradients_off(folder: Path) -> None:
    spec, weights = opened(folder)
    ops = TorchOps(spec, weights, cache=TorchCache(spec, num_blocks=12, block_size=4))
    ops.parameters["model.layers.0.self_attn.k_proj.weight"].requires_grad_()
    with pytest.raises(ValueError, match="cuts gradients off"):
        whole_logits(spec, ops)
    with torch.no_grad():
        assert np.isfinite(whole_logits(spec, ops).numpy()).all()


def test_without_torch_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from flyweight.errors import UsageError\n"
        "try:\n    import flyweight.runtime.torch_ops\n"
        "except UsageError as error:\n    print(error)\n"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed == "the torch backend needs PyTorch; install it with: pip install 'flyweight[torch]'\n"
