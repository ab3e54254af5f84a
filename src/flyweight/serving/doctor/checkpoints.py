"""Checks of checkpoint folders from strangers: nothing in them is executed, and what lies is refused."""

import json
import shutil
from pathlib import Path

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.demo_model import model_path
from flyweight.engine.load import load
from flyweight.errors import FlyweightError
from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.subject import Subject

REMOTE_CODE = {
    "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model", "AutoTokenizer": ["code.T", None]},
    "trust_remote_code": True,
    "custom_pipelines": {"x": {"impl": "code.P"}},
}


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
    for name in ("code.py", "modeling_code.py", "configuration_code.py", "__init__.py", "setup.py", "conftest.py"):
        (folder / name).write_text(code)
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **REMOTE_CODE}))
    try:
        model = load(folder)
        model.generate(["2 + 2 ="])
        found = "loaded"
    except FlyweightError as error:
        found = str(error)
    trials.expect(
        not witness.exists(),
        tried="a checkpoint with auto_map and code",
        found=f"{found}; code ran",
        wanted="no code runs",
    )
    shutil.rmtree(folder)


def file_parsing(subject: Subject, trials: Trials) -> None:
    """vLLM CVE-2026-53923; llama.cpp TALOS-2024-1912…1916 (CVE-2024-21802, -21836, -23496, …), CVE-2025-49847 (vocab),
    CVE-2025-52566/GHSA-7rxv-5jhh-j6xx (tokenizer), CVE-2025-53630, CVE-2026-27940, CVE-2026-33298,
    GHSA-vgg9-87g3-85w8, GHSA-96jg-mvhq-q7q7; Ollama CVE-2026-7482, CVE-2024-39720/1/2, CVE-2025-0315, CVE-2025-1975,
    CVE-2025-15514."""
    folder = subject.work / "damaged"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((model_path() / "config.json").read_text())
    for name, content in _damaged_files().items():
        (folder / "model.safetensors").write_bytes(content)
        trials.expect(
            _refuses(folder), tried=f"safetensors: {name}", found="another error, or none", wanted="a refusal"
        )
    shutil.copyfile(model_path() / "model.safetensors", folder / "model.safetensors")
    for name, text in (
        ("not JSON", "{"),
        ("nested", '{"a":' * 100_000 + "1" + "}" * 100_000),
        ("a list", "[]"),
        ("bytes that are no text", "\udcff"),
    ):
        (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        trials.expect(
            _refuses(folder), tried=f"config.json: {name}", found="another error, or none", wanted="a refusal"
        )
    shutil.rmtree(folder)


def _damaged_files() -> dict[str, bytes]:
    def header(entry: object, size: int = 8) -> bytes:
        text = json.dumps(entry).encode()
        return len(text).to_bytes(8, "little") + text + bytes(size)

    def tensor(shape: list[int], offsets: list[int], dtype: str = "F32") -> bytes:
        return header({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})

    text = (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    )
    return {
        "empty": b"",
        "half a length": b"\x01\x00",
        "a header longer than the file": (2**40).to_bytes(8, "little") + b"{}",
        "a header of 2^64": b"\xff" * 8 + b"{}",
        "offsets past the end": tensor([2], [0, 2**40]),
        "offsets backwards": tensor([2], [8, 0]),
        "a negative offset": tensor([2], [-8, 0]),
        "a product of dimensions that overflows": tensor([2**32, 2**32], [0, 8]),
        "a negative dimension": tensor([-2], [0, 8]),
        "a million dimensions": tensor([1] * 1_000_000 + [2], [0, 8]),
        "an unknown type": tensor([2], [0, 8], "PICKLE"),
        "a name twice": len(text).to_bytes(8, "little") + text + bytes(8),
        "nested": (200_000).to_bytes(8, "little") + b"[" * 200_000,
        "zeros": bytes(4096),
    }


def _refuses(folder: Path) -> bool:
    try:
        Checkpoint.open(folder)
    except FlyweightError as error:
        return str(error).isprintable()
    except Exception:  # noqa: BLE001 - anything but our own error is what is looked for
        return False
    return False
