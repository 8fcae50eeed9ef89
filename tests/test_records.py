"""Append-only records: lines stay as they were written."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tumoratlas.core.errors import InputError
from tumoratlas.core.records import append_latest, append_lines, latest_by, read_lines


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    """Nothing is guessed from a torn file."""
    path = tmp_path / "ids.jsonl"
    append_lines(path, [{"a": 1}, {"b": 2}])
    path.write_text(path.read_text() + '{"c": ')
    with pytest.raises(InputError, match=r"RECORDS: .*ids\.jsonl: line 3 cannot be read"):
        read_lines(path)


def test_what_was_written_stays(tmp_path: Path) -> None:
    """Appending changes no earlier byte and needs no folder or file."""
    path = tmp_path / "new/records.jsonl"
    assert read_lines(path) == []
    append_lines(path, [{"b": 1, "a": "ü"}])
    first = path.read_bytes()
    append_lines(path, [])
    assert path.read_bytes() == first
    assert first.startswith('{"a": "ü", "b": 1, "sum": "'.encode())
    append_lines(path, [{"a": "later"}])
    assert path.read_bytes().startswith(first)
    assert read_lines(path) == [{"a": "ü", "b": 1}, {"a": "later"}]


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0c", "\x1e", "\r\n", "\n", "\0", "\ud7ff"])
def test_any_text_comes_back(tmp_path: Path, mark: str) -> None:
    """A comment pasted from elsewhere may hold separators that some readers split lines at."""
    path = tmp_path / "records.jsonl"
    entries = [{"comment": f"seen{mark}twice"}, {"comment": mark}]
    append_lines(path, entries)
    assert read_lines(path) == entries


def test_a_missing_last_newline_does_no_harm(tmp_path: Path) -> None:
    """Files of this folder are also written by people, with editors."""
    path = tmp_path / "roster.jsonl"
    path.write_text(json.dumps({"id": "a"}))
    append_lines(path, [{"id": "b"}])
    assert read_lines(path) == [{"id": "a"}, {"id": "b"}]


@pytest.mark.parametrize("changed", ["liver", '"value": 2', '"sum": "'])
def test_a_changed_character_is_seen(tmp_path: Path, changed: str) -> None:
    """Of any line, also where JSON stays JSON; a line that a person wrote in between counts not."""
    path = tmp_path / "thresholds.jsonl"
    for value in (1, 2, 3):
        append_lines(path, [{"organ": "liver", "value": value}])
        path.write_text(path.read_text() + '{"organ": "colon", "value": 9}\n')
    assert [entry["value"] for entry in read_lines(path)] == [1, 9, 2, 9, 3, 9]
    text = path.read_text()
    at = text.index(changed) + len(changed) - (not changed.endswith('"'))
    path.write_text(text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :])
    with pytest.raises(InputError, match=r"RECORDS: .*line [13] is not what was written"):
        read_lines(path)


def test_append_latest_repeats_nothing(tmp_path: Path) -> None:
    """An equal last entry is not appended; a change back is."""
    path = tmp_path / "thresholds.jsonl"
    for value in (1, 1, 2, 2, 1):
        append_latest(path, "organ", {"organ": "liver", "value": value})
        append_latest(path, "organ", {"organ": "colon", "value": 7})
    assert [entry["value"] for entry in read_lines(path)] == [1, 7, 2, 1]
    assert latest_by(path, "organ")["liver"] == {"organ": "liver", "value": 1}


def test_jobs_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    """The lock lets one writer in at a time."""
    path = tmp_path / "records.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: append_lines(path, [{"n": n}]), range(24)))
    assert sorted(entry["n"] for entry in read_lines(path)) == list(range(24))
