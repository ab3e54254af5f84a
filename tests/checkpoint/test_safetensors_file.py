"""Reading and writing safetensors: against the safetensors library both ways, and every refusal by its message."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from support.checkpoints import encode_safetensors, safetensors_bytes

from flyweight.checkpoint import safetensors_file
from flyweight.checkpoint.safetensors_file import SafetensorsFile, free_bytes, write_safetensors
from flyweight.checkpoint.safetensors_header import DTYPES
from flyweight.errors import CheckpointError, ResourceError

REMEDY = "the file is damaged or is no safetensors file: download the shard again"


def example_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "f64": rng.standard_normal((3, 2)),
        "f32": rng.standard_normal((2, 3, 4)).astype(np.float32),
        "f16": rng.standard_normal((5,)).astype(np.float16),
        "bf16": rng.standard_normal((4, 3)).astype(ml_dtypes.bfloat16),
        "e4m3": rng.standard_normal((4,)).astype(ml_dtypes.float8_e4m3fn),
        "e5m2": rng.standard_normal((4,)).astype(ml_dtypes.float8_e5m2),
        "i64": rng.integers(-(2**62), 2**62, (2, 2)),
        "i32": rng.integers(-9, 9, (3,)).astype(np.int32),
        "i16": rng.integers(-9, 9, (3,)).astype(np.int16),
        "i8": rng.integers(-9, 9, (7,)).astype(np.int8),
        "u64": rng.integers(0, 9, (3,)).astype(np.uint64),
        "u32": rng.integers(0, 9, (3,)).astype(np.uint32),
        "u16": rng.integers(0, 9, (3,)).astype(np.uint16),
        "u8": rng.integers(0, 9, (3,)).astype(np.uint8),
        "bool": np.array([True, False, True]),
        "scalar": np.array(2.5, np.float32),
        "empty": np.empty((0, 4), np.float32),
    }


def write(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(safetensors_bytes(text, data))
    return path


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


# --- reading what others wrote ------------------------------------------------------------------------------------


def test_reads_every_dtype_in_every_way(tmp_path):
    tensors = example_tensors()
    path = tmp_path / "a.safetensors"
    path.write_bytes(encode_safetensors(tensors, {"format": "pt"}))
    file = SafetensorsFile(path)
    assert set(file.names) == set(tensors)
    assert file.metadata == {"format": "pt"}
    for name, tensor in tensors.items():
        assert file.dtype(name) == tensor.dtype
        assert file.shape(name) == tensor.shape
        assert file.tensor_bytes(name) == tensor.nbytes
        for found in (file.read(name), file.tensor(name)):
            assert found.dtype == tensor.dtype
            assert found.shape == tensor.shape
            assert found.flags.aligned
            assert found.tobytes() == tensor.tobytes()
        assert b"".join(chunk.tobytes() for chunk in file.chunks(name, chunk_bytes=8)) == tensor.tobytes()
    assert np.array_equal(file.read_rows("bf16", 1, 3), tensors["bf16"][1:3])
    assert file.read_rows("f32", 2, 2).shape == (0, 3, 4)


def test_reads_what_the_safetensors_library_writes(tmp_path):
    path = tmp_path / "theirs.safetensors"
    tensors = {"a": torch.randn(5, 7), "b": torch.randn(3).bfloat16(), "c": torch.arange(4), "d": torch.tensor([True])}
    safetensors.torch.save_file(tensors, path, {"made": "there"})
    file = SafetensorsFile(path)
    assert file.metadata == {"made": "there"}
    for name, tensor in tensors.items():
        assert file.read(name).astype(np.float64).tolist() == tensor.double().tolist()


def test_knows_every_dtype_that_the_library_has_and_numpy_can_hold():
    assert set(DTYPES) >= {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "BOOL"}
    for bits in (8, 16, 32, 64):
        assert {f"I{bits}", f"U{bits}"} <= set(DTYPES)


def test_mapped_views_cannot_be_written_and_copies_can(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(encode_safetensors({"x": np.arange(4, dtype=np.float32)}))
    file = SafetensorsFile(path)
    with pytest.raises(ValueError, match="read-only"):
        file.tensor("x")[0] = 1
    copy = file.read("x")
    copy[0] = 7
    assert file.tensor("x")[0] == 0


def test_reading_leaves_no_resident_memory_behind(tmp_path):
    """64 MB are read tensor by tensor; the process may not grow by more than a few chunks."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(encode_safetensors({f"x{i}": np.ones(1 << 20, np.float32) for i in range(16)}))
    script = (
        "import sys\n"
        "from flyweight.checkpoint.safetensors_file import SafetensorsFile\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "file = SafetensorsFile(sys.argv[1])\n"
        "file.read('x0'); before = resident()\n"
        "total = sum(float(file.read(n).sum()) for n in file.names)\n"
        "total += sum(float(c.sum()) for n in file.names for c in file.chunks(n))\n"
        "print(total, resident() - before)\n"
    )
    printed = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True).stdout
    total, growth = printed.split()
    assert float(total) == 2 * 16 * (1 << 20)
    assert int(growth) < 24 << 20


def test_the_file_may_be_deleted_while_it_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(encode_safetensors({"x": np.arange(4)}))
    file = SafetensorsFile(path)
    path.unlink()
    assert file.read("x").tolist() == [0, 1, 2, 3]


def test_a_file_that_shrinks_after_opening(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(encode_safetensors({"x": np.arange(4)}))
    file = SafetensorsFile(path)
    os.truncate(path, file.nbytes - 8)
    with pytest.raises(CheckpointError, match=r"ended at byte .* while tensor 'x' was read.*download the shard again"):
        file.read("x")


def test_unaligned_data_is_copied(tmp_path):
    data = np.arange(2, dtype=np.float32).tobytes()
    path = write(tmp_path / "a.safetensors", json.dumps({"x": entry()}).encode() + b" ", data)
    assert SafetensorsFile(path).tensor("x").tolist() == [0, 1]
    assert SafetensorsFile(path).tensor("x").flags.aligned


# --- writing ------------------------------------------------------------------------------------------------------


def test_the_safetensors_library_reads_what_we_write(tmp_path):
    tensors = example_tensors()
    path = tmp_path / "ours.safetensors"
    size = write_safetensors(path, tensors, {"format": "pt", "a": "ü"})
    assert size == path.stat().st_size
    with safetensors.safe_open(path, framework="pt") as theirs:
        assert theirs.metadata() == {"format": "pt", "a": "ü"}
        assert set(theirs.keys()) == set(tensors)
        for name, tensor in tensors.items():
            found = theirs.get_tensor(name)
            assert tuple(found.shape) == tensor.shape
            if tensor.size:
                assert found.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() == tensor.tobytes()
    ours = SafetensorsFile(path)
    assert all(ours.read(name).tobytes() == tensor.tobytes() for name, tensor in tensors.items())


def test_bytes_do_not_depend_on_the_order_given(tmp_path):
    tensors = example_tensors()
    write_safetensors(tmp_path / "a", tensors, {"x": "1", "y": "2"})
    write_safetensors(tmp_path / "b", dict(reversed(tensors.items())), {"y": "2", "x": "1"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_data_starts_aligned_and_stays_so(tmp_path):
    write_safetensors(tmp_path / "a", example_tensors())
    length = int.from_bytes((tmp_path / "a").read_bytes()[:8], "little")
    assert length % 8 == 0
    file = SafetensorsFile(tmp_path / "a")
    for name in file.names:
        if file.tensor_bytes(name):
            assert not file.tensor(name).flags.writeable, f"{name} was copied, so it is not aligned in the file"


def test_strided_arrays_are_written_in_their_own_order(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_safetensors(tmp_path / "a", {"t": array.T, "s": array[::2, 1:]})
    file = SafetensorsFile(tmp_path / "a")
    assert np.array_equal(file.read("t"), array.T)
    assert np.array_equal(file.read("s"), array[::2, 1:])


def test_tensors_of_other_files_are_copied_piece_by_piece(tmp_path):
    tensors = example_tensors()
    write_safetensors(tmp_path / "a", tensors)
    file = SafetensorsFile(tmp_path / "a")
    write_safetensors(tmp_path / "b", {name: file.lazy(name) for name in file.names})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_dtype_that_cannot_be_stored(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"tensor 'x' has dtype complex64, which safetensors cannot store; allowed: F64"
    ):
        write_safetensors(tmp_path / "a", {"x": np.zeros(2, np.complex64)})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"what was there before")
    real = os.write

    def write_some(descriptor, data):
        if len(data) > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(safetensors_file.os, "write", write_some)
    with pytest.raises(
        ResourceError,
        match=rf"{re.escape(str(tmp_path))}/a cannot be written: No space left on device; it needs \d+ bytes and \d+ "
        "are free: make room or choose another folder",
    ):
        write_safetensors(tmp_path / "a", {"x": np.zeros(4096, np.uint8)})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"what was there before"


def test_a_limit_of_the_system_is_told_like_a_full_disk(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(ResourceError, match="File too large"):
            write_safetensors(tmp_path / "a", {"x": np.zeros(1 << 20, np.uint8)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing_behind(tmp_path):
    class Interrupted:
        dtype, shape = np.dtype(np.uint8), (10,)

        def chunks(self):
            yield np.zeros(5, np.uint8)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "a", {"x": Interrupted()})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(CheckpointError, match=r"none/a cannot be written: No such file or directory; choose a folder"):
        write_safetensors(tmp_path / "none" / "a", {"x": np.zeros(1)})


def test_free_bytes_of_a_folder_to_be_made(tmp_path):
    assert free_bytes(tmp_path / "to" / "be" / "made") > 0


# --- what is refused ----------------------------------------------------------------------------------------------


def test_no_such_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"none.safetensors cannot be opened: No such file or directory; check"):
        SafetensorsFile(tmp_path / "none.safetensors")


def test_a_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot be read: Is a directory; it must be a file"):
        SafetensorsFile(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes, not even the 8 of the header length"),
        (b"\x10\0\0", "has 3 bytes, not even the 8 of the header length"),
        (b"\xff" * 8 + b"{}", "states a header of 18446744073709551615 bytes; at most 100000000 are allowed"),
        ((100_000_001).to_bytes(8, "little"), "states a header of 100000001 bytes; at most 100000000 are allowed"),
        ((5).to_bytes(8, "little") + b"{}", "states a header of 5 bytes but has only 2 after it"),
        ((0).to_bytes(8, "little"), "has a header that starts with b''; a JSON object starts with '{'"),
        (safetensors_bytes(b" {}", b""), "has a header that starts with b' '; a JSON object starts with '{'"),
        (safetensors_bytes(b"[]", b""), "has a header that starts with b'['"),
        (safetensors_bytes(b'{"\xff": 1}', b""), "has a header that is not UTF-8 at byte 2"),
        (safetensors_bytes(b'{"a": ', b""), "has a header that is not valid JSON (Expecting value"),
        (safetensors_bytes(b"{}x", b""), "has a header that is not valid JSON (Extra data"),
        (safetensors_bytes(b'{"a": NaN}', b""), "has a header that is not valid JSON (NaN is no JSON number)"),
        (safetensors_bytes(b'{"a":' + b"[" * 100_000, b""), "has a header that is not valid JSON (maximum recursion"),
        (
            safetensors_bytes(b'{"a":' + b"9" * 5000 + b"}", b""),
            "has a header that is not valid JSON (Exceeds the limit",
        ),
    ],
)
def test_a_damaged_beginning(tmp_path, content, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile(path)
    assert f"{path} {message}" in str(caught.value)
    assert str(caught.value).endswith(REMEDY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "data_bytes", "message"),
    [
        (b'{"x":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, "the key 'dtype' appears twice"),
        (b'{"x":{},"x":{}}', 8, "the key 'x' appears twice"),
        ({"__metadata__": {"a": 1}}, 0, "has a __metadata__ that does not map names to strings"),
        ({"__metadata__": []}, 0, "has a __metadata__ that does not map names to strings"),
        ({"a\nb": entry()}, 8, r"names a tensor 'a\nb', which is not printable text"),
        (b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, r"names a tensor '\ud800', which is not"),
        ({"x": None}, 0, "describes tensor 'x' by None; needed: data_offsets, dtype, shape"),
        ({"x": {}}, 0, "describes tensor 'x' by nothing; needed: data_offsets, dtype, shape"),
        ({"x": {"dtype": "F32", "shape": [2]}}, 8, "describes tensor 'x' by 'dtype', 'shape'; needed: data_offsets,"),
        ({"x": {**entry(), "strides": [1]}}, 8, "describes tensor 'x' by 'data_offsets', 'dtype', 'shape', 'strides'"),
        ({"x": entry(shape=2)}, 8, "gives tensor 'x' the shape 2; needed: at most 32 non-negative integers"),
        ({"x": entry(shape=[-2])}, 8, "gives tensor 'x' the shape [-2]; needed"),
        ({"x": entry(shape=[2.0])}, 8, "gives tensor 'x' the shape [2.0]; needed"),
        ({"x": entry(shape=[True])}, 8, "gives tensor 'x' the shape [True]; needed"),
        ({"x": entry(shape=["2"])}, 8, "gives tensor 'x' the shape ['2']; needed"),
        ({"x": entry(shape=[1] * 33)}, 8, "gives tensor 'x' the shape [1, 1, 1, 1, 1, 1, 1, 1, ...]; needed"),
        ({"x": entry(shape=[0, 2**61, 2**61], offsets=[0, 0])}, 0, "larger than any array can be"),
        ({"x": entry(shape=[2**40, 2**40])}, 8, "larger than any array can be"),
        (
            {"x": entry(offsets=[8, 0])},
            8,
            "places tensor 'x' at data_offsets [8, 0]; needed: [begin, end], begin <= end",
        ),
        ({"x": entry(offsets=[-8, 0])}, 8, "places tensor 'x' at data_offsets [-8, 0]; needed"),
        ({"x": entry(offsets=[0])}, 8, "places tensor 'x' at data_offsets [0]; needed"),
        ({"x": entry(offsets=[0, 8, 8])}, 8, "places tensor 'x' at data_offsets [0, 8, 8]; needed"),
        ({"x": entry(offsets=[0, 10**30])}, 8, "places tensor 'x' at data_offsets [0, 1000"),
        ({"x": entry(offsets="08")}, 8, "places tensor 'x' at data_offsets '08'; needed"),
        ({"x": entry(offsets=[0, 4])}, 4, "gives tensor 'x' 4 bytes, but shape [2] of dtype F32 needs 8"),
        ({"x": entry(dtype="F64")}, 8, "gives tensor 'x' 8 bytes, but shape [2] of dtype F64 needs 16"),
        ({"x": entry(), "y": entry()}, 8, "lets tensor 'y' overlap tensor 'x': it begins at 0, before 8"),
        (
            {"x": entry(), "y": entry(offsets=[4, 12])},
            12,
            "lets tensor 'y' overlap tensor 'x': it begins at 4, before 8",
        ),
        ({"x": entry(offsets=[4, 12])}, 12, "leaves a hole of 4 bytes between the header and tensor 'x'"),
        ({"x": entry(), "y": entry(offsets=[9, 17])}, 17, "leaves a hole of 1 bytes between tensor 'x' and tensor 'y'"),
        ({"x": entry()}, 9, "has 1 bytes after the last tensor that belong to none"),
        ({}, 3, "has 3 bytes after the last tensor that belong to none"),
    ],
)
def test_a_header_that_lies(tmp_path, header, data_bytes, message):
    path = write(tmp_path / "a.safetensors", header, bytes(data_bytes))
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path} ")
    assert str(caught.value).endswith(REMEDY)
    assert "\n" not in str(caught.value)


def test_a_truncated_file(tmp_path):
    path = tmp_path / "a.safetensors"
    whole = encode_safetensors({"x": np.arange(4, dtype=np.float32)})
    path.write_bytes(whole[:-5])
    with pytest.raises(
        CheckpointError, match=rf"is truncated: 5 of {len(whole)} bytes are missing at its end.*download"
    ):
        SafetensorsFile(path)


@pytest.mark.parametrize(
    ("dtype", "hint"), [("F33", "; did you mean 'F32'?"), (7, ""), ("F4", "; did you mean 'F64'?")]
)
def test_an_unknown_dtype(tmp_path, dtype, hint):
    path = write(tmp_path / "a.safetensors", {"x": entry(dtype=dtype)}, bytes(8))
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile(path)
    assert f"holds tensor 'x' of dtype {dtype!r}, which is not known; known: F64, F32, F16, BF16" in str(caught.value)
    assert f"{hint}; convert the tensor, or download the shard again" in str(caught.value)


def test_an_unknown_tensor_and_rows_that_do_not_exist(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(encode_safetensors({"model.norm.weight": np.zeros((3, 2))}))
    file = SafetensorsFile(path)
    with pytest.raises(CheckpointError, match=r"holds no tensor 'model.norm'; did you mean 'model.norm.weight'\?"):
        file.read("model.norm")
    with pytest.raises(CheckpointError, match=r"rows 1 to 4 of tensor 'model.norm.weight' do not exist: it has 3 rows"):
        file.read_rows("model.norm.weight", 1, 4)
