"""The files of shards: each holds what concerns its shard, and changes with nothing else."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.test_layout import RULES, Rule, ident
from tumoratlas.core.files import read_json
from tumoratlas.core.runner import Step, Task, run_shard, shard_of
from tumoratlas.core.shards import write_shards
from tumoratlas.ingest.shards import cases_by_shard, pairs_by_shard, scans_by_shard
from tumoratlas.review.bases import Base
from tumoratlas.review.ledger import Event, append_events, make_event
from tumoratlas.review.shards import read_said, said_by_shard

SHARDED = [rule for rule in RULES if "{shard}" in rule.directive("output")]
CASES = {"s0000": ["case_a", "case_b"], "s0001": ["case_c"], "s0002": []}


@pytest.mark.parametrize("rule", SHARDED, ids=ident)
def test_every_sharded_rule_takes_a_file_of_its_shard(rule: Rule) -> None:
    """Without one its jobs would start for all shards whenever something comes before them."""
    assert re.search(r"=(?:ancient\()?(?:scans|pairs|cases|said)_of_shard\b", rule.body)
    # What lists or tells of all shards would start all of them.
    assert not re.search(r"LISTINGS|manifests\(|results/tables|cases\.json", rule.body)


def test_every_shard_has_a_file(tmp_path: Path) -> None:
    """An empty one too; equal parts give equal bytes, whatever the others hold."""
    paths = [tmp_path / f"s000{number}.json" for number in range(3)]
    write_shards(paths, {"s0001": {"b": 1, "a": 2}})
    before = [path.read_bytes() for path in paths]
    assert [read_json(path) for path in paths] == [{}, {"a": 2, "b": 1}, {}]
    write_shards(map(str, paths), {"s0001": {"a": 2, "b": 1}, "s0002": {"c": 3}})
    assert [path.read_bytes() for path in paths][:2] == before[:2]
    with pytest.raises(KeyError, match="s0003"):
        write_shards(paths, {"s0003": {}})


def test_scans_and_cases_go_where_they_belong() -> None:
    """By the hash of the scan, and by the shard of the case."""
    scans = {f"lits_{number}": {"scan_id": f"lits_{number}"} for number in range(20)}
    parts = scans_by_shard(scans, 5)
    assert {i: shard for shard, part in parts.items() for i in part} == {
        scan_id: shard_of(scan_id, 5) for scan_id in scans
    }
    assert sum(len(part) for part in parts.values()) == 20
    cases = {"a": {"shard": "s0001"}, "b": {"shard": "s0003"}, "c": {"shard": "s0001"}}
    assert {shard: sorted(part) for shard, part in cases_by_shard(cases).items()} == {
        "s0001": ["a", "c"], "s0003": ["b"],
    }  # fmt: skip


def finished(folder: Path, rule: str, shards: dict[str, list[str]]) -> list[Path]:
    """Run a rule on some ids by shard; return its manifests."""

    def work(task: Task, _folder: Path) -> dict[str, Any]:
        return {"file_sha256": f"hash of {task.id}"}

    for shard, ids in shards.items():
        step = Step(rule, shard, folder / rule, {}, "code")
        run_shard(step, [Task(i, {}) for i in ids], work, folder / rule / f"{shard}.tsv")
    return [folder / rule / f"{shard}.tsv" for shard in shards]


def test_pairs_hold_both_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As listed, with the hash that was read, and without times of files."""
    monkeypatch.chdir(tmp_path)
    prints = finished(tmp_path, "fingerprint_scans", {"s0000": ["x", "z"], "s0001": ["y"]})
    scans = {i: {"scan_id": i, "repairs": [], "stamp": [1, 2, 3]} for i in "xyz"}
    pairs = [{"pair_id": "x__y", "a": "x", "b": "y"}, {"pair_id": "x__z", "a": "x", "b": "z"}]
    parts = pairs_by_shard(pairs, scans, prints, 7)
    found = {name: pair for part in parts.values() for name, pair in part.items()}
    assert {name: shard for shard, part in parts.items() for name in part} == {
        name: shard_of(name, 7) for name in ("x__y", "x__z")
    }
    assert found["x__y"] == {
        "pair": pairs[0],
        "a": {"scan_id": "x", "repairs": [], "file_sha256": "hash of x"},
        "b": {"scan_id": "y", "repairs": [], "file_sha256": "hash of y"},
    }
    touched = {i: scan | {"stamp": [9, 9, 9]} for i, scan in scans.items()}
    assert pairs_by_shard(pairs, touched, prints, 7) == parts


def event(case_id: str, batch: str) -> Event:
    """Return a signature on a case."""
    return make_event(
        stage="review", batch=batch, case_id=case_id, organ="liver", candidate_id=None,
        reviewer_id="R01", role="senior", decision="sign_off", time="2026-01-01T00:00:00.000Z",
    )  # fmt: skip


def test_what_was_said_goes_to_the_shard_of_its_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events in their order, maps, and which of their batches are blinded; of no other case."""
    monkeypatch.chdir(tmp_path)
    harmonized = finished(tmp_path, "harmonize_scans", CASES)
    told = [event("case_b", "b2"), event("case_c", "b3"), event("case_a", "b1")]
    told.append(event("case_withdrawn", "b1"))
    ledger = append_events(tmp_path / "ledger.jsonl", told)
    shown = [Base(name * 64, f"case_{name}", "liver", {1: "x", 2: "y"}) for name in "cab"]
    bases = {base.key: base for base in shown}

    def files(*given: Any) -> dict[str, Path]:
        paths = {shard: tmp_path / f"{shard}.json" for shard in CASES}
        write_shards(paths.values(), said_by_shard(harmonized, *given))
        return paths

    paths = files(ledger, bases, {"b2", "b3", "b9"})
    said = {shard: read_said(path) for shard, path in paths.items()}
    assert said["s0000"].events == [ledger[0], ledger[2]]
    assert said["s0000"].bases == [shown[1], shown[2]]
    assert said["s0000"].blinded == {"b2"}
    assert said["s0001"].events == [ledger[1]] and said["s0001"].blinded == {"b3"}
    assert not (said["s0002"].events or said["s0002"].bases or said["s0002"].blinded)
    before = {shard: path.read_bytes() for shard, path in paths.items()}
    more = append_events(tmp_path / "ledger.jsonl", [event("case_c", "b4")])
    files([*ledger, *more], bases, {"b2", "b3", "b4", "b9"})
    after = {shard: path.read_bytes() for shard, path in paths.items()}
    assert {shard for shard in CASES if after[shard] != before[shard]} == {"s0001"}
