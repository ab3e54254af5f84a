"""quantization_config: targets resolved as the library does, every option that is not read refused by its message."""

import copy
import json
from random import Random
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight.checkpoint.compressed_tensors_config import (
    Scheme,
    parse_quantization_config,
    quantization_config,
)
from flyweight.errors import CheckpointError, FlyweightError, UnsupportedModelError
from flyweight.formats import IntGroup, Plain

WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "dynamic": False}
INPUTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


def config(**changes: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": WEIGHTS, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        **changes,
    }


def with_group(**changes: Any) -> dict[str, Any]:
    value = config()
    value["config_groups"]["group_0"] = {**value["config_groups"]["group_0"], **changes}
    return value


def with_weights(**changes: Any) -> dict[str, Any]:
    return with_group(weights={**WEIGHTS, **changes})


def parse(value: dict[str, Any]):
    return parse_quantization_config(value, "config.json")


def test_a_usual_config():
    schemes = parse(config())
    expected = Scheme(
        bits=4, granularity="group", group_size=32, symmetric=True, storage="pack-quantized", activations="float"
    )
    assert schemes.scheme_of("model.layers.0.mlp.up_proj") == expected
    assert schemes.scheme_of("lm_head") is None


@pytest.mark.parametrize(
    ("changes", "granularity"),
    [
        ({"strategy": None, "group_size": None}, "tensor"),
        ({"strategy": None, "group_size": -1}, "channel"),
        ({"strategy": None, "group_size": 64}, "group"),
        ({"strategy": "channel", "group_size": None}, "channel"),
        ({"strategy": "channel", "group_size": -1}, "channel"),
        ({"strategy": "group", "actorder": "static"}, "group"),
        ({"strategy": "group", "actorder": "weight"}, "group"),
        ({"strategy": "group", "actorder": False}, "group"),
    ],
)
def test_what_a_strategy_may_be_told_by(changes, granularity):
    scheme = parse(with_weights(**changes)).scheme_of("x")
    assert scheme is not None
    assert scheme.granularity == granularity


class Model(torch.nn.Module):
    """Linear layers named like a decoder's, for the library to match its targets against."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = torch.nn.ModuleList(
            torch.nn.ModuleDict({name: torch.nn.Linear(32, 32) for name in ("up", "down", "q", "k")}) for _ in range(3)
        )
        self.tail = torch.nn.Linear(32, 32)


# Behind "re:" in the alphabet, so that the order of names and patterns shows.
NAMES = [f"stack.{i}.{name}" for i in range(3) for name in ("up", "down", "q", "k")] + ["tail"]
TARGETS = [*NAMES, "Linear", "re:.*up$", "re:stack.1", "re:stack\\.[12]\\.q", "re:.*ail", "re:nothing", "stack"]


@pytest.mark.parametrize("seed", range(40))
def test_targets_resolve_as_in_the_library(seed):
    random = Random(seed)
    groups = {
        f"group_{bits}": {
            "targets": random.sample(TARGETS, random.randint(1, 3)),
            "weights": {**WEIGHTS, "num_bits": bits},
        }
        for bits in (3, 4, 8)
    }
    value = config(config_groups=groups, ignore=random.sample(TARGETS, random.randint(0, 2)))
    model = Model()
    library = QuantizationConfig.model_validate(copy.deepcopy(value) | {"quantization_status": "compressed"})
    apply_quantization_config(model, library)
    schemes = parse(value)
    for name in NAMES:
        theirs = getattr(model.get_submodule(name), "quantization_scheme", None)
        ours = schemes.scheme_of(name)
        assert (None if ours is None else ours.bits) == (None if theirs is None else theirs.weights.num_bits), name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (config(kv_cache_scheme={"num_bits": 8}), "quantization_config.kv_cache_scheme is set, which is not supported"),
        (config(transform_config={"a": 1}), "quantization_config.transform_config is set, which is not supported"),
        (config(sparsity_config={"format": "sparse-bitmask"}), "sparsity_config={'format': 'sparse-bitmask'} is not"),
        (
            config(format="marlin-24"),
            "config_groups.group_0 is stored in format 'marlin-24', which is not read; support",
        ),
        (config(format="dense"), "is stored in format 'dense', which is not read"),
        (
            with_group(format="float-quantized"),
            "is stored in format 'float-quantized', which is not read; supported: pack",
        ),
        (
            with_group(output_activations=INPUTS),
            "config_groups.group_0.output_activations is set, which is not supported",
        ),
        (with_weights(type="float"), "config_groups.group_0.weights.type='float' is not supported; supported: 'int'"),
        (with_weights(num_bits=1), "weights.num_bits=1 is not supported; supported: 2 to 8"),
        (with_weights(num_bits=16), "weights.num_bits=16 is not supported; supported: 2 to 8"),
        (with_weights(num_bits="4"), "weights.num_bits='4' is not supported; supported: 2 to 8"),
        (with_weights(dynamic=True), "weights.dynamic=True is not supported; supported: false"),
        (with_weights(actorder="group"), "weights.actorder='group' is not supported; supported: null, 'weight' or 'st"),
        (with_weights(actorder=True), "weights.actorder=True is not supported"),
        (
            with_weights(strategy="block"),
            "weights.strategy='block' is not supported; supported: tensor, channel, group",
        ),
        (with_weights(group_size=None), "weights.group_size=None is not supported; supported: a positive number"),
        (with_weights(group_size=0), "weights.group_size=0 is not supported"),
        (
            with_group(input_activations={**INPUTS, "dynamic": False}),
            "config_groups.group_0.input_activations.dynamic=False is not supported; supported: True (8-bit integers, "
            "symmetric, dynamic per token)",
        ),
        (with_group(input_activations={**INPUTS, "num_bits": 4}), "input_activations.num_bits=4 is not supported"),
        (with_group(input_activations={**INPUTS, "type": "float"}), "input_activations.type='float' is not supported"),
        (with_group(input_activations={**INPUTS, "symmetric": False}), "input_activations.symmetric=False is not supp"),
        (with_group(input_activations={**INPUTS, "strategy": "tensor"}), "input_activations.strategy='tensor' is not"),
    ],
)
def test_what_is_not_read(value, message):
    with pytest.raises(UnsupportedModelError) as caught:
        parse(value)
    assert str(caught.value).startswith("config.json: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (config(config_groups={}), "quantization_config.config_groups is {}; needed: an object of one or more groups"),
        (config(config_groups=None), "quantization_config.config_groups is None; needed"),
        (
            config(config_groups={"a": ["Linear"]}),
            "quantization_config.config_groups.a is ['Linear']; needed: an object",
        ),
        (with_group(weights=None), "quantization_config.config_groups.group_0.weights is None; needed: an object with"),
        (with_group(targets="Linear"), "config_groups.group_0.targets is 'Linear'; needed: a list of names"),
        (with_group(targets=[1]), "config_groups.group_0.targets is [1]; needed: a list of names"),
        (with_group(targets=["re:("]), "config_groups.group_0.targets holds 're:(', which is no regular expression ("),
        (config(ignore="lm_head"), "quantization_config.ignore is 'lm_head'; needed: a list of names"),
        (config(ignore=["re:["]), "quantization_config.ignore holds 're:[', which is no regular expression ("),
        (with_weights(symmetric="yes"), "weights.symmetric is 'yes'; needed: true or false"),
        (with_group(input_activations=[]), "group_0.input_activations is []; needed: null or an object"),
    ],
)
def test_what_is_malformed(value, message):
    with pytest.raises(CheckpointError) as caught:
        parse(value)
    assert message in str(caught.value)
    assert str(caught.value).endswith("download config.json again")


@settings(max_examples=150, derandomize=True, deadline=None)
@given(data=st.data())
def test_any_config_is_read_or_refused(data):
    values = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 300),
        st.floats(),
        st.sampled_from(["group", "channel", "int", "re:(", "re:.*", "Linear", "pack-quantized", ""]),
        st.lists(st.sampled_from(["Linear", "re:a+", "re:*", 3]), max_size=2),
        st.dictionaries(st.sampled_from(["num_bits", "format", "targets"]), st.integers(), max_size=2),
    )
    value: Any = with_group(input_activations=dict(INPUTS))
    for _ in range(data.draw(st.integers(1, 3))):
        node: Any = value
        while True:
            key = data.draw(st.sampled_from(sorted(node)))
            if isinstance(node[key], dict) and node[key] and data.draw(st.booleans()):
                node = node[key]
                continue
            node[key] = data.draw(values)
            break
    try:
        schemes = parse(value)
    except FlyweightError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        scheme = schemes.scheme_of("model.layers.0.mlp.up_proj")
        assert scheme is None or 2 <= scheme.bits <= 8


# --- what we write ------------------------------------------------------------------------------------------------


INT4 = IntGroup(bits=4, group_size=32)
INT8 = IntGroup(bits=8, granularity="channel", group_size=None)


def test_one_scheme_targets_the_class():
    written = quantization_config({"a": INT4, "b": INT4, "lm_head": Plain(dtype="bfloat16")})
    assert written["format"] == "pack-quantized"
    assert [group["targets"] for group in written["config_groups"].values()] == [["Linear"]]
    assert written["ignore"] == ["lm_head"]


def test_several_schemes_target_by_name():
    written = quantization_config({"a": INT4, "b": INT8, "c": Plain(dtype="bfloat16"), "d": INT4})
    assert [group["targets"] for group in written["config_groups"].values()] == [["a", "d"], ["b"]]
    assert written["ignore"] == ["lm_head", "c"]
    assert written["format"] == "pack-quantized"
    schemes = parse(written)
    assert [getattr(schemes.scheme_of(name), "bits", None) for name in "abcd"] == [4, 8, None, 4]


def test_storages_that_differ_are_mixed_precision():
    written = quantization_config({"a": INT4, "b": INT8}, activations={"b": "int8"})
    assert written["format"] == "mixed-precision"
    assert [group["format"] for group in written["config_groups"].values()] == ["pack-quantized", "int-quantized"]
    schemes = parse(written)
    a, b = schemes.scheme_of("a"), schemes.scheme_of("b")
    assert a is not None
    assert b is not None
    assert (a.activations, b.activations) == ("float", "int8")


@pytest.mark.parametrize("activations", ["float", "int8"])
def test_the_library_accepts_what_we_write(activations):
    written = quantization_config({"a": INT4, "b": INT8}, activations={"b": activations})
    text = json.loads(json.dumps(written))
    library = QuantizationConfig.model_validate(
        {key: text[key] for key in text if key not in ("version", "sparsity_config", "transform_config")}
    )
    groups = list(library.config_groups.values())
    assert [group.weights.num_bits for group in groups] == [4, 8]
    assert [group.input_activations is not None for group in groups] == [False, activations == "int8"]
