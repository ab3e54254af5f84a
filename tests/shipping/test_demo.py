"""The demo at its smallest: everything is made, measured and shown, and no foreign folder is touched."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from flyweight import demo_model
from flyweight.errors import UsageError
from flyweight.reporting import print_table, render_page
from flyweight.shipping.demo import Demo, DemoSizes, run_demo
from flyweight.shipping.demo_report import answers_table, demo_page, demo_table

SMALLEST = DemoSizes(
    recipes=("int8", "int4"), calibration_sequences=2, documents=25, prompts_per_task=1, speed_rounds=2, speed_tokens=4
)
pytestmark = pytest.mark.skipif(
    not (demo_model.model_path() / "model.safetensors").is_file(), reason="the demo model is not in this checkout"
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return run_demo(tmp_path_factory.mktemp("demo") / "out", sizes=SMALLEST)


def test_the_table_has_every_figure_for_every_model(demo: Demo) -> None:
    table = demo_table(demo)
    assert table.columns == ("", "original", "int8", "int4")
    cells = {row[0]: row[1:] for row in table.rows}
    tasks = {f" {task}" for task in (*(path.stem for path in demo_model.golden_path().glob("*.jsonl")), "all")}
    assert set(cells) == tasks | {
        "weights",
        "bits per weight",
        "perplexity",
        "to original's",
        "KL, millinats",
        "same top-1, %",
        "golden right, %",
        "tokens/s",
        "compressed in",
    }
    assert all(cell for task in tasks for cell in cells[task])
    assert all("\n" in cell and "–" in cell for cell in cells["perplexity"])
    bits = [float(cell) for cell in cells["bits per weight"]]
    assert bits[0] == 16
    assert 8 <= bits[1] < 9
    assert 4 <= bits[2] < 5


def test_the_table_shows_what_was_measured_and_fits_80_characters(demo: Demo) -> None:
    text = demo.models[1].report.text
    assert text is not None
    assert text.comparison is not None
    (row,) = [row for row in demo_table(demo).rows if row[0] == "KL, millinats"]
    value, interval = row[3].split("\n")
    assert float(value) == pytest.approx(1000 * text.comparison.kl_mean.value, rel=0.01)
    assert [float(end) for end in interval.split("–")] == pytest.approx(
        [1000 * (text.comparison.kl_mean.low or 0), 1000 * (text.comparison.kl_mean.high or 0)], rel=0.02
    )
    console = Console(width=80, record=True, file=io.StringIO())
    print_table(demo_table(demo), console)
    shown = console.export_text()
    for row in demo_table(demo).rows:
        for cell in row:
            for line in cell.split("\n"):
                assert line in shown, "a cell is folded"


def test_fewer_bits_are_smaller_and_further_from_the_original(demo: Demo) -> None:
    int8, int4 = (one.report for one in demo.models)
    assert int8.against is not None
    assert int8.against.weight_bytes > int8.model.weight_bytes > int4.model.weight_bytes
    kl = [one.text.comparison.kl_mean.value for one in (int8, int4) if one.text is not None and one.text.comparison]
    assert 0 < kl[0] < kl[1]


def test_every_model_answers_and_is_timed(demo: Demo) -> None:
    names = ["original", "int8", "int4"]
    assert list(demo.answers) == names
    assert [row[0] for row in answers_table(demo).rows] == ["asked", "expected", *names]
    for name in names:
        speed = demo.speeds[name]
        assert 0 < speed.lowest <= speed.median <= speed.highest
        assert (speed.num_decodes, speed.num_tokens) == (2, 4)


def test_what_was_made_lies_in_the_folder(demo: Demo) -> None:
    out = demo.models[0].folder.parent
    found = json.loads((out / "demo.json").read_text())
    assert [one["name"] for one in found["models"]] == ["int8", "int4"]
    for name in ("int8", "int4"):
        assert (out / name / "model.safetensors.index.json").is_file() or (out / name / "model.safetensors").is_file()
        assert "<svg" in (out / f"{name}.html").read_text()
    page = render_page(demo_page(demo))
    assert "The demo model, compressed" in page
    assert page.count("<svg") == 2


def test_a_foreign_folder_is_refused_and_an_earlier_demo_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ReachedError(Exception):
        pass

    def stop(*_: object, **__: object) -> None:
        raise ReachedError

    monkeypatch.setattr("flyweight.shipping.demo.compress", stop)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UsageError, match="exists and was not made by the demo; give another folder with --out"):
        run_demo(tmp_path)
    assert (tmp_path / "mine").read_text() == "x"
    with pytest.raises(UsageError, match="was not made by the demo"):
        run_demo(tmp_path / "mine")
    with pytest.raises(ReachedError):
        run_demo(tmp_path / "out")
    (tmp_path / "out" / "int8.partial").mkdir()
    with pytest.raises(ReachedError):
        run_demo(tmp_path / "out")
    assert not (tmp_path / "out" / "int8.partial").exists()
