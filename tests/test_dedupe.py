"""Groups of copies, the scan that is kept, case ids for ever, and patients."""

import random
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumoratlas.core.errors import InputError
from tumoratlas.ingest.alignment import Alignment
from tumoratlas.ingest.dedupe import deduplicate, link_patients, relations_table
from tumoratlas.ingest.registry import (
    append_case_ids,
    assign_cases,
    read_case_ids,
    withdrawn_cases,
)
from tumoratlas.ingest.steps import case_members

PRECEDENCE = ["msd_ct", "lits", "kits23", "ct_org", "flare23", "abdomenatlas11"]
CASES = {"parents": ["abdomenatlas11"], "first_case_id": 90000001, "shards": 4}


def scan(scan_id: str, content: str = "", **changes: Any) -> dict[str, Any]:
    """Return a fingerprint's row: source and case from ``<source>/<case>``."""
    source, case = scan_id.split("/")
    row = {
        "scan_id": f"{source}_{case}", "source": source, "source_case": case, "role": "pool",
        "patient_key": f"{source}/{case}", "links": [], "reserved": "", "repairs": [],
        "voxel_sha256": (content or scan_id).ljust(64, "0"), "shape": [10, 20, 20],
        "spacing_mm": [0.7, 0.7, 2.5], "false_spacing": False, "file_sha256": scan_id,
        "label_sha256": {},
    }  # fmt: skip
    return row | changes


def relation(a: str, b: str, kind: str = "same", shift: tuple[int, ...] = (0, 0, 0)) -> dict:
    """Return a confirmed relation; index of b = index of a + shift."""
    matrix = np.hstack([np.eye(3), np.reshape(shift, (3, 1))])
    way = Alignment(tuple(tuple(map(float, row)) for row in matrix))
    return {"a": a, "b": b, "relation": kind, "alignment": way.to_json()}


def kept(rows: list[dict[str, Any]]) -> list[str]:
    """Return the scans that are kept."""
    return [row["scan_id"] for row in rows if row["kept"]]


def test_precedence_keeps_one_of_each_group_and_names_the_others() -> None:
    """LiTS = MSD = CT-ORG, a parent's crop and a resampled FLARE copy: one case."""
    scans = [
        scan("lits/7", "x"), scan("msd_ct/liver_7", "x"), scan("ct_org/volume-7", "x"),
        scan("abdomenatlas11/BDMAP_00000009"), scan("flare23/FLARE23_0003"), scan("lits/8"),
    ]  # fmt: skip
    relations = [
        relation("ct_org_volume-7", "lits_7"), relation("ct_org_volume-7", "msd_ct_liver_7"),
        relation("abdomenatlas11_BDMAP_00000009", "ct_org_volume-7", "crop", (0, 3, 4)),
        relation("ct_org_volume-7", "flare23_FLARE23_0003", "resample"),
        relation("lits_7", "lits_8", "none"),
    ]  # fmt: skip
    rows, excluded = deduplicate(scans, relations, PRECEDENCE)
    assert kept(rows) == ["lits_8", "msd_ct_liver_7"]
    assert {row["id"]: row["code"] for row in excluded} == {
        "abdomenatlas11_BDMAP_00000009": "CROPPED_COPY",
        "ct_org_volume-7": "DUPLICATE",
        "flare23_FLARE23_0003": "RESAMPLED_COPY",
        "lits_7": "DUPLICATE",
    }
    parent = next(row for row in rows if row["source"] == "abdomenatlas11")
    way = Alignment.from_json(parent["alignment"])
    mask = np.zeros((2, 3, 4), bool)
    mask[1, 2, 3] = True
    carried, _ = way.carry(mask, (10, 20, 20))
    assert np.argwhere(carried).tolist() == [[1, 5, 7]]
    for some in permutations(scans, 6):
        assert deduplicate(some, relations, PRECEDENCE) == (rows, excluded)


def test_a_test_set_is_never_kept_and_told() -> None:
    """3D-IRCADb alone leaves no case; with its LiTS twin it leaves that one."""
    test = scan("ircadb/1", "x", role="test_only", reserved="3D-IRCADb-01")
    rows, excluded = deduplicate([test], [], PRECEDENCE)
    assert not kept(rows) and excluded[0]["code"] == "TEST_SET"
    twin = scan("lits/28", "x")
    rows, excluded = deduplicate([test, twin], [relation("ircadb_1", "lits_28")], ["ircadb"])
    assert kept(rows) == ["lits_28"]
    assert [(row["id"], row["code"]) for row in excluded] == [("ircadb_1", "TEST_SET")]
    assert "lits_28" in excluded[0]["evidence"]


def test_a_false_spacing_is_never_kept() -> None:
    """Known by its case, or because an equal copy has another spacing."""
    unit = {"spacing_mm": [1.0, 1.0, 1.0]}
    known = scan("lits/28", "x", false_spacing=True, **unit)
    seen = scan("ct_org/volume-28", "x", **unit)
    true = scan("flare23/FLARE23_0100", "x")
    same = [relation("ct_org_volume-28", n) for n in ("lits_28", "flare23_FLARE23_0100")]
    rows, excluded = deduplicate([known, seen, true], same, PRECEDENCE)
    assert kept(rows) == ["flare23_FLARE23_0100"]
    assert {row["code"] for row in excluded} == {"DUPLICATE"}
    repaired = {row["scan_id"]: row["repairs"] for row in rows}
    text = "spacing_from_copy: 1 x 1 x 1 mm -> 0.7 x 0.7 x 2.5 mm (flare23_FLARE23_0100)"
    assert repaired == {
        "lits_28": [text], "ct_org_volume-28": [text], "flare23_FLARE23_0100": [],
    }  # fmt: skip
    rows, excluded = deduplicate([known], [], PRECEDENCE)
    assert not kept(rows) and [row["code"] for row in excluded] == ["FALSE_SPACING"]
    # An isotropic scan whose copies agree is what it says.
    rows, _ = deduplicate([seen], [], PRECEDENCE)
    assert kept(rows) == ["ct_org_volume-28"]


def test_of_two_chains_the_exact_one_carries() -> None:
    """A resampled link is never taken where exact ones lead to the kept scan."""
    scans = [scan("msd_ct/a"), scan("lits/b"), scan("kits23/c")]
    relations = [
        relation("lits_b", "msd_ct_a", "resample", (9, 9, 9)),
        relation("kits23_c", "lits_b", "crop", (1, 0, 0)),
        relation("kits23_c", "msd_ct_a", "crop", (3, 0, 0)),
    ]
    rows, _ = deduplicate(scans, relations, PRECEDENCE)
    way = next(row for row in rows if row["scan_id"] == "lits_b")
    assert way["relation"] == "crop"
    carried, _ = Alignment.from_json(way["alignment"]).carry(np.ones((1, 1, 1), bool), (5, 1, 1))
    assert np.argwhere(carried).tolist() == [[2, 0, 0]]


def run_cases(
    scans: list[dict[str, Any]], relations: list[dict[str, Any]], registry: Path, order: list[str]
) -> dict[str, str]:
    """Deduplicate and assign as the rules do; return the case id of every scan."""
    rows, _ = deduplicate(scans, relations, order)
    registered = read_case_ids(registry)
    withdrawn = [row["id"] for row in withdrawn_cases(registry)]
    rows, new = assign_cases(rows, registered, withdrawn=withdrawn, **CASES)
    append_case_ids(registry, new, registered, {case: case for case in new.values()})
    return {row["scan_id"]: row["case_id"] for row in rows}


def test_ids_stay_when_sources_come_go_and_change_places(tmp_path: Path) -> None:
    """A case keeps its id whichever of its copies is kept or left."""
    registry = tmp_path / "case_ids.jsonl"
    lits, msd = scan("lits/7", "x"), scan("msd_ct/liver_7", "y")
    parent, other = scan("abdomenatlas11/BDMAP_00000009"), scan("kits23/1")
    crop = relation("abdomenatlas11_BDMAP_00000009", "lits_7", "crop")
    grown = [crop, relation("lits_7", "msd_ct_liver_7", "resample")]
    first = run_cases([lits, other, parent], [crop], registry, PRECEDENCE)
    assert first["lits_7"] == first["abdomenatlas11_BDMAP_00000009"] == "BDMAP_00000009"
    assert first["kits23_1"] == "BDMAP_90000001"
    everything = [lits, msd, parent, other]
    for order in (PRECEDENCE, PRECEDENCE[::-1]):
        ids = run_cases(everything, grown, registry, order)
        assert {ids[s["scan_id"]] for s in everything[:3]} == {"BDMAP_00000009"}
        assert ids["kits23_1"] == "BDMAP_90000001"
    # Only the copy that came last is left; its id is still the case's.
    assert run_cases([msd], [], registry, PRECEDENCE) == {"msd_ct_liver_7": "BDMAP_00000009"}
    before = registry.read_bytes()
    run_cases(everything, grown, registry, PRECEDENCE)
    assert registry.read_bytes() == before
    assert withdrawn_cases(registry) == []


def test_ids_survive_any_history(tmp_path: Path) -> None:
    """Whatever comes, goes and comes again, a content has the id that it first had."""
    registry = tmp_path / "case_ids.jsonl"
    lits = [scan("lits/0", "a"), scan("lits/1", "b"), scan("lits/2", "c")]
    msd = [scan("msd_ct/liver_1", "b"), scan("msd_ct/liver_9", "d")]
    parent = [scan("abdomenatlas11/BDMAP_00000007", "a"), scan("abdomenatlas11/BDMAP_00000003")]
    same = [
        relation("abdomenatlas11_BDMAP_00000007", "lits_0"), relation("lits_1", "msd_ct_liver_1"),
    ]  # fmt: skip
    known: dict[str, str] = {}
    history: list[bytes] = []
    runs = [lits, lits + msd, msd, msd + parent, lits[1:], parent + msd + lits, lits]
    for number, scans in enumerate(runs):
        shuffled = random.Random(number).sample(scans, len(scans))
        names = {row["scan_id"] for row in scans}
        confirmed = [row for row in same if {row["a"], row["b"]} <= names]
        ids = run_cases(shuffled, confirmed, registry, PRECEDENCE[:: 1 if number % 2 else -1])
        assert all(known.setdefault(name, case) == case for name, case in ids.items())
        history.append(registry.read_bytes())
    assert all(new.startswith(old) for old, new in pairwise(history))
    # LiTS 0 had its id before the parent release came: it keeps that one.
    assert known["lits_0"] == known["abdomenatlas11_BDMAP_00000007"] == "BDMAP_90000001"
    assert known["abdomenatlas11_BDMAP_00000003"] == "BDMAP_00000003"
    assert withdrawn_cases(registry) == []


def test_only_a_kept_scan_has_a_shard_and_a_group_without_one_no_id() -> None:
    """A false spacing without a true copy, and a copy of a kept scan."""
    scans = [
        scan("lits/1", "x"), scan("msd_ct/liver_1", "x"), scan("lits/28", false_spacing=True),
    ]  # fmt: skip
    rows, _ = deduplicate(scans, [relation("lits_1", "msd_ct_liver_1")], PRECEDENCE)
    rows, new = assign_cases(rows, {}, withdrawn=[], **CASES)
    by_id = {row["scan_id"]: row for row in rows}
    assert by_id["lits_1"]["case_id"] == by_id["msd_ct_liver_1"]["case_id"] == "BDMAP_90000001"
    assert by_id["lits_28"]["case_id"] is None and list(new) == ["x".ljust(64, "0")]
    assert [row["shard"] is not None for row in rows] == [row["kept"] for row in rows]


def test_a_taken_number_is_never_given_again() -> None:
    """New numbers skip those of the registry, in use or withdrawn."""
    rows, _ = deduplicate([scan("lits/1"), scan("lits/2")], [], PRECEDENCE)
    registered = {"x" * 64: "BDMAP_90000001", "y" * 64: "BDMAP_90000003"}
    _, new = assign_cases(rows, registered, withdrawn=["BDMAP_90000002"], **CASES)
    assert sorted(new.values()) == ["BDMAP_90000004", "BDMAP_90000005"]


def test_two_cases_that_turn_out_to_be_one(tmp_path: Path) -> None:
    """The first id stays, the other is withdrawn for ever; parting again takes a new one."""
    registry = tmp_path / "case_ids.jsonl"
    scans = [scan("lits/1"), scan("kits23/2")]
    ids = run_cases(scans, [], registry, PRECEDENCE)
    assert ids == {"kits23_2": "BDMAP_90000001", "lits_1": "BDMAP_90000002"}
    joined = [relation("kits23_2", "lits_1", "crop")]
    for _ in range(2):
        ids = run_cases(scans, joined, registry, PRECEDENCE)
        assert set(ids.values()) == {"BDMAP_90000001"}
        (row,) = withdrawn_cases(registry)
        assert (row["id"], row["code"]) == ("BDMAP_90000002", "CASE_WITHDRAWN")
        assert "BDMAP_90000001" in row["reason"]
    for _ in range(2):
        ids = run_cases(scans, [], registry, PRECEDENCE)
        assert ids == {"kits23_2": "BDMAP_90000001", "lits_1": "BDMAP_90000003"}


def test_a_damaged_registry_is_refused(tmp_path: Path) -> None:
    """A content with two ids means that a published id could change."""
    registry = tmp_path / "case_ids.jsonl"
    append_case_ids(registry, {"x": "BDMAP_1"}, {}, {"BDMAP_1": "BDMAP_1"})
    append_case_ids(registry, {"x": "BDMAP_2"}, {}, {"BDMAP_2": "BDMAP_2"})
    with pytest.raises(InputError, match="REGISTRY"):
        read_case_ids(registry)


def test_parents_that_name_one_scan_twice(tmp_path: Path) -> None:
    """The parent release holds a scan under two ids: the lower one is the case's."""
    scans = [scan("abdomenatlas11/BDMAP_00000007"), scan("abdomenatlas11/BDMAP_00000003")]
    pair = [relation("abdomenatlas11_BDMAP_00000003", "abdomenatlas11_BDMAP_00000007", "crop")]
    ids = run_cases(scans, pair, tmp_path / "ids.jsonl", PRECEDENCE)
    assert set(ids.values()) == {"BDMAP_00000003"}


def test_patients_and_test_sets_through_chains() -> None:
    """Keys, links of headers, copies and overlaps; refuted pairs link nothing."""
    scans = [
        scan("rsna_atd23/1", patient_key="rsna_atd23/p"),
        scan("rsna_atd23/2", patient_key="rsna_atd23/p"),
        scan("private/a", links=["patient p1"]), scan("private/b", links=["patient p1"]),
        scan("lits/28"), scan("msd_ct/liver_28"),
        scan("ircadb/1", role="test_only", reserved="3D-IRCADb-01"),
        scan("panorama/1", role="test_only", reserved="PANORAMA"), scan("kits23/9"),
    ]  # fmt: skip
    relations = [
        relation("lits_28", "msd_ct_liver_28"), relation("ircadb_1", "lits_28", "overlap"),
        relation("msd_ct_liver_28", "panorama_1", "resample"),
        relation("kits23_9", "panorama_1", "none"),
    ]  # fmt: skip
    found = link_patients(scans, relations)
    assert found["rsna_atd23_1"] == found["rsna_atd23_2"]
    assert found["private_a"] == found["private_b"] != found["rsna_atd23_1"]
    assert found["msd_ct_liver_28"][1] == "3D-IRCADb-01; PANORAMA"
    assert found["lits_28"] == found["ircadb_1"] == found["msd_ct_liver_28"]
    assert found["kits23_9"][1] == "" and found["rsna_atd23_1"][1] == ""


def test_members_carry_group_test_set_and_alignment() -> None:
    """What harmonize and splits need of a case; a group is called by its first case."""
    scans = [
        scan("lits/1", patient_key="p"), scan("lits/2", patient_key="p"),
        scan("flare23/3"), scan("ircadb/1", role="test_only", reserved="3D-IRCADb-01"),
    ]  # fmt: skip
    relations = [
        relation("flare23_3", "lits_1", "crop", (1, 2, 3)), relation("ircadb_1", "lits_2"),
    ]  # fmt: skip
    rows, _ = deduplicate(scans, relations, PRECEDENCE)
    rows, _ = assign_cases(rows, {}, withdrawn=[], **CASES)
    listed = {s["scan_id"]: {"scan_id": s["scan_id"], "source": s["source"]} for s in scans}
    cases = case_members(rows, relations, listed, {})
    assert list(cases) == ["BDMAP_90000001", "BDMAP_90000002"]
    assert {case["group"] for case in cases.values()} == {"BDMAP_90000001"}
    assert {case["reserved"] for case in cases.values()} == {"3D-IRCADb-01"}
    by_kept = {case["members"][0]["scan_id"]: case["members"] for case in cases.values()}
    assert [m["scan_id"] for m in by_kept["lits_1"]] == ["lits_1", "flare23_3"]
    assert [m["scan_id"] for m in by_kept["lits_2"]] == ["lits_2"]
    assert by_kept["lits_1"][0]["alignment"] is None
    assert by_kept["lits_1"][1]["alignment"] == relations[0]["alignment"]


def test_a_group_keeps_its_name_when_cases_join_and_leave() -> None:
    """The name places a case in its split: it is that of the case that was registered first."""
    scans = [scan("lits/1", patient_key="p"), scan("abdomenatlas11/BDMAP_00000009")]
    joined = [relation("abdomenatlas11_BDMAP_00000009", "lits_1", "overlap")]
    listed = {s["scan_id"]: s for s in scans}

    def groups(published: dict[str, str], some: list[dict[str, Any]]) -> set[str]:
        rows, _ = deduplicate(some, joined, PRECEDENCE)
        registered = {scans[0]["voxel_sha256"]: "BDMAP_90000001"}
        rows, _ = assign_cases(rows, registered, withdrawn=[], **CASES)
        return {c["group"] for c in case_members(rows, joined, listed, published).values()}

    assert groups({}, scans) == {"BDMAP_00000009"}
    assert groups({"BDMAP_90000001": "BDMAP_90000001"}, scans) == {"BDMAP_90000001"}
    # The case that named the group is gone; the other one stays where it was.
    named = {"BDMAP_00000009": "BDMAP_00000009", "BDMAP_90000001": "BDMAP_00000009"}
    assert groups(named, scans[:1]) == {"BDMAP_00000009"}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_groups_are_the_connected_components(pairs: list[tuple[int, int]]) -> None:
    """Against a search over the graph, for any relations in any order."""
    scans = [scan(f"lits/{n}") for n in range(10)]
    relations = [relation(f"lits_{a}", f"lits_{b}") for a, b in pairs if a != b]
    rows, _ = deduplicate(scans, relations, PRECEDENCE)
    again, _ = deduplicate(scans[::-1], relations, PRECEDENCE)
    assert rows == again
    reached = {f"lits_{n}": {f"lits_{n}"} for n in range(10)}
    for _ in range(10):
        for row in relations:
            joined = reached[row["a"]] | reached[row["b"]]
            for name in joined:
                reached[name] = joined
    groups = {row["scan_id"]: row["duplicate_group"] for row in rows}
    for row in rows:
        mates = {name for name, group in groups.items() if group == row["duplicate_group"]}
        assert mates == reached[row["scan_id"]]
    assert len(kept(rows)) == len(set(groups.values()))


def test_relations_become_rows_of_their_table() -> None:
    """Both scans are named, refuted pairs too."""
    (row,) = relations_table([relation("a", "b", "none")])
    assert (row["scan_a"], row["scan_b"], row["relation"]) == ("a", "b", "none")
