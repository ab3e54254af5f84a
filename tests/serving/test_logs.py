"""The process's log: one form for all who write, and no line that a client could fake."""

import json
import logging

import pytest

from flyweight.serving.logs import logging_to

log = logging.getLogger("flyweight")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


def written(path, form, say):
    with path.open("wb") as file, logging_to(file.fileno(), form):
        say()
    return path.read_text().splitlines()


def test_lines(path):
    (line,) = written(path, "line", lambda: log.warning("the disk of %s is %s\nfull", "this", "almost"))
    assert line.endswith("Z WARNING the disk of this is almost\\nfull")


def test_json(path):
    (line,) = written(path, "json", lambda: log.info("a\nb"))
    found = json.loads(line)
    assert found["level"] == "info"
    assert found["message"] == "a\\nb"


def fail():
    try:
        raise ValueError("bad\n2026-01-01T00:00:00.000Z INFO fake")
    except ValueError:
        log.exception("it failed")


def test_a_trace_is_indented_so_that_no_line_of_it_passes_for_a_record(path):
    first, *rest = written(path, "line", fail)
    assert first.endswith("ERROR it failed")
    assert any("ValueError: bad" in line for line in rest)
    assert all(line.startswith("    ") for line in rest)


def test_a_trace_in_json_stays_on_its_line(path):
    (line,) = written(path, "json", fail)
    assert "ValueError" in json.loads(line)["trace"]


def test_a_record_that_cannot_be_formatted_harms_nobody(path):
    (line,) = written(path, "line", lambda: log.info("%d", "no number"))
    assert "could not be formatted" in line


def test_what_was_set_before_is_given_back(path):
    before = (log.level, log.propagate, list(log.handlers))
    written(path, "line", lambda: None)
    assert (log.level, log.propagate, list(log.handlers)) == before
