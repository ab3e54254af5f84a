"""Lines reach their file in order; a full disk, a closed pipe and a stopped reader lose lines, which are counted."""

import logging
import os
import threading

import pytest

from flyweight.serving.log_sink import LogSink


def line(text):
    return lambda: text


def test_lines_are_written_in_order(tmp_path):
    path = tmp_path / "log"
    with path.open("wb") as file:
        sink = LogSink(file.fileno())
        for number in range(100):
            sink.write(line(f"line {number}"))
        sink.close()
    assert path.read_text().splitlines() == [f"line {number}" for number in range(100)]
    assert sink.dropped == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_counted_and_warned_of_once(caplog):
    with open("/dev/full", "wb") as full, caplog.at_level(logging.WARNING, "flyweight"):
        sink = LogSink(full.fileno())
        for _ in range(5):
            sink.write(line("x"))
        sink.close()
        assert sink.dropped == 5
    assert len([record for record in caplog.records if "a line was lost" in record.message]) == 1


def test_a_closed_pipe_is_counted():
    read, write = os.pipe()
    os.close(read)
    sink = LogSink(write)
    sink.write(line("nobody reads this"))
    sink.close()
    os.close(write)
    assert sink.dropped == 1


def test_a_reader_that_has_stopped_never_blocks_who_writes():
    read, write = os.pipe()
    sink = LogSink(write, most_waiting=4)
    writer = threading.Thread(target=lambda: [sink.write(line("x" * 60_000)) for _ in range(40)], daemon=True)
    writer.start()
    writer.join(5.0)
    assert not writer.is_alive(), "write() blocked on the pipe"
    assert sink.dropped >= 30
    os.close(read)  # ends the sink's own wait
    sink.close()
    os.close(write)


def test_a_line_cut_by_a_full_disk_does_not_run_into_the_next(tmp_path, monkeypatch):
    path = tmp_path / "log"
    real_write, calls = os.write, []

    def disk_full_once(descriptor, data):
        calls.append(data)
        if len(calls) == 1:
            return real_write(descriptor, data[:3])
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real_write(descriptor, data)

    with path.open("wb") as file:
        monkeypatch.setattr("flyweight.serving.log_sink.os.write", disk_full_once)
        sink = LogSink(file.fileno())
        sink.write(line("first line"))
        sink.write(line("second line"))
        sink.close()
    assert path.read_text() == "fir\nsecond line\n"
    assert sink.dropped == 1


def test_a_line_that_cannot_be_made_loses_only_itself(tmp_path):
    path = tmp_path / "log"
    with path.open("wb") as file:
        sink = LogSink(file.fileno())
        sink.write(lambda: 1 // 0)
        sink.write(line("next \ud800"))
        sink.close()
    assert path.read_text() == "next \\ud800\n"
    assert sink.dropped == 1


def test_after_close_lines_are_counted_as_lost(tmp_path):
    with (tmp_path / "log").open("wb") as file:
        sink = LogSink(file.fileno())
        sink.close()
        sink.write(line("late"))
    assert sink.dropped == 1
