"""Every metric that the Grafana board and the Prometheus rules name is one that a server exposes."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from flyweight.serving.metric_names import METRICS
from flyweight.serving.metrics import CacheConfig, Gauges, ServerMetrics

PAGES = Path(__file__).parents[2] / "docs" / "operations"
BOARD = PAGES / "grafana-board.json"
RULES = PAGES / "prometheus-rules.yml"
OF_PROMETHEUS = {"up"}


def exposed():
    server = ServerMetrics(version="1", kernel_isa="avx2", threads=2)
    model = server.model("demo", context_length=100)
    model.probe = lambda: Gauges(queued_by_owner={"a": 1})
    model.cache = CacheConfig(block_size=16, num_blocks=1, dtype="bfloat16", prefix_caching=True)
    found = {}
    for family in text_string_to_metric_families(server.render()[0].decode()):
        found[family.name] = family
        for suffix in {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",)):
            found[family.name + suffix] = family
    return found


def board():
    return json.loads(BOARD.read_text())


def expressions_of_the_board():
    panels = [panel for panel in board()["panels"] if panel["type"] != "row"]
    found = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    return found + [
        (one["name"], one["query"]["query"]) for one in board()["templating"]["list"] if one["type"] == "query"
    ]


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def metric_names(expression):
    """The names of metrics in PromQL: what is left without label lists, ranges and strings."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", expression)
    bare = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", " ", bare)
    return set(re.findall(r"\b(?:vllm:|flyweight:|process_|up\b)[a-z0-9_:]*", bare))


def test_the_board_names_only_what_exists():
    known = set(exposed()) | {"process_resident_memory_bytes", "process_cpu_seconds_total"}
    named = {name for _, expression in expressions_of_the_board() for name in metric_names(expression)}
    assert len(named) > 30
    assert named <= known, f"unknown: {named - known}"


def test_the_rules_name_only_what_exists():
    known = set(exposed()) | {rule["record"] for rule in rules() if "record" in rule} | OF_PROMETHEUS
    named = {name for rule in rules() for name in metric_names(rule["expr"])}
    assert len(named) > 10
    assert named <= known, f"unknown: {named - known}"


def test_a_name_that_does_not_exist_would_be_found():
    assert metric_names('sum by (le) (rate(vllm:made_up_total{job="up"}[5m])) > up{a="vllm:x"}') == {
        "vllm:made_up_total",
        "up",
    }


def test_labels_that_are_asked_for_exist():
    """A selector or grouping by a label that no sample has would draw nothing, silently."""
    labels_of = {}
    for metric in METRICS:
        for suffix in ("", "_total", "_bucket", "_sum", "_count"):
            labels_of[metric.name + suffix] = {*metric.all_labels, "le", "job", "instance"}
    for where, expression in [*expressions_of_the_board(), *((rule.get("alert"), rule["expr"]) for rule in rules())]:
        named = [labels_of[name] for name in metric_names(expression) if name in labels_of]
        grouped = {one for labels in re.findall(r"\bby \(([^)]*)\)", expression) for one in labels.split(", ")}
        for labels in named:
            assert grouped <= labels, f"{where}: grouped by {grouped - labels}"
        for name, selector in re.findall(r"((?:vllm|flyweight):[a-z_]+)\{([^}]*)\}", expression):
            selected = set(re.findall(r"(\w+)=", selector))
            assert selected <= labels_of[name], f"{where}: {name} has no label {selected - labels_of[name]}"


def test_every_alert_says_what_it_means():
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) >= 10
    for rule in alerts:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")


def test_panels_have_ids_places_and_units_of_their_own():
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places, f"{panel['title']} lies over another"
        assert at["x"] + at["w"] <= 24
        places |= cells


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (of Prometheus) is not installed")
def test_prometheus_accepts_the_rules_and_their_unit_tests():
    for arguments in (["check", "rules", RULES.name], ["test", "rules", "prometheus-rules-test.yml"]):
        done = subprocess.run(["promtool", *arguments], cwd=PAGES, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
