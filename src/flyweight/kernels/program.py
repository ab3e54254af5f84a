"""A whole step of a model in one native call: a list of instructions over matrices of activations.

The builder's methods append instructions; what each computes is the kernel of the same name. It knows no model: who
builds a program decides what is computed and where every matrix lies (``Place``), and that no result overwrites what
is still read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.attention import INT32, INT64, check_bounds, check_cache, check_sequences
from flyweight.kernels.cache_layout import CACHE_TYPES, Cache, CacheLayout
from flyweight.kernels.checks import FLOAT32, Array, Float32, as_words, check_array, check_writable, choose, float_name
from flyweight.kernels.elementwise import ACTIVATIONS
from flyweight.kernels.linear import STORAGES

RegionName = Literal["tokens", "outputs", "hidden", "logits"]
REGIONS = {name: getattr(_native.Region, name) for name in ("tokens", "outputs", "hidden", "logits")}
NativePlace = tuple[_native.Region, int, int, int]
FLOAT64 = np.dtype(np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a matrix of float32 activations lies.

    Attributes:
        region: ``tokens`` and ``outputs`` are arenas of the program whose matrices have a row for each token or each
            wanted output of a step; ``hidden`` and ``logits`` are the caller's, with a row for each output.
        offset: where its buffer begins, in numbers per row of the region.
        stride: numbers from one row of the buffer to the next.
        column: where the matrix begins in its buffer's rows.
    """

    region: RegionName
    offset: int
    stride: int
    column: int = 0

    @property
    def native(self) -> NativePlace:
        return REGIONS[self.region], self.offset, self.stride, self.column


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeRows:
    """Rotations of one step: cosines and sines float32 (angles known, rotary_dim / 2), and int32 (tokens,), which row
    of them each token is rotated by."""

    cosine: Float32
    sine: Float32
    rows: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepArrays:
    """A step's tokens: the fields of the same name of ``kernels.attend`` and ``kernels.cache_write``, and

    token_ids    int32 (tokens,)
    output_rows  int64 (outputs,), the tokens that what follows ``select`` is computed for
    ropes        one for each number given to ``heads``
    """

    token_ids: NDArray[np.int32]
    query_starts: NDArray[np.int32]
    context_lengths: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    slots: NDArray[np.int64]
    output_rows: NDArray[np.int64]
    ropes: Sequence[RopeRows]


class Program:
    """Instructions in order; ``begin_head`` parts what needs the step from what needs hidden rows only."""

    def __init__(self, *, hidden_size: int, logits_size: int, rotary_dims: Sequence[int]) -> None:
        self._native = _native.Program()
        self._hidden_size, self._logits_size = hidden_size, logits_size
        self._rotary_dims = tuple(rotary_dims)
        self._vocab_size = 0
        self._cache_shape: tuple[int, int] | None = None  # blocks, tokens in each

    def __len__(self) -> int:
        return len(self._native)

    def embed(self, table: Array, scale: float, out: Place) -> None:
        """Rows ``token_ids`` of ``table`` (vocabulary, width; float32, float16 or bfloat16), times ``scale``."""
        storage = choose("table dtype", float_name("table", table), STORAGES)
        check_array("table", table, table.dtype, (None, out.stride))
        self._vocab_size = table.shape[0]
        self._native.embed(as_words(table), storage, scale, out.native)

    def embed_from_file(
        self, *, descriptor: int, offset: int, vocab_size: int, dtype: np.dtype[Any], scale: float, out: Place
    ) -> None:
        """As :meth:`embed`, of a table whose rows are read one by one from an open file, in which it begins at byte
        ``offset``. Nothing of it stays in memory; the caller keeps the file open."""
        if dtype.name not in STORAGES:
            raise KernelError(f"dtype {dtype.name} is not allowed for an embedding; choose {', '.join(STORAGES)}")
        self._vocab_size = vocab_size
        self._native.embed_from_file(
            descriptor, offset, vocab_size, out.stride, STORAGES[dtype.name], scale, out.native
        )

    def linear(self, handle: _native.LinearHandle, bias: Float32 | None, x: Place, out: Place) -> None:
        if bias is not None:
            check_array("bias", bias, FLOAT32, (handle.out_features,))
        self._native.linear(handle, bias, x.native, out.native)

    def heads(
        self,
        x: Place,
        out: Place,
        *,
        heads: int,
        head_dim: int,
        weight: Float32 | None = None,
        epsilon: float = 0.0,
        weight_offset: float = 0.0,
        rope: int | None = None,
    ) -> None:
        """Each of the ``heads`` parts of a row: ``rms_norm`` if there is a weight, then ``rope`` by the step's rotation
        of that number unless it is None. With neither, a copy."""
        if weight is not None:
            check_array("weight", weight, FLOAT32, (head_dim,))
        rotary_dim = 0 if rope is None else self._rotary_dims[rope]
        if rotary_dim > head_dim:
            raise KernelError(f"rotary_dim={rotary_dim} is more than head_dim={head_dim}")
        number = -1 if rope is None else rope
        self._native.heads(x.native, out.native, heads, head_dim, weight, epsilon, weight_offset, number, rotary_dim)

    def attend(
        self,
        q: Place,
        k: Place,
        v: Place,
        out: Place,
        *,
        num_heads: int,
        cache: Cache,
        layout: CacheLayout,
        scale: float,
        softcap: float,
        window: int,
    ) -> None:
        """``cache_write`` of k and v, then ``attend``; all four matrices without gaps."""
        check_cache(cache, layout)
        check_writable("cache", cache)
        num_blocks, block_size, head_dim = len(cache), layout.block_size, layout.head_dim
        for name, matrix, heads in (
            ("q", q, num_heads),
            ("k", k, layout.kv_heads),
            ("v", v, layout.kv_heads),
            ("out", out, num_heads),
        ):
            if matrix.stride != heads * head_dim:
                raise KernelError(
                    f"{name} has rows of {matrix.stride}; {heads} heads of {head_dim} without gaps are needed"
                )
        if self._cache_shape not in (None, (num_blocks, block_size)):
            raise KernelError(
                f"the cache has {num_blocks} blocks of {block_size} tokens; all layers need {self._cache_shape}"
            )
        self._cache_shape = num_blocks, block_size
        self._native.attend(
            q.native,
            k.native,
            v.native,
            out.native,
            num_heads,
            cache,
            CACHE_TYPES[layout.kv_dtype],
            head_dim,
            block_size,
            scale,
            softcap,
            window,
        )

    def act_mul(self, x: Place, out: Place, activation: str) -> None:
        """``act_mul`` of ``x``, gate and up without gaps; ``out`` may be ``x``, whose gate it then overwrites."""
        if x != out and x.stride != 2 * out.stride:
            raise KernelError(f"gate and up have rows of {x.stride}; twice the {out.stride} of the result is needed")
        self._native.act_mul(x.native, out.native, x.stride // 2, choose("activation", activation, ACTIVATIONS))

    def add(self, x: Place, y: Place, out: Place, scale: float) -> None:
        """``x + scale * y``, matrices without gaps; ``out`` may be ``x`` or ``y``."""
        self._native.add(x.native, y.native, out.native, _same_stride(x, y, out), scale)

    def cap(self, x: Place, out: Place, scale: float, softcap: float) -> None:
        """As ``kernels.cap``; ``out`` may be ``x``."""
        self._native.cap(x.native, out.native, _same_stride(x, out), scale, softcap)

    def select(self, x: Place, out: Place) -> None:
        """The rows ``output_rows`` of ``x``, a matrix with a row for each token."""
        self._native.select(x.native, out.native, _same_stride(x, out))

    def begin_head(self) -> None:
        """What is appended from here on reads ``hidden`` rows only."""
        self._native.begin_head()

    def run(
        self, step: StepArrays, hidden: Float32, logits: Float32 | None = None, seconds: Array | None = None
    ) -> None:
        """Run a step. Only one runs at a time; others wait.

        Args:
            hidden: where the hidden rows go, float32 (outputs, hidden_size).
            logits: where the logits go, float32 (outputs, vocab_size); None: the head does not run.
            seconds: float64 (instructions,); each instruction's time is added to its element.

        Raises:
            KernelError: a wrong dtype, shape or layout, or a step that contradicts itself or exceeds the vocabulary
                or the cache; then nothing was written. Or a file of embedding rows that cannot be read.
        """
        tokens, outputs = step.token_ids.shape[0], step.output_rows.shape[0]
        sequences = step.context_lengths.shape[0]
        check_array("token_ids", step.token_ids, INT32, (None,))
        check_array("query_starts", step.query_starts, INT32, (sequences + 1,))
        check_array("context_lengths", step.context_lengths, INT32, (sequences,))
        check_array("block_tables", step.block_tables, INT32, (sequences, None))
        check_array("slots", step.slots, INT64, (tokens,))
        check_array("output_rows", step.output_rows, INT64, (None,))
        _check_results("hidden", hidden, (outputs, self._hidden_size))
        if logits is not None:
            _check_results("logits", logits, (outputs, self._logits_size))
        if seconds is not None:
            check_array("seconds", seconds, FLOAT64, (len(self),))
        ropes = []
        for rope, rotary_dim in zip(step.ropes, self._rotary_dims, strict=True):
            check_array("cosine", rope.cosine, FLOAT32, (None, rotary_dim // 2))
            check_array("sine", rope.sine, FLOAT32, rope.cosine.shape)
            check_array("rows", rope.rows, INT32, (tokens,))
            ropes.append((rope.cosine, rope.sine, rope.rows))
        try:
            done = self._native.run(
                step.token_ids,
                step.query_starts,
                step.context_lengths,
                step.block_tables,
                step.slots,
                step.output_rows,
                ropes,
                hidden,
                logits,
                seconds,
            )
        except RuntimeError as error:
            raise KernelError(str(error)) from None
        if not done:
            self._explain(step)

    def run_head(self, hidden: Float32, logits: Float32) -> None:
        """The head alone, on rows of ``hidden``."""
        check_array("hidden", hidden, FLOAT32, (None, self._hidden_size))
        _check_results("logits", logits, (hidden.shape[0], self._logits_size))
        self._native.run_head(hidden, logits)

    def _explain(self, step: StepArrays) -> None:
        """Say why the native side refused a step: it only looks, in a fraction of the time that this takes."""
        tokens = step.token_ids.shape[0]
        check_bounds("token_ids", step.token_ids, self._vocab_size, "the embedding has that many rows")
        check_bounds("output_rows", step.output_rows, tokens, "the step has that many tokens")
        num_blocks, block_size = self._cache_shape if self._cache_shape is not None else (0, 0)
        check_sequences(step.query_starts, step.context_lengths, tokens, step.block_tables.shape[1] * block_size)
        check_bounds("block_tables", step.block_tables, num_blocks, "the cache has that many blocks")
        check_bounds("slots", step.slots, num_blocks * block_size, "the cache has that many slots")
        for rope in step.ropes:
            check_bounds("rope rows", rope.rows, rope.cosine.shape[0], "the table has that many rows")
        raise AssertionError("the native side refused a step that the checks accept")


def _same_stride(first: Place, *others: Place) -> int:
    for other in others:
        if other.stride != first.stride:
            raise KernelError(
                f"matrices with rows of {first.stride} and {other.stride}; they must be alike, without gaps"
            )
    return first.stride


def _check_results(name: str, array: Array, shape: tuple[int, int]) -> None:
    check_array(name, array, FLOAT32, shape)
    check_writable(name, array)
