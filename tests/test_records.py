"""Append-only records: the registry of case ids keeps every id for ever."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tumoratlas.core.errors import InputError
from tumoratlas.core.records import append_latest, append_lines, latest_by, read_lines
from tumoratlas.ingest.dedupe import assign_cases, deduplicate
from tumoratlas.ingest.registry import append_case_ids, read_case_ids

PRECEDENCE = ["private", "msd_ct", "lits", "abdomenatlas11"]


def scan(source: str, case: str, voxels: str, false_spacing: bool = False) -> dict[str, Any]:
    """Return what naming needs of a fingerprinted scan."""
    return {
        "scan_id": f"{source}_{case}",
        "source": source,
        "source_case": case,
        "voxel_sha256": voxels * 64,
        "false_spacing": false_spacing,
        "spacing_mm": [1.0, 1.0, 1.0],
    }


LITS = [scan("lits", "0", "a"), scan("lits", "1", "b"), scan("lits", "2", "c")]
MSD = [scan("msd_ct", "liver_1", "b"), scan("msd_ct", "liver_9", "d")]
PARENT = [
    scan("abdomenatlas11", "BDMAP_00000007", "a"),
    scan("abdomenatlas11", "BDMAP_00000003", "e"),
]


def name_cases(
    registry: Path, scans: list[dict[str, Any]], precedence: list[str] = PRECEDENCE
) -> dict[str, str]:
    """Name the cases as the rule does; return content to id, of kept scans."""
    rows, _ = deduplicate(scans, precedence)
    rows, new = assign_cases(
        rows,
        read_case_ids(registry),
        parents=["abdomenatlas11"],
        first_case_id=90000001,
        shards=4,
    )
    append_case_ids(registry, new)
    return {row["voxel_sha256"][0]: row["case_id"] for row in rows if row["kept"]}


def test_ids_of_the_parent_release_are_kept(tmp_path: Path) -> None:
    """Also where another source's copy of the scan is the one that is kept."""
    ids = name_cases(tmp_path / "ids.jsonl", LITS + PARENT)
    assert ids == {
        "a": "BDMAP_00000007",
        "b": "BDMAP_90000001",
        "c": "BDMAP_90000002",
        "e": "BDMAP_00000003",
    }


def test_ids_survive_added_removed_and_reordered_sources(tmp_path: Path) -> None:
    """Whatever comes, goes and comes again, a content has the id that it first had."""
    registry = tmp_path / "ids.jsonl"
    known: dict[str, str] = {}
    history: list[bytes] = []
    runs = [LITS, LITS + MSD, MSD, MSD + PARENT, LITS[1:], PARENT + MSD + LITS, LITS]
    for number, scans in enumerate(runs):
        shuffled = random.Random(number).sample(scans, len(scans))
        precedence = PRECEDENCE if number % 2 else PRECEDENCE[::-1]
        ids = name_cases(registry, shuffled, precedence)
        assert ids.items() <= (known | ids).items()
        assert all(known.get(content, case) == case for content, case in ids.items())
        known |= ids
        assert len(set(known.values())) == len(known)
        history.append(registry.read_bytes())
    assert all(new.startswith(old) for old, new in zip(history, history[1:], strict=False))
    # LiTS 0 had its id before the parent came: it keeps that one.
    assert (known["a"], known["e"]) == ("BDMAP_90000001", "BDMAP_00000003")


def test_the_order_of_rows_names_nothing(tmp_path: Path) -> None:
    """Shuffled sources give the same ids on a fresh registry."""
    every = LITS + MSD + PARENT
    found = [
        name_cases(tmp_path / f"{n}.jsonl", random.Random(n).sample(every, len(every)))
        for n in range(5)
    ]
    assert all(ids == found[0] for ids in found)
    texts = {(tmp_path / f"{n}.jsonl").read_bytes() for n in range(5)}
    assert len(texts) == 1


def test_every_copy_of_a_kept_scan_bears_its_id_and_only_the_kept_a_shard() -> None:
    """A group without a true spacing gets no id."""
    scans = [*LITS, *PARENT, scan("lits", "28", "f", false_spacing=True)]
    rows, _ = deduplicate(scans, PRECEDENCE)
    rows, new = assign_cases(rows, {}, parents=["abdomenatlas11"], first_case_id=5, shards=4)
    by_id = {row["scan_id"]: row for row in rows}
    assert by_id["lits_0"]["case_id"] == by_id["abdomenatlas11_BDMAP_00000007"]["case_id"]
    assert by_id["lits_28"]["case_id"] is None and "f" * 64 not in new
    assert all((row["shard"] is not None) == row["kept"] for row in rows)


def test_a_taken_number_is_never_given_again() -> None:
    """New numbers skip those that the registry holds."""
    rows, _ = deduplicate(LITS, PRECEDENCE)
    registered = {"x" * 64: "BDMAP_00000005", "y" * 64: "BDMAP_00000006"}
    _, new = assign_cases(rows, registered, parents=[], first_case_id=5, shards=1)
    assert sorted(new.values()) == ["BDMAP_00000007", "BDMAP_00000008", "BDMAP_00000009"]


@pytest.mark.parametrize("twice", ["voxel_sha256", "case_id"])
def test_a_registry_with_an_entry_twice_is_refused(tmp_path: Path, twice: str) -> None:
    """One content has one id, one id one content."""
    entries = [{"voxel_sha256": "a", "case_id": "1"}, {"voxel_sha256": "b", "case_id": "2"}]
    entries[1][twice] = entries[0][twice]
    append_lines(tmp_path / "ids.jsonl", entries)
    with pytest.raises(InputError, match="REGISTRY"):
        read_case_ids(tmp_path / "ids.jsonl")


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
    assert path.read_bytes() == first == '{"a": "ü", "b": 1}\n'.encode()
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
