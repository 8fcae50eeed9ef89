"""What leaves the hospital: public targets show no trace of internal sources, and only what
licences allow, and are whole nevertheless.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.conftest import ROOT
from tests.small_release import CASES, GRID, STATES, make_release, scan_row
from tests.test_release import forge_table
from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.structures import tumor_structures
from tumoratlas.core.tables import read_rows_of
from tumoratlas.harmonize.cases import POOLED_FILE
from tumoratlas.images.arrays import write_array
from tumoratlas.images.nifti import read_nifti
from tumoratlas.ingest.sources import Source
from tumoratlas.release.facts import TARGETS
from tumoratlas.release.licences.terms import read_permissions
from tumoratlas.release.verify.release import verify_release
from tumoratlas.review.packets.labels import ORGANS

# KIDNEY alone is in public targets: the masks of LIVER must not be altered, INTERNAL never leaves.
LIVER, INTERNAL, KIDNEY = CASES
NO_DERIVATIVES = {"source": "lits", "licence": "CC BY-NC-ND 4.0"}
IGNORE = 7
TRAIN = {"iid": "train", "ood": "train", "fold": "fold_0", "scaling": "scaling_1"}
Tables = dict[str, list[dict[str, Any]]]
Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Return what builds a release of a target, which has to be whole."""

    def built(target: str = "full", name: str = "", **changes: Any) -> Path:  # noqa: ANN401
        work = tmp_path / (name or target)
        work.mkdir()
        release = make_release(work, work / "release", target=target, **changes)
        assert verify_release(release).problems == []
        return release

    return built


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return an unchanged release of every target."""
    work = {target: tmp_path_factory.mktemp(target) for target in TARGETS}
    return {name: make_release(at, at / "release", target=name) for name, at in work.items()}


def rows_of(release: Path, table: str) -> list[dict[str, Any]]:
    return read_rows_of(release / f"tables/{table}.parquet")


def texts_of(release: Path) -> str:
    """Return every text that the release itself wrote."""
    kinds = (".csv", ".md", ".json", ".cff", ".html", ".svg")
    own = [path for path in sorted(release.rglob("*")) if path.suffix in kinds]
    own += sorted(release.glob("viewer/cases*.js"))
    return "\n".join(path.read_text(encoding="utf-8") for path in own)


def excluded_row(subject: str, code: str, reason: str, **others: str) -> dict[str, str]:
    row = {"id": subject, "rule": "deduplicate_scans", "code": code, "reason": reason}
    return row | {"evidence": "", "remedy": ""} | others


def volume(release: Path, name: str) -> np.ndarray:
    return read_nifti(release / f"label/{KIDNEY}/{name}", max_voxels=10**6).array


def withhold_kidney(case_id: str, case: dict[str, Any]) -> None:
    """Let the tumors of the kidney come from a source that forbids to alter them."""
    for mask in case["merged_row"]["masks"]:
        if (case_id, mask["organ"]) == (KIDNEY, "kidney"):
            mask |= {"source": "lits", "label_licence": NO_DERIVATIVES["licence"]}


def put_in_training(tables: Tables) -> None:
    for row in tables["splits"]:
        if row["case_id"] == KIDNEY:
            row["split"] = TRAIN[row["scheme"]]


def with_internal_copy(tables: Tables) -> None:
    """Let an internal scan be equal to the kept scan of KIDNEY."""
    copy = {"kept": False, "shard": None, "voxel_sha256": f"{9:064x}"}
    tables["scans"].append(scan_row(KIDNEY, "private", "DOE_JANE", "internal") | copy)
    tables["excluded"].append(
        excluded_row("private_DOE_JANE", "DUPLICATE", "equal to kits23_case_00030")
    )


# The changelog


@pytest.mark.parametrize(("target", "other"), [("full", "internal"), ("labels_only", "full")])
def test_a_public_release_does_not_go_on_from_another_target(
    build: Build, plain: dict[str, Path], target: str, other: str
) -> None:
    """Another one's changes name its cases."""
    with pytest.raises(ReleaseError) as caught:
        build(target, previous=plain[other])
    assert caught.value.code == "PREVIOUS_TARGET" and f"{other!r}" in caught.value.reason


def test_a_public_release_goes_on_from_its_own_target(build: Build, plain: dict[str, Path]) -> None:
    release = build("full", previous=plain["full"])
    assert INTERNAL not in (release / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_curators_release_may_go_on_from_any(build: Build, plain: dict[str, Path]) -> None:
    release = build("internal", previous=plain["full"])
    assert INTERNAL in (release / "CHANGELOG.md").read_text(encoding="utf-8")


# Internal sources


def test_a_public_target_names_no_internal_source_in_the_sources(
    build: Build, plain: dict[str, Path]
) -> None:
    """A sum over all sources would tell how many internal scans there are."""

    def copies(tables: Tables) -> None:
        for row in tables["sources"]:
            if row["source"] == "kits23":
                row["copies_of"] = "lits 2; private 1"

    assert {"private", "all"} <= {row["source"] for row in rows_of(plain["internal"], "sources")}
    release = build("full", change_tables=copies)
    rows = {row["source"]: row for row in rows_of(release, "sources")}
    assert rows.keys() == {"kits23", "lits", "panorama", "public"}
    assert rows["kits23"]["copies_of"] == "lits 2"


@pytest.mark.parametrize("target", ["internal", "full"])
def test_an_internal_source_without_a_readable_scan_stays_hidden(build: Build, target: str) -> None:
    """Its row of `sources` alone says that it is internal."""

    def unreadable(tables: Tables) -> None:
        for name, key in (("scans", "source"), ("relations", "scan_b"), ("repairs", "id"),
                          ("excluded", "reason"), ("reviews", "case_id")):  # fmt: skip
            tables[name] = [
                row for row in tables[name] if not row[key].startswith(("private", INTERNAL))
            ]
        tables["excluded"] = [r for r in tables["excluded"]
                              if "MILLER" not in r["reason"] and r["id"] != INTERNAL]  # fmt: skip
        path = "/mnt/private/MILLER_JOHN/ct.nii.gz"
        tables["excluded"].append(
            excluded_row("private_MILLER_JOHN", "GZIP_CRC", f"{path}: broken", evidence=path)
        )

    release = build(target, cases=(LIVER, KIDNEY), change_tables=unreadable)
    assert not re.search("miller|smith", texts_of(release), re.IGNORECASE)
    told = [row for row in rows_of(release, "excluded") if row["id"].startswith("private")]
    if target == "internal":
        assert {row["id"]: (row["code"], row["reason"]) for row in told} == {
            "private_deduplicate_scans_1": ("GZIP_CRC", "withheld: the source is internal"),
            "private_list_scans_1": ("NOT_UNDERSTOOD", "withheld: the source is internal"),
        }
    else:
        assert told == []
        assert "private" not in {row["source"] for row in rows_of(release, "sources")}


@pytest.mark.parametrize("target", TARGETS[1:])
def test_a_public_case_with_an_internal_copy_keeps_all_its_rows(
    build: Build, plain: dict[str, Path], target: str
) -> None:
    """The copy leaves with its scan and its reason; nothing of the case's own leaves with it."""
    copied = build(target, change_tables=with_internal_copy)
    for table in ("masks", "tumors", "licences", "splits", "crosswalk", "scans", "excluded"):
        assert rows_of(copied, table) == rows_of(plain[target], table) != [], table
    assert "DOE" not in texts_of(copied)


def test_the_curators_see_an_internal_copy_of_a_public_case(build: Build) -> None:
    release = build("internal", change_tables=with_internal_copy)
    assert f"private_{KIDNEY}" in {row["scan_id"] for row in rows_of(release, "scans")}
    assert "DOE" not in texts_of(release)


@pytest.mark.parametrize("target", TARGETS[1:])
def test_a_mask_of_an_internal_copy_is_known_and_withheld(build: Build, target: str) -> None:
    def labelled_by_the_copy(case_id: str, case: dict[str, Any]) -> None:
        for mask in case["merged_row"]["masks"]:
            if (case_id, mask["organ"]) == (KIDNEY, "kidney"):
                mask |= {"source": "private", "label_licence": "internal"}
                mask |= {"origin": "source", "signed_by": "r01"}

    release = build(target, change_case=labelled_by_the_copy, change_tables=with_internal_copy)
    masks = {row["organ"]: row for row in rows_of(release, "masks")}
    assert len(masks) == 6
    assert (masks["kidney"]["state"], masks["kidney"]["released"]) == ("present", False)
    for column in ("source", "label_licence", "origin", "signed_by"):
        assert not masks["kidney"][column], column
    assert not [row for row in rows_of(release, "tumors") if row["organ"] == "kidney"]
    licences = {row["file"]: row for row in rows_of(release, "licences")}
    joined = licences["tumor_labels.nii.gz"]
    assert joined[target] and joined["sources"] == ["kits23", "reviewers"]
    withheld = licences["instances/kidney.nii.gz"]
    assert not withheld[target] and withheld["sources"] == withheld["licences"] == []
    assert "private" not in " ".join(withheld["reasons"])
    assert "DOE" not in texts_of(release)


def test_the_reason_why_a_case_is_left_out_names_no_internal_source(build: Build) -> None:
    """All masks of the public case of the kidney are those of its internal copy."""
    own = {"source": "msd_ct", "licence": "CC BY-SA 4.0"}

    def exchange(case_id: str, case: dict[str, Any]) -> None:
        source, licence = ("private", "internal") if case_id == KIDNEY else own.values()
        if case_id == INTERNAL:
            return
        harmonized, merged = case["harmonized_row"], case["merged_row"]
        harmonized["source"] = "kits23" if case_id == KIDNEY else source
        origin = {"source": source, "licence": licence}
        harmonized["structures"] = dict.fromkeys(harmonized["structures"], origin)
        for mask in merged["masks"]:
            if mask["state"] != "unknown":
                mask |= {"source": source, "label_licence": licence}

    def tables_of(tables: Tables) -> None:
        with_internal_copy(tables)
        for row in tables["scans"]:
            if row["scan_id"] == "lits_12":
                row |= {"source": own["source"], "licence": own["licence"]}

    release = build("full", change_case=exchange, change_tables=tables_of)
    (row,) = [row for row in rows_of(release, "excluded") if row["code"] == "LICENCE"]
    assert row["id"] == KIDNEY and "no mask of the case may be in full" in row["evidence"]
    assert not re.search("private|internal", row["evidence"])


def test_a_group_named_after_an_internal_case_gets_a_public_name(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of its first public case, so that two such groups stay two."""
    monkeypatch.setitem(CASES, LIVER, ("msd_ct", "liver_12", "CC BY-SA 4.0"))
    other = "BDMAP_90000003"  # of it nothing but its row of `scans` is left
    groups = {LIVER: other, KIDNEY: INTERNAL}

    def regroup(tables: Tables) -> None:
        tables["scans"].append(scan_row(other, "private", "ROE_RICHARD", "internal"))
        tables["excluded"].append(excluded_row(other, "AFFINE_SINGULAR", "no inverse"))
        for row in tables["splits"]:
            row["group"] = groups.get(row["case_id"], row["group"])

    release = build("full", change_tables=regroup)
    found = {(row["case_id"], row["group"]) for row in rows_of(release, "splits")}
    assert found == {(LIVER, LIVER), (KIDNEY, KIDNEY)}


def test_a_case_that_touches_an_internal_test_set_stays_reserved(build: Build) -> None:
    """Why it is reserved is told without the names of the test set's scans."""
    scan = "an internal scan"

    def reserve(tables: Tables) -> None:
        facts = {"case_id": None, "kept": False, "shard": None, "role": "test_only"}
        copy = {"reserved": "JHH", "voxel_sha256": f"{19:064x}", "relation": "resample"}
        tables["scans"].append(scan_row(KIDNEY, "jhh", "ROE_RICHARD", "internal") | facts | copy)
        (row,) = [row for row in tables["leakage"] if row["case_id"] == KIDNEY]
        row |= {"test_set": "JHH", "test_scan_id": "jhh_ROE_RICHARD", "relation": "resample",
                "path": "kits23_case_00030 resampled jhh_ROE_RICHARD",
                "evidence": "jhh_ROE_RICHARD, kits23_case_00030: noise correlates by 0.9",
                "split": "reserved"}  # fmt: skip
        for split in tables["splits"]:
            if split["case_id"] == KIDNEY:
                split["split"] = "none" if split["scheme"] == "scaling" else "reserved"

    release = build("full", change_tables=reserve)
    (row,) = [row for row in rows_of(release, "leakage") if row["case_id"] == KIDNEY]
    assert (row["test_set"], row["test_scan_id"], row["split"]) == ("JHH", scan, "reserved")
    assert row["path"] == f"kits23_case_00030 resampled {scan}"
    assert row["evidence"].startswith(f"{scan}, kits23")
    assert "ROE" not in texts_of(release) and "jhh" not in texts_of(release)


def two_internal_sources(tables: Tables) -> None:
    """Add scans and files of a source whose name begins with another one's."""
    scan = scan_row("BDMAP_90000005", "private_b", "ZOE", "internal")
    facts = {"case_id": None, "kept": False, "shard": None, "voxel_sha256": f"{39:064x}"}
    tables["scans"].append(scan | facts)
    tables["excluded"] += [
        excluded_row("private_b/zed/x.png", "NOT_UNDERSTOOD", "r", rule="list_scans"),
        excluded_row("private_b_ZOE", "DUPLICATE", "r"),
    ]


def test_the_order_of_sets_is_nowhere_in_the_bytes(build: Build, tmp_path: Path) -> None:
    """Sets of texts have another order in every process; with this seed the short name is first."""
    here = build("internal", change_tables=two_internal_sources)
    work = tmp_path / "other"
    work.mkdir()
    code = (
        "from pathlib import Path\n"
        "from tests.small_release import make_release\n"
        "from tests.test_public_targets import two_internal_sources as change\n"
        f"work = Path({str(work)!r})\n"
        "make_release(work, work / 'release', change_tables=change)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "2"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    there = work / "release"
    assert (here / "SHA256SUMS").read_bytes() == (there / "SHA256SUMS").read_bytes()
    ids = {row["id"] for row in rows_of(there, "excluded") if row["rule"] == "list_scans"}
    assert {"private_list_scans_1", "private_b_list_scans_1"} <= ids


# Licences


@pytest.mark.parametrize("other", [None, "pancreas"])
def test_where_tumors_are_withheld_all_else_is_ignored(
    build: Build, monkeypatch: pytest.MonkeyPatch, other: str | None
) -> None:
    """A withheld tumor may lie beside its organ's mask: nowhere is the label surely 0."""
    states = dict.fromkeys(tumor_structures(), "confirmed_empty") | {"kidney": "present"}
    states |= {other: "present"} if other else {}
    monkeypatch.setitem(STATES, KIDNEY, states)
    release = build("full", change_case=withhold_kidney, change_tables=put_in_training)
    labels = volume(release, "tumor_labels.nii.gz")
    known = np.zeros(GRID.shape, bool)
    if other:
        known = volume(release, f"segmentations/{tumor_structures()[other].name}.nii.gz") > 0
    np.testing.assert_array_equal(
        labels, np.where(known, ORGANS.index(other) + 1 if other else 0, IGNORE)
    )
    assert known.any() == bool(other)
    assert not (release / f"label/{KIDNEY}/instances/kidney.nii.gz").exists()
    assert is_listed(release) == bool(other)


@pytest.mark.parametrize("other", [None, "pancreas"])
def test_where_pooled_lesions_are_withheld_all_else_is_ignored(
    build: Build, monkeypatch: pytest.MonkeyPatch, other: str | None
) -> None:
    """Their organ is not said, so that they may lie anywhere."""
    lesion = np.s_[21:23, 28:31, 28:31]
    states = dict.fromkeys(tumor_structures(), "confirmed_empty") | {"uterus": "unknown"}
    monkeypatch.setitem(STATES, KIDNEY, states | ({other: "present"} if other else {}))

    def pool(case_id: str, case: dict[str, Any]) -> None:
        if case_id == KIDNEY:
            pooled = np.zeros(GRID.shape, np.uint8)
            pooled[lesion] = 1
            write_array(case["harmonized"] / POOLED_FILE, pooled, grid=GRID.to_json())
            case["harmonized_row"]["pooled"] = NO_DERIVATIVES

    def add_row(tables: Tables) -> None:
        put_in_training(tables)
        row = {"tumor_id": "ab" * 8, "organ": "unassigned", "lesion_kind": "lesion",
               "origin": "pooled", "case_id": KIDNEY, "number": 1}  # fmt: skip
        tables["tumors"].append(tables["tumors"][0] | row)

    release = build("full", change_case=pool, change_tables=add_row)
    labels = volume(release, "tumor_labels.nii.gz")
    assert (labels[lesion] == IGNORE).all() and not (labels == 0).any()
    assert not [row for row in rows_of(release, "tumors") if row["lesion_kind"] == "lesion"]
    assert not (release / f"label/{KIDNEY}/instances/pooled.nii.gz").exists()
    assert is_listed(release) == bool(other)


def is_listed(release: Path) -> bool:
    """Return whether lists for training name the case, all or none of them."""
    nnunet = release / "layouts/nnunet/Dataset620_TumorAtlas/dataset.json"
    monai = release / "layouts/monai/datalist_iid.json"
    named = [path.is_file() and KIDNEY in path.read_text() for path in (nnunet, monai)]
    assert len(set(named)) == 1
    return named[0]


def test_joined_files_name_what_the_target_holds(build: Build) -> None:
    for target, sources in (
        ("internal", {"kits23", "lits", "reviewers"}),
        ("full", {"kits23", "reviewers"}),
    ):
        rows = [row for row in rows_of(build(target, change_case=withhold_kidney), "licences")
                if row["case_id"] == KIDNEY and row["file"].endswith("_labels.nii.gz")]  # fmt: skip
        assert len(rows) == 2
        for row in rows:
            assert set(row["sources"]) == sources and len(row["licences"]) == len(row["sources"])


@pytest.mark.parametrize("target", TARGETS[1:])
def test_masks_whose_licences_exclude_each_other_are_not_joined(build: Build, target: str) -> None:
    """Each stays beside the other; what joins both could keep neither's promise."""

    def share_alike(case_id: str, case: dict[str, Any]) -> None:
        if case_id == KIDNEY:
            origin = {"source": "msd_ct", "licence": "CC BY-SA 4.0"}
            case["harmonized_row"]["structures"] |= {"spleen": origin}

    release = build(target, change_case=share_alike, change_tables=put_in_training)
    files = {path.name for path in (release / f"label/{KIDNEY}").rglob("*")}
    assert {"spleen.nii.gz", "liver.nii.gz", "kidney_lesion.nii.gz"} <= files
    assert not {"combined_labels.nii.gz", "tumor_labels.nii.gz"} & files
    for row in rows_of(release, "licences"):
        if row["file"].endswith("_labels.nii.gz"):
            assert not row[target] and row["internal"]
            told = f"not in {target}: CC BY-NC-SA 4.0 and CC BY-SA 4.0 exclude each other"
            assert told in row["reasons"]
    lists = [path.read_text() for path in release.glob("layouts/**/*.json")]
    assert "tumor_labels.nii.gz" not in "".join(lists)
    # Without scan and joined files there still is a grid to measure on.
    forge_table(release, "tumors", lambda rows: rows[0].update(max_3d_mm=99.0))
    assert "TUMORS" in {line.split(":")[0] for line in verify_release(release).problems}


@pytest.mark.parametrize("date", ["20251021", "2025-W43-2", "2025-294", "2025-13-01"])
def test_a_date_has_one_way_to_be_written(tmp_path: Path, date: str) -> None:
    path = tmp_path / "permissions.csv"
    row = f"lits,both,full,Doe,{date},letter"
    path.write_text(f"source,covers,terms,holder,date,evidence\n{row}\n", encoding="utf-8")
    with pytest.raises(ReleaseError, match="PERMISSION.*date"):
        read_permissions(path, sources={"lits"}, internal=set())


# Documents


def test_hostile_names_keep_documents_whole(build: Build) -> None:
    name = 'KiTS "23": a | pipe\\ and - a dash #\n- [x]: &y *z'

    def rename(source: Source) -> Source:
        texts = {"name": name, "licence_note": "a | b\nsecond: line", "citation": 'O"Neil: |x|\ny'}
        return replace(source, **texts) if source.id == "kits23" else source

    release = build("full", change_source=rename)
    citation = yaml.safe_load((release / "CITATION.cff").read_text(encoding="utf-8"))
    cited = {row["title"]: row["authors"] for row in citation["references"]}
    assert cited[name] == [{"name": 'O"Neil: |x|\ny'}]
    head = (release / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    assert isinstance(yaml.safe_load(head), dict)
    json.loads((release / "croissant.json").read_text(encoding="utf-8"))
    for place in ("README.md", "datasheet.md"):
        lines = (release / place).read_text(encoding="utf-8").splitlines()
        (row,) = [n for n, line in enumerate(lines) if line.startswith("| kits23 |")]
        first = max(n for n in range(row) if not lines[n].startswith("|")) + 1
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines[first : row + 1]]
        assert lines[first].startswith("| source") and len(set(cells)) == 1, place
        assert "| pipe" not in lines[row].replace("\\|", "")


def test_the_datasheet_counts_withheld_masks_apart(build: Build) -> None:
    told = " ".join((build("full", change_case=withhold_kidney) / "datasheet.md").read_text()
                    .split())  # fmt: skip
    assert (
        "Of the 6 pairs of scan and organ, 0 hold a tumor or cyst, 1 are confirmed empty, "
        "4 are unknown, 1 are known and withheld by licence." in told
    )


def test_a_contradicted_lesion_is_an_issue_of_its_cases_source(build: Build) -> None:
    def contradict(tables: Tables) -> None:
        subject = f"{KIDNEY}/pancreas"
        told = {"rule": "measure_tumors", "evidence": "5 voxels from voxel (1, 2, 3)"}
        tables["excluded"].append(
            excluded_row(subject, "POOLED_CONTRADICTED", "a pooled lesion", **told)
        )

    release = build("full", change_tables=contradict)
    with open(release / "KNOWN_ISSUES.csv", newline="", encoding="utf-8") as file:
        (row,) = [row for row in csv.DictReader(file) if row["issue"] == "POOLED_CONTRADICTED"]
    assert (row["source"], row["case_id"]) == ("kits23", KIDNEY)
    assert "5 voxels" in row["what"]


def test_a_case_that_became_an_internal_one_is_not_told(build: Build) -> None:
    def withdraw(tables: Tables) -> None:
        for case_id, target in (("BDMAP_90000008", KIDNEY), ("BDMAP_90000009", INTERNAL)):
            reason = f"turned out to be the same scan as {target}; its id is never used again"
            row = excluded_row(case_id, "CASE_WITHDRAWN", reason, remedy=f"Use {target}")
            tables["excluded"].append(row | {"rule": "assign_cases"})

    for target, ids in (
        ("internal", ["BDMAP_90000008", "BDMAP_90000009"]),
        ("full", ["BDMAP_90000008"]),
    ):
        release = build(target, change_tables=withdraw)
        with open(release / "withdrawn.csv", newline="", encoding="utf-8") as file:
            assert [row["case_id"] for row in csv.DictReader(file)] == ids
        assert ("BDMAP_90000009" in texts_of(release)) == (target == "internal")
