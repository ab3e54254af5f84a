"""The journal: what survives a kill, and whose it is."""

import json

import pytest

from flyweight.compression.journal import JOURNAL_FILE, Journal, sha256_of
from flyweight.errors import CheckpointError, UsageError

JOB = {"model": "a", "recipe": "b"}


def reopened(folder, job=JOB):
    journal = Journal.open(folder, job, remedy="choose another folder")
    entries = list(journal.entries)
    journal.close()
    return entries


def test_entries_come_back(tmp_path):
    journal = Journal.open(tmp_path, JOB, remedy="")
    journal.add({"unit": "0"})
    journal.add({"unit": "1"})
    journal.close()
    assert reopened(tmp_path) == [{"unit": "0"}, {"unit": "1"}]


def test_a_torn_line_is_as_if_it_had_never_been(tmp_path):
    journal = Journal.open(tmp_path, JOB, remedy="")
    journal.add({"unit": "0"})
    journal.add({"unit": "1"})
    journal.close()
    path = tmp_path / JOURNAL_FILE
    whole = path.read_bytes()
    first = whole.index(b'{"unit": "1"}')
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert reopened(tmp_path) == [{"unit": "0"}]
        assert path.read_bytes() == whole[:first]
    path.write_bytes(whole[:10])
    assert reopened(tmp_path) == []
    assert json.loads(path.read_text()) == {"job": JOB}


def test_another_job_is_refused(tmp_path):
    reopened(tmp_path)
    with pytest.raises(UsageError) as caught:
        reopened(tmp_path, {"model": "a", "recipe": "c"})
    assert str(caught.value) == (
        f"{tmp_path} holds the unfinished work of another job (another recipe); choose another folder"
    )


def test_two_processes_do_not_share_it(tmp_path):
    journal = Journal.open(tmp_path, JOB, remedy="")
    with pytest.raises(UsageError, match="is being written by another process; wait for it"):
        Journal.open(tmp_path, JOB, remedy="")
    journal.close()
    assert reopened(tmp_path) == []


def test_damage_in_the_middle_is_said(tmp_path):
    (tmp_path / JOURNAL_FILE).write_text('{"job": {}}\nrubbish\n')
    with pytest.raises(CheckpointError, match="is damaged"):
        reopened(tmp_path)


def test_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
