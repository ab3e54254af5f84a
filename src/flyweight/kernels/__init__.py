"""The kernels: typed, checked doors to the native code, numpy arrays in and out.

Every function here has a twin of the same name in ``reference``, ``reference_attention`` or ``reference_sampling``
that defines what it computes. Importing this package picks the instruction set (``FLYWEIGHT_ISA`` caps it) and the
number of threads (``FLYWEIGHT_THREADS`` sets it); where a value cannot be followed, the first use of a kernel raises
KernelError. This package knows no model, no file and no storage format beyond the arrays it is given.
"""

from flyweight.kernels._native import LinearHandle, release_free_memory, share_one_heap
from flyweight.kernels.attention import attend, cache_write, shared_keys
from flyweight.kernels.cache_layout import CACHE_UNIT, KV_DTYPES, Cache, CacheLayout, KVDtype
from flyweight.kernels.codes import unpack_codes
from flyweight.kernels.columns import GptqGroup, ScaleRule, gptq_group
from flyweight.kernels.elementwise import act_mul, add, cap, rms_norm, rope
from flyweight.kernels.gram import gram
from flyweight.kernels.grouping import activation_group
from flyweight.kernels.limits import Limits, measure_limits
from flyweight.kernels.linear import linear, prepare_int_group, prepare_plain
from flyweight.kernels.packed import LAYOUT_VERSION, PackedKind, packed_bits, packed_kind, packed_parts, view_packed
from flyweight.kernels.program import Place, Program, RegionName, RopeRows, StepArrays
from flyweight.kernels.rounding import RoundedWeight, round_weights
from flyweight.kernels.sampling import (
    ChoiceRule,
    Edits,
    LogProbabilities,
    kept_shares,
    random_word,
    sample,
    sample_with_log_probabilities,
)
from flyweight.kernels.selection import (
    available_isas,
    batch_invariant,
    isa,
    select_or_refuse,
    thread_count,
    use_batch_invariant,
    use_isa,
    use_threads,
)

__all__ = [
    "CACHE_UNIT",
    "KV_DTYPES",
    "LAYOUT_VERSION",
    "Cache",
    "CacheLayout",
    "ChoiceRule",
    "Edits",
    "GptqGroup",
    "KVDtype",
    "Limits",
    "LinearHandle",
    "LogProbabilities",
    "PackedKind",
    "Place",
    "Program",
    "RegionName",
    "RopeRows",
    "RoundedWeight",
    "ScaleRule",
    "StepArrays",
    "act_mul",
    "activation_group",
    "add",
    "attend",
    "available_isas",
    "batch_invariant",
    "cache_write",
    "cap",
    "gptq_group",
    "gram",
    "isa",
    "kept_shares",
    "linear",
    "measure_limits",
    "packed_bits",
    "packed_kind",
    "packed_parts",
    "prepare_int_group",
    "prepare_plain",
    "random_word",
    "release_free_memory",
    "rms_norm",
    "rope",
    "round_weights",
    "sample",
    "sample_with_log_probabilities",
    "share_one_heap",
    "shared_keys",
    "thread_count",
    "unpack_codes",
    "use_batch_invariant",
    "use_isa",
    "use_threads",
    "view_packed",
]

select_or_refuse()
