"""The compressed-tensors layout: integer weights as vLLM and transformers read them, both ways.

``pack-quantized`` keeps codes as a dense bit stream in ``weight_packed``, ``int-quantized`` (and
``naive-quantized``) as int8 ``weight``; both with ``weight_scale`` and, when asymmetric, ``weight_zero_point``.
It does not know how codes and scales were chosen, nor how files are written.

Source: compressed-tensors 0.20, ``compressors/{pack_quantized,naive_quantized}/base.py``.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from flyweight.checkpoint.compressed_tensors_config import (
    QUANT_METHOD,
    Scheme,
    parse_quantization_config,
    quantization_config,
    storage_of,
)
from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.layouts import LAYOUTS, Activations, Expected
from flyweight.checkpoint.packing import pack, packed_length, padded_length, unpack_any
from flyweight.checkpoint.plain import PlainLayout
from flyweight.checkpoint.safetensors_file import Array
from flyweight.errors import CheckpointError, UnsupportedModelError
from flyweight.formats.base import Format, StoredWeight
from flyweight.formats.int_group import IntGroup
from flyweight.formats.plain import float_name
from flyweight.models.spec import LinearSpec

__all__ = ["CompressedTensorsLayout", "linear_tensors", "quantization_config"]

INT8, INT32, INT64 = np.dtype(np.int8), np.dtype(np.int32), np.dtype(np.int64)


@LAYOUTS.add(QUANT_METHOD)
class CompressedTensorsLayout:
    """A :class:`~flyweight.checkpoint.layouts.Layout` for what llm-compressor and this package write.

    Raises:
        CheckpointError: when ``quantization_config`` is malformed.
        UnsupportedModelError: when it asks for what is not read here.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._plain = PlainLayout(checkpoint)
        source = str(checkpoint.folder / "config.json")
        self._schemes = parse_quantization_config(checkpoint.config["quantization_config"], source)

    def expected(self, linear: LinearSpec) -> Mapping[str, Expected]:
        scheme = self._schemes.scheme_of(linear.name)
        if scheme is None:
            return self._plain.expected(linear)
        out_features, in_features = linear.out_features, linear.in_features
        self._check_divides(scheme, linear)
        self._check_order(linear)
        scales = _scale_shapes(scheme, linear)
        expected = {f"{linear.name}.weight_scale": Expected(shapes=scales)}
        if scheme.storage == "pack-quantized":
            packed = tuple((out_features, words) for words in _word_counts(in_features, scheme.bits))
            expected[f"{linear.name}.weight_packed"] = Expected(shapes=packed, dtypes=(INT32,))
            expected[f"{linear.name}.weight_shape"] = Expected(shapes=((2,),), dtypes=(INT64,))
        else:
            expected[f"{linear.name}.weight"] = Expected(shapes=((out_features, in_features),), dtypes=(INT8,))
        if not scheme.symmetric:
            zero_points = Expected(shapes=scales, dtypes=(INT8,))
            if _packs_zero_points(scheme):
                packed = tuple((words, scales[0][1]) for words in _word_counts(out_features, scheme.bits))
                zero_points = Expected(shapes=packed, dtypes=(INT32,))
            expected[f"{linear.name}.weight_zero_point"] = zero_points
        return expected

    def optional(self, linear: LinearSpec) -> Iterable[str]:
        scheme = self._schemes.scheme_of(linear.name)
        # Older releases stored the zeros of symmetric weights; read() makes sure that they are zeros.
        return () if scheme is None else (f"{linear.name}.weight_zero_point",)

    def format(self, linear: LinearSpec) -> Format:
        scheme = self._schemes.scheme_of(linear.name)
        return self._plain.format(linear) if scheme is None else self._format(scheme, linear)

    def activations(self, linear: LinearSpec) -> Activations:
        scheme = self._schemes.scheme_of(linear.name)
        return "float" if scheme is None else scheme.activations

    def read(self, linear: LinearSpec, *, mapped: bool) -> StoredWeight:
        scheme = self._schemes.scheme_of(linear.name)
        if scheme is None:
            return self._plain.read(linear, mapped=mapped)
        return self._stored(scheme, linear, 0, linear.out_features)

    def read_rows(self, linear: LinearSpec, start: int, stop: int) -> StoredWeight:
        scheme = self._schemes.scheme_of(linear.name)
        if scheme is None:
            return self._plain.read_rows(linear, start, stop)
        return self._stored(scheme, linear, start, stop)

    def _stored(self, scheme: Scheme, linear: LinearSpec, start: int, stop: int) -> StoredWeight:
        """Rows ``start`` to ``stop`` of a quantized weight. Scales and zero points are small: they are read whole."""
        rows = slice(None) if scheme.granularity == "tensor" else slice(start, stop)
        scales = self._scales(scheme, linear)
        tensors = {"codes": self._codes(scheme, linear, start, stop), "scales": scales[rows]}
        zero_points = self._zero_points(scheme, linear, scales.shape)
        if zero_points is not None:
            tensors["zero_points"] = zero_points[rows]
        shape = (stop - start, linear.in_features)
        return StoredWeight(format=self._format(scheme, linear), shape=shape, tensors=tensors)

    def _format(self, scheme: Scheme, linear: LinearSpec) -> IntGroup:
        return IntGroup(
            bits=scheme.bits,
            granularity=scheme.granularity,
            group_size=scheme.group_size,
            symmetric=scheme.symmetric,
            scale_dtype=float_name(self._checkpoint.dtype(f"{linear.name}.weight_scale")),
        )

    def _codes(self, scheme: Scheme, linear: LinearSpec, start: int, stop: int) -> Array:
        if scheme.storage == "pack-quantized":
            stated = self._checkpoint.read(f"{linear.name}.weight_shape").tolist()
            if stated != [linear.out_features, linear.in_features]:
                raise self._fault(
                    f"{linear.name}.weight_shape", f"says {stated}, not {[linear.out_features, linear.in_features]}"
                )
            packed = self._checkpoint.read_rows(f"{linear.name}.weight_packed", start, stop)
            return unpack_any(packed, scheme.bits, linear.in_features)
        codes = self._checkpoint.read_rows(f"{linear.name}.weight", start, stop)
        self._check_range(f"{linear.name}.weight", codes, scheme.bits)
        return codes

    def _scales(self, scheme: Scheme, linear: LinearSpec) -> Array:
        name = f"{linear.name}.weight_scale"
        scales = self._checkpoint.read(name)
        if not np.isfinite(scales.astype(np.float32)).all():
            raise self._fault(name, "holds values that are not finite")
        return scales.reshape(_scale_shapes(scheme, linear)[0] if scheme.granularity != "tensor" else (1, 1))

    def _zero_points(self, scheme: Scheme, linear: LinearSpec, shape: tuple[int, ...]) -> Array | None:
        name = f"{linear.name}.weight_zero_point"
        if scheme.symmetric:
            if name in self._checkpoint and self._checkpoint.read(name).astype(np.float32).any():
                raise self._fault(name, "is not zero although quantization_config says symmetric")
            return None
        stored = self._checkpoint.read(name)
        if _packs_zero_points(scheme):
            return np.ascontiguousarray(unpack_any(np.ascontiguousarray(stored.T), scheme.bits, linear.out_features).T)
        self._check_range(name, stored, scheme.bits)
        return stored.reshape(shape)

    def _check_range(self, name: str, codes: Array, bits: int) -> None:
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        if codes.size and (codes.min() < low or codes.max() > high):
            raise self._fault(
                name, f"holds codes from {codes.min()} to {codes.max()}; {bits} bits hold {low} to {high}"
            )

    def _check_divides(self, scheme: Scheme, linear: LinearSpec) -> None:
        if scheme.group_size is not None and linear.in_features % scheme.group_size:
            raise UnsupportedModelError(
                f"{self._checkpoint.folder}: group_size={scheme.group_size} does not divide in_features="
                f"{linear.in_features} of {linear.name}; only groups of one length are supported"
            )

    def _check_order(self, linear: LinearSpec) -> None:
        if f"{linear.name}.weight_g_idx" in self._checkpoint:
            raise UnsupportedModelError(
                f"{self._checkpoint.folder}: {linear.name}.weight_g_idx is there: the groups follow the activation "
                "order (actorder 'group'), which is not read; quantize again with actorder 'static'"
            )

    def _fault(self, name: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self._checkpoint.folder}: tensor {name} {what}; download the checkpoint again")


def linear_tensors(linear_name: str, stored: StoredWeight, *, activations: Activations = "float") -> dict[str, Array]:
    """The tensors, by full name, that hold a layer's weight in a compressed-tensors checkpoint.

    Integer weights are pack-quantized, or int-quantized where ``activations`` are to be quantized at run time
    (the same choice as :func:`quantization_config` states); a plain weight is ``NAME.weight``.
    """
    layout = stored.format
    if not isinstance(layout, IntGroup):
        return {f"{linear_name}.weight": stored.tensors["weight"]}
    scales, zero_points = stored.tensors["scales"], stored.tensors.get("zero_points")
    if layout.granularity == "tensor":
        scales = scales.reshape(1)
        zero_points = None if zero_points is None else zero_points.reshape(1)
    tensors = {f"{linear_name}.weight_scale": scales}
    if storage_of(activations) == "int-quantized":
        tensors[f"{linear_name}.weight"] = stored.tensors["codes"]
    else:
        tensors[f"{linear_name}.weight_packed"] = pack(stored.tensors["codes"], layout.bits)
        tensors[f"{linear_name}.weight_shape"] = np.array(stored.shape, np.int64)
        if zero_points is not None and layout.granularity != "tensor":
            zero_points = np.ascontiguousarray(pack(np.ascontiguousarray(zero_points.T), layout.bits).T)
    if zero_points is not None:
        tensors[f"{linear_name}.weight_zero_point"] = zero_points
    return tensors


def _packs_zero_points(scheme: Scheme) -> bool:
    """Zero points of pack-quantized weights are packed along the outputs, except a single one."""
    return scheme.storage == "pack-quantized" and scheme.granularity != "tensor"


def _word_counts(count: int, bits: int) -> tuple[int, ...]:
    """Widths of a packed row of ``count`` elements: dense, and as older releases padded it."""
    return tuple(dict.fromkeys((packed_length(count, bits), padded_length(count, bits))))


def _scale_shapes(scheme: Scheme, linear: LinearSpec) -> tuple[tuple[int, ...], ...]:
    """Shapes in which scales may be stored, the usual one first."""
    if scheme.granularity == "tensor":
        return ((1,), (), (1, 1))
    if scheme.group_size is None:
        return ((linear.out_features, 1), (linear.out_features,))
    return ((linear.out_features, linear.in_features // scheme.group_size),)
