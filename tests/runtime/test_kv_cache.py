"""The cache's arrays have the shapes and bytes that were asked for."""

from flyweight.kernels import CacheLayout
from flyweight.models import read_spec
from flyweight.runtime.kv_cache import KVCache, cache_block_bytes
from tests.support.checkpoints import tiny_llama_config


def test_arrays_have_the_shapes_and_bytes_that_were_asked_for() -> None:
    spec = read_spec(tiny_llama_config(num_layers=3))
    cache = KVCache(spec.blocks[1:], num_blocks=5, block_size=64, dtype="bfloat16")
    layer, layout = cache.layer(1)
    assert layer.shape == (5, 2, 64 * 16 * 2 * 2)
    assert layout == CacheLayout(kv_dtype="bfloat16", kv_heads=2, head_dim=16, block_size=64)
    assert cache.nbytes == 2 * 5 * 64 * 2 * 16 * 2 * 2 == 5 * cache_block_bytes(spec.blocks[1:], "bfloat16", 64)
    assert cache.layer(2)[0] is cache.layers[1]
