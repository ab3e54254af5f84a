"""Types of the compiled module. Call it through the facade: nothing is checked here."""

from typing import Any

from numpy.typing import NDArray

class Storage:
    float32: Storage
    float16: Storage
    bfloat16: Storage
    uint4: Storage
    uint6: Storage
    uint8: Storage

class Compute:
    float32: Compute
    bfloat16: Compute
    int8: Compute

class Activation:
    silu: Activation
    gelu_tanh: Activation
    gelu: Activation

class CacheType:
    float32: CacheType
    float16: CacheType
    bfloat16: CacheType
    int8: CacheType
    int4: CacheType

class LinearHandle:
    """A packed weight, in memory of its own or a view of other memory. It serves every instruction set."""

    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def compute(self) -> str:
        """``float32``, ``bfloat16`` or ``int8``."""
    @property
    def storage(self) -> str:
        """``float32``, ``float16``, ``bfloat16``, ``uint8``, ``uint6`` or ``uint4``."""
    @property
    def kind(self) -> Kind:
        """What it holds: the fields of ``PackedKind`` in order."""

Kind = tuple[Storage, Compute, int, int, int, int, Storage, bool]

layout_version: int

Array = NDArray[Any]

class Product:
    int4: Product
    int8: Product
    bfloat16: Product

class Region:
    tokens: Region
    outputs: Region
    hidden: Region
    logits: Region

Place = tuple[Region, int, int, int]
"""Region, offset, stride, column."""

class Program:
    """Instructions that point into the arrays and handles they were given; these are kept alive."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def embed(self, table: Array, storage: Storage, scale: float, out: Place) -> None: ...
    def embed_from_file(
        self, descriptor: int, offset: int, vocabulary: int, width: int, storage: Storage, scale: float, out: Place
    ) -> None: ...
    def linear(self, handle: LinearHandle, bias: Array | None, x: Place, out: Place) -> None: ...
    def heads(
        self,
        x: Place,
        out: Place,
        heads: int,
        head_dim: int,
        weight: Array | None,
        epsilon: float,
        weight_offset: float,
        rope: int,
        rotary_dim: int,
    ) -> None: ...
    def attend(
        self,
        q: Place,
        k: Place,
        v: Place,
        out: Place,
        num_heads: int,
        cache: Array,
        cache_type: CacheType,
        head_dim: int,
        block_size: int,
        scale: float,
        softcap: float,
        window: int,
    ) -> None: ...
    def act_mul(self, x: Place, out: Place, width: int, activation: Activation) -> None: ...
    def add(self, x: Place, y: Place, out: Place, width: int, scale: float) -> None: ...
    def cap(self, x: Place, out: Place, width: int, scale: float, softcap: float) -> None: ...
    def select(self, x: Place, out: Place, width: int) -> None: ...
    def begin_head(self) -> None: ...
    def run(
        self,
        token_ids: Array,
        query_starts: Array,
        context_lengths: Array,
        block_tables: Array,
        slots: Array,
        output_rows: Array,
        ropes: list[tuple[Array, Array, Array]],
        hidden: Array,
        logits: Array | None,
        seconds: Array | None,
    ) -> bool: ...
    def run_head(self, hidden: Array, logits: Array) -> None: ...

def isa() -> str: ...
def available_isas() -> list[str]: ...
def use_isa(name: str) -> bool: ...
def batch_invariant() -> bool: ...
def set_batch_invariant(wanted: bool) -> None: ...
def limit_isa(name: str) -> bool: ...
def refuse(error_type: type[Exception], reason: str) -> None: ...
def release_free_memory() -> bool: ...
def share_one_heap() -> bool: ...
def thread_count() -> int: ...
def set_thread_count(count: int) -> None: ...
def measure_read(length: int, attempts: int) -> float: ...
def measure_multiply(product: Product, attempts: int) -> float: ...
def prepare_plain(weight: Array, source: Storage, compute: Compute) -> LinearHandle: ...
def prepare_int_group(
    codes: Array,
    scales: Array,
    scale_storage: Storage,
    zero_points: Array | None,
    group: int,
    activation_group: int,
    storage: Storage,
    compute: Compute,
) -> LinearHandle: ...
def round_weights(
    weight: Array,
    source: Storage,
    group: int,
    bits: int,
    symmetric: bool,
    scale_storage: Storage,
    codes: Array,
    scales: Array,
    zero_points: Array | None,
) -> None: ...
def linear_parts(handle: LinearHandle) -> list[Array]: ...
def part_bytes(kind: Kind) -> list[int]: ...
def view_linear(kind: Kind, values: Array, scales: Array, zero_points: Array) -> LinearHandle: ...
def linear(x: Array, handle: LinearHandle, bias: Array | None, out: Array) -> None: ...
def rms_norm(x: Array, weight: Array, out: Array, epsilon: float, weight_offset: float) -> None: ...
def rope(x: Array, cosine: Array, sine: Array, out: Array) -> None: ...
def act_mul(gate_up: Array, out: Array, activation: Activation) -> None: ...
def add(x: Array, y: Array, out: Array, alpha: float) -> None: ...
def cap(x: Array, out: Array, scale: float, softcap: float) -> None: ...
def cache_head_bytes(cache_type: CacheType, head_dim: int, block_size: int) -> int: ...
def cache_write(k: Array, v: Array, cache: Array, cache_type: CacheType, block_size: int, slots: Array) -> None: ...
def shared_keys(
    block_tables: Array,
    query_starts: Array,
    context_lengths: Array,
    block_size: int,
    window: int,
    most_sequences: int,
) -> list[tuple[list[int], int]]: ...
def attend(
    q: Array,
    cache: Array,
    cache_type: CacheType,
    block_size: int,
    block_tables: Array,
    query_starts: Array,
    context_lengths: Array,
    sinks: Array | None,
    out: Array,
    scale: float,
    softcap: float,
    window: int,
    keep_first: int,
) -> None: ...
def unpack_codes(packed: Array, bits: int, codes: Array) -> None: ...
def gram(x: Array, sums: Array, rounded: bool) -> None: ...
def gptq_group(
    weight: Array,
    inverse_cholesky: Array,
    ratios: Array,
    minimum: float,
    maximum: float,
    symmetric: bool,
    scale_type: CacheType,
    codes: Array,
    scales: Array,
    zero_points: Array,
    losses: Array,
) -> None: ...
def random_word(seed: int, stream: int, position: int, purpose: int) -> int: ...
def sample(
    logits: Array,
    numbers: Array,
    integers: Array,
    edit_starts: Array,
    edit_tokens: Array,
    edit_factors: Array,
    edit_shifts: Array,
    masks: Array,
    mask_rows: Array,
    tokens: Array,
    log_probabilities: Array | None,
    top_tokens: Array | None,
    top_log_probabilities: Array | None,
    kept_counts: Array | None,
    kept_tokens: Array | None,
    kept_shares: Array | None,
) -> None: ...
