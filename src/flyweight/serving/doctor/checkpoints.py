"""Checks of checkpoint folders from strangers: nothing in them is executed, and what lies is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.demo_model import model_path
from flyweight.engine.load import load
from flyweight.errors import FlyweightError
from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.subject import Subject

# Names that no other module has: one that is imported already would not be executed again.
REMOTE_CODE = {
    "auto_map": {
        "AutoConfig": "configuration_stranger.Config",
        "AutoModelForCausalLM": "modeling_stranger.Model",
        "AutoTokenizer": ["tokenization_stranger.T", None],
    },
    "trust_remote_code": True,
    "custom_pipelines": {"x": {"impl": "modeling_stranger.P"}},
}
CODE_FILES = (
    "configuration_stranger.py", "modeling_stranger.py", "tokenization_stranger.py", "__init__.py", "setup.py",
    "conftest.py", "sitecustomize.py",
)  # fmt: skip
PICKLE_FILES = (
    "pytorch_model.bin",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pth",
    "tokenizer.pkl",
    "model.ckpt",
)


def remote_code(subject: Subject, trials: Trials) -> None:
    """CVE-2025-66448, CVE-2026-22807, CVE-2026-27893, CVE-2026-4944 (`trust_remote_code` bypasses);
    GHSA-h3rc-6mm3-gc2m (mm_processor_kwargs); CVE-2026-54232 (dependency confusion); CVE-2025-9141 (`eval()` in
    qwen3_coder tool parser)."""
    folder, witness = subject.work / "remote-code", subject.work / "executed"
    folder.mkdir(parents=True)
    for path in model_path().iterdir():
        if path.suffix in (".json", ".safetensors"):
            shutil.copyfile(path, folder / path.name)
    code = f"open({str(witness)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\nclass T: pass\nclass P: pass\n"
    for name in CODE_FILES:
        (folder / name).write_text(code)
    for name in PICKLE_FILES:  # opens the witness when it is read
        (folder / name).write_bytes(b"cbuiltins\nopen\n(V" + str(witness).encode("raw_unicode_escape") + b"\nVw\ntR.")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **REMOTE_CODE}))
    try:
        model = load(folder)
        model.generate(["2 + 2 ="])
        found = "it answers"
    except FlyweightError as error:
        found = str(error)
    tried = "a checkpoint with auto_map, code and pickles"
    trials.expect(not witness.exists(), tried=tried, found=f"{found}; code ran", wanted="no code runs")
    # Refused for another reason, it would say nothing about code.
    trials.expect(found == "it answers", tried=tried, found=found, wanted="that it answers without them")
    shutil.rmtree(folder)
    witness.unlink(missing_ok=True)


def file_parsing(subject: Subject, trials: Trials) -> None:
    """vLLM CVE-2026-53923; llama.cpp TALOS-2024-1912…1916 (CVE-2024-21802, -21836, -23496, …), CVE-2025-49847 (vocab),
    CVE-2025-52566/GHSA-7rxv-5jhh-j6xx (tokenizer), CVE-2025-53630, CVE-2026-27940, CVE-2026-33298,
    GHSA-vgg9-87g3-85w8, GHSA-96jg-mvhq-q7q7; Ollama CVE-2026-7482, CVE-2024-39720/1/2, CVE-2025-0315, CVE-2025-1975,
    CVE-2025-15514."""
    folder = subject.work / "damaged"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((model_path() / "config.json").read_text())
    weights, outside = folder / "model.safetensors", subject.work / "outside.safetensors"
    for name, (content, says) in _damaged_files().items():
        weights.write_bytes(content)
        _expect_refusal(trials, folder, f"safetensors: {name}", says)
    shutil.copyfile(model_path() / weights.name, outside)
    weights.unlink()
    name_of_tensor = Checkpoint.open(model_path()).names[0]
    (folder / ".hidden.safetensors").symlink_to(outside)
    for shard in ("../outside.safetensors", str(outside), ".hidden.safetensors", "\x1b[2J.safetensors", "a.pkl"):
        index = {"weight_map": {name_of_tensor: shard}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        _expect_refusal(trials, folder, f"an index that names {shard!r}", "not the name of a .safetensors file")
    (folder / "model.safetensors.index.json").unlink()
    shutil.move(outside, weights)
    for name, (text, says) in _damaged_configs().items():
        (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        _expect_refusal(trials, folder, f"config.json: {name}", says)
    shutil.rmtree(folder)


def _damaged_configs() -> dict[str, tuple[str, str]]:
    """Texts of config.json, and what each is refused for."""
    return {
        "not JSON": ("{", "is not valid JSON"),
        "nested": ('{"a":' * 100_000 + "1" + "}" * 100_000, "is not valid JSON"),
        "a list": ("[]", "holds a JSON list"),
        "bytes that are no text": ("\udcff", "is not valid JSON"),
    }


def _damaged_files() -> dict[str, tuple[bytes, str]]:
    """Weights, and what each is refused for: another check must not be what refuses them."""

    def header(entry: object, size: int = 8) -> bytes:
        text = json.dumps(entry).encode()
        return len(text).to_bytes(8, "little") + text + bytes(size)

    def tensor(shape: list[Any], offsets: list[int], dtype: str = "F32") -> bytes:
        return header({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})

    def two(first: list[int], second: list[int], size: int) -> bytes:
        entries = {
            name: {"dtype": "U8", "shape": [8], "data_offsets": at} for name, at in (("a", first), ("b", second))
        }
        return header(entries, size)

    text = (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    )
    return {
        "empty": (b"", "not even the 8 of the header length"),
        "half a length": (b"\x01\x00", "not even the 8 of the header length"),
        "a header longer than the file": ((2**20).to_bytes(8, "little") + b"{}", "but has only 2 after it"),
        "a header of 2^64": (b"\xff" * 8 + b"{}", "at most 100000000 are allowed"),
        "offsets past the end": (tensor([2**38], [0, 2**40]), "is truncated"),
        "more bytes than its shape": (tensor([1], [0, 8]), "needs 4"),
        "offsets backwards": (tensor([2], [8, 0]), "begin <= end"),
        "a negative offset": (tensor([2], [-8, 0]), "begin <= end"),
        "a product of dimensions that overflows": (tensor([2**32, 2**32], [0, 8]), "larger than any array"),
        "a negative dimension": (tensor([-2, -1], [0, 8]), "non-negative integers"),
        "a dimension that is true": (tensor([True, 2], [0, 8]), "non-negative integers"),
        "a million dimensions": (tensor([1] * 1_000_000 + [2], [0, 8]), "at most 32"),
        "an unknown type": (tensor([2], [0, 8], "PICKLE"), "which is not known"),
        "tensors that overlap": (two([0, 8], [4, 12], 12), "overlap"),
        "a hole between tensors": (two([0, 8], [12, 20], 20), "a hole of 4 bytes"),
        "bytes behind the last tensor": (two([0, 8], [8, 16], 20), "that belong to none"),
        "a name that is not text": (header({"\x1b[2J": {}}, 0), "not printable text"),
        "a name twice": (len(text).to_bytes(8, "little") + text + bytes(8), "appears twice"),
        "nested": ((200_000).to_bytes(8, "little") + b'{"a":' + b"[" * 199_995, "is not valid JSON"),
        "a list": ((2).to_bytes(8, "little") + b"[]", "starts with"),
        "a number that is none": ((9).to_bytes(8, "little") + b'{"a":NaN}', "is no JSON number"),
        "a header that is no text": ((8).to_bytes(8, "little") + b'{"\xff":{}}', "is not UTF-8"),
        "an entry without a type": (header({"a": {"shape": [2], "data_offsets": [0, 8]}}), "needed: data_offsets"),
        "metadata that are no texts": (header({"__metadata__": {"a": 1}}, 0), "map names to strings"),
        "zeros": (bytes(4096), "starts with"),
    }


def _expect_refusal(trials: Trials, folder: Path, tried: str, says: str) -> None:
    try:
        Checkpoint.open(folder)
        found = "nothing refuses it"
    except FlyweightError as error:
        found = str(error)
    except Exception as error:  # noqa: BLE001 - anything but our own error is what is looked for
        found = f"{type(error).__name__}, which nobody expects"
    trials.expect(
        says in found and found.isprintable(), tried=tried, found=found[:200], wanted=f"a refusal that says {says!r}"
    )
