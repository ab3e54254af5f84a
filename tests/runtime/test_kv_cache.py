"""The cache's arrays have the shapes and bytes that were asked for."""

from flyweight.models import read_spec
from flyweight.runtime.kv_cache import KVCache
from tests.support.checkpoints import tiny_llama_config


def test_arrays_have_the_shapes_and_bytes_that_were_asked_for() -> None:
    spec = read_spec(tiny_llama_config(num_layers=3))
    cache = KVCache(spec.blocks[1:], num_blocks=5, block_size=8, dtype="bfloat16")
    keys, values = cache.layer(1)
    assert keys.shape == values.shape == (5, 8, 2, 16)
    assert cache.nbytes == 2 * 2 * 5 * 8 * 2 * 16 * 2
    assert cache.layer(2)[0] is cache.keys[1]
