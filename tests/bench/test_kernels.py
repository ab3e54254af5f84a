"""The kernel benchmark on a tiny model: what is timed, what a share means, and what is printed."""

import json
import time
from pathlib import Path

import pytest

from flyweight import kernels
from flyweight.bench import KernelOptions, measure_kernels
from flyweight.bench.attention_cases import attention_groups
from flyweight.bench.cases import Case, in_turn
from flyweight.bench.kernel_report import report_page
from flyweight.bench.kernels import time_group
from flyweight.bench.linear_cases import PRECISIONS, linear_groups, named_layers
from flyweight.bench.shapes import PRESETS, read_shape
from flyweight.cli import main
from flyweight.errors import UsageError
from flyweight.reporting import render_page
from tests.support.checkpoints import write_tiny_llama

QUICK = KernelOptions(rounds=2, sample_milliseconds=0.1, working_set_megabytes=1, filter="linear int4-int8 down")
LIMITS = kernels.Limits(
    isa=kernels.isa(),
    threads=2,
    read_bandwidth=10e9,
    cached_bandwidth=100e9,
    int4_rate=800e9,
    int8_rate=500e9,
    bfloat16_rate=200e9,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_llama(folder)
    return str(folder / "config.json")


def case(name: str, call: object = None, **sizes: object) -> Case:
    values = {"size": "", "rows": 1, "nbytes": 10**9, "operations": 10**9, "arithmetic": "int8", "memory": "memory"}
    return Case(name=name, kind="linear", call=call or (lambda: None), **{**values, **sizes})  # type: ignore[arg-type]


def test_presets_have_the_sizes_of_their_models() -> None:
    sizes = {name: sum(one.in_features * one.out_features for one in read_shape(name).linears) for name in PRESETS}
    assert sizes == {
        "qwen2.5-0.5b": 357_826_560,
        "llama-3.2-1b": 973_078_528,
        "llama-3.2-3b": 2_818_572_288,
        "llama-3.1-8b": 6_979_321_856,
    }


def test_an_unknown_shape_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'llama-3\.2-1b'"):
        read_shape("llama-3.2-1")


def test_work_is_what_the_task_demands() -> None:
    spec = read_shape("qwen2.5-0.5b")
    (group,) = linear_groups(spec, precisions=["int4-int8"], layers=["down"], rows=[1, 32], working_set=8 << 20)
    one, many = group.build()
    assert one.size == "4864 -> 896"
    assert (one.operations, many.operations) == (2 * 4864 * 896, 32 * 2 * 4864 * 896)
    codes_and_scales = 4864 * 896 // 2 + 2 * 38 * 896
    assert codes_and_scales + 4 * (4864 + 896) <= one.nbytes < 1.05 * codes_and_scales + 4 * (4864 + 896)
    assert set(named_layers(spec)) == {"qkv", "output", "gate_up", "down", "head"}


@pytest.mark.parametrize("kind", ["linear", "attention", "sampling", "elementwise"])
def test_every_kind_runs(kind: str, config: str) -> None:
    options = KernelOptions(rounds=1, sample_milliseconds=0.1, working_set_megabytes=1, filter=kind)
    report = measure_kernels(config, options, probe=lambda: LIMITS)
    assert {one.kind for one in report.results} == {kind}
    assert all(0 < one.seconds.smallest < 10 and one.nbytes > 0 for one in report.results)
    assert all((one.arithmetic is None) == (one.arithmetic_share == 0) for one in report.results)


def test_attention_counts_the_keys_that_each_query_sees() -> None:
    spec = read_shape("qwen2.5-0.5b")
    (group,) = attention_groups(spec, kv_dtypes=["float16"], rows=[1, 3], depths=[64], working_set=1)
    one, three = group.build()
    assert one.operations == 4 * 14 * 64 * 65
    assert three.operations == 4 * 14 * 64 * (65 + 66 + 67)
    blocks_of_32 = 3
    assert one.nbytes >= 2 * 2 * 64 * blocks_of_32 * 32 * 2


def test_calls_go_through_the_copies_in_turn() -> None:
    seen: list[int] = []
    call = in_turn([lambda number=number: seen.append(number) for number in range(3)])
    for _ in range(5):
        call()
    assert seen == [0, 1, 2, 0, 1]


def test_a_sample_times_one_call() -> None:
    cases = [case("slow", lambda: time.sleep(0.004)), case("quick", lambda: time.sleep(0.001))]
    (_, slow), (_, quick) = time_group(cases, rounds=3, sample_seconds=0.008)
    assert 0.004 <= slow.smallest < 0.03
    assert 0.001 <= quick.smallest < 0.02
    assert slow.count == 3


def test_shares_are_the_least_time_over_the_measured(config: str) -> None:
    report = measure_kernels(config, QUICK, probe=lambda: LIMITS)
    assert [one.rows for one in report.results] == [1, 8, 32, 512]
    for one in report.results:
        assert one.memory_share == pytest.approx(one.nbytes / 10e9 / one.seconds.median)
        assert one.arithmetic_share == pytest.approx(one.operations / 800e9 / one.seconds.median)
        assert one.share == max(one.memory_share, one.arithmetic_share)
    assert report.limits[0].bandwidth["memory"].median == 10e9
    assert json.loads(report.to_json())["results"][0]["name"] == "linear int4-int8 down"
    page = render_page(report_page(report))
    assert "Roofline" in page
    assert "int8 500 Gop/s" in page


def test_each_storage_is_set_against_the_peak_of_its_own_products() -> None:
    spec = read_shape("qwen2.5-0.5b")
    groups = linear_groups(spec, precisions=list(PRECISIONS), layers=["output"], rows=[1], working_set=1)
    assert [group.build()[0].arithmetic for group in groups] == [
        "int4",
        "int8",
        "int8",
        "bfloat16",
        "bfloat16",
        "bfloat16",
    ]


def test_every_instruction_set_is_measured_and_the_one_in_use_restored(config: str) -> None:
    before = kernels.isa()
    options = KernelOptions(
        rounds=1, sample_milliseconds=0.1, working_set_megabytes=1, filter="elementwise", isa=("all",)
    )
    report = measure_kernels(config, options, probe=lambda: LIMITS)
    assert {one.isa for one in report.results} == set(kernels.available_isas())
    assert kernels.isa() == before


def test_the_command_measures_the_limits_itself(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--filter", "down", "--rounds", "1", "--sample-milliseconds", "0.1", "--working-set-megabytes", "1"]
    assert main(["bench", "kernels", "--model", config, *words, "--html", str(tmp_path / "k.html")]) == 0
    printed = capsys.readouterr().out
    assert "Limits measured in this run" in printed
    assert "linear int8-int8 down" in printed
    assert "<svg" in (tmp_path / "k.html").read_text()


def test_wrong_options_are_refused(config: str) -> None:
    for wrong in ({"rounds": 0}, {"threads": 0}, {"sample_milliseconds": 0.0}, {"working_set_megabytes": 0}):
        with pytest.raises(UsageError):
            KernelOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="leaves no case"):
        measure_kernels(config, KernelOptions(filter="int5"), probe=lambda: LIMITS)
    with pytest.raises(UsageError, match="not available"):
        measure_kernels(config, KernelOptions(isa=("sse9",)), probe=lambda: LIMITS)
