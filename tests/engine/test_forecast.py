"""What a load will take, told before it: close to what it does take, and refused with numbers."""

import pytest

from flyweight import load
from flyweight.demo_model import model_path
from flyweight.engine.forecast import forecast_memory
from flyweight.engine.memory import RESERVE_BYTES
from flyweight.errors import ResourceError
from flyweight.runtime.kv_cache import cache_block_bytes

ROOM = 1 << 30


def test_it_is_what_the_load_takes():
    told = forecast_memory(model_path(), room_bytes=ROOM, cache_tokens=1000)
    model = load(model_path(), cache_tokens=1000)
    sizes = model.cache_sizes
    assert sizes.num_blocks * sizes.block_size == told.cache_tokens == 1024
    assert sizes.kv_dtype == told.kv_dtype
    assert told.cache_bytes == sizes.num_blocks * cache_block_bytes(model.spec.blocks, told.kv_dtype)
    stored = (model_path() / "model.safetensors").stat().st_size
    assert stored <= told.weight_bytes <= 1.25 * stored
    assert told.total_bytes == told.weight_bytes + told.cache_bytes + RESERVE_BYTES
    assert "a bfloat16 cache of 1024 tokens" in told.describe()


def test_the_cache_gets_its_share_of_what_is_left():
    plenty = forecast_memory(model_path(), room_bytes=ROOM)
    assert plenty.cache_tokens == 16 * 512
    scarce = forecast_memory(model_path(), room_bytes=RESERVE_BYTES + (24 << 20))
    assert 0 < scarce.cache_bytes <= (24 << 20) // 4
    assert forecast_memory(model_path(), room_bytes=ROOM, kv_dtype="int8").cache_bytes < plenty.cache_bytes


@pytest.mark.parametrize("room", [-1, 0, RESERVE_BYTES, RESERVE_BYTES + (4 << 20)])
def test_too_little_room_is_refused_with_numbers(room):
    with pytest.raises(ResourceError, match=r"would take \d.* weights \d.* cache of \d+ tokens .* are left"):
        forecast_memory(model_path(), room_bytes=room)
    with pytest.raises(ResourceError, match="a bfloat16 cache of 10000000 tokens"):
        forecast_memory(model_path(), room_bytes=ROOM, cache_tokens=10_000_000)
