"""Tests of what comes back from reviewers: forms, batches, earlier bases, files of every tool."""

import copy
import csv
import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from numpy.typing import NDArray

from tests.segmentations import (
    cut,
    dicom_slices,
    segment,
    write_dicom_seg,
    write_itk_seg_nrrd,
    write_slicer,
)
from tumoratlas.core.errors import ReviewError
from tumoratlas.images.dicom import read_series
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import write_nifti
from tumoratlas.review.bases import Base, read_bases, record_bases, store_base
from tumoratlas.review.ledger import REJECT_REASONS, Event
from tumoratlas.review.masks import load_mask
from tumoratlas.review.packets.batch import DECISION_COLUMNS
from tumoratlas.review.packets.labels import (
    SCANS,
    CaseLabels,
    add_labels,
    write_case_labels,
    write_monai_datastore,
)
from tumoratlas.review.returns.mask_files import read_returned
from tumoratlas.review.returns.read import read_returns

CASE = "BDMAP_00000001"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ROSTER = pd.DataFrame(
    [("R1", "senior"), ("R2", "junior"), ("007", "senior")], columns=["reviewer_id", "role"]
)
SHAPE = (12, 20, 16)
_AFFINE = np.array(
    [[0.768, -0.252, 0, -31.5], [0.224, 0.864, 0, 12.25], [0, 0, 2.5, -400], [0, 0, 0, 1]]
)
GRID = Grid.of(SHAPE, _AFFINE)
BOXES = {
    "liver": {1: np.s_[1:4, 2:6, 2:7], 2: np.s_[6:8, 10:13, 8:10], 3: np.s_[9:11, 15:18, 1:4]},
    # Its first candidate covers one voxel of the liver's first.
    "kidney": {1: np.s_[3:5, 5:8, 6:9], 2: np.s_[9:11, 1:3, 1:3]},
}
EARLIER = {1: np.s_[1:4, 2:6, 2:8]}


def draw(boxes: dict[int, tuple[slice, ...]]) -> NDArray[np.uint16]:
    array = np.zeros(SHAPE, np.uint16)
    for label, box in boxes.items():
        array[box] = label
    return array


def hex_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


SHOWN = {organ: draw(boxes) for organ, boxes in BOXES.items()}
IDS = {organ: {n: hex_id(f"{organ} {n}") for n in boxes} for organ, boxes in BOXES.items()}
OLD_ID = hex_id("an earlier model's")


@dataclass
class Desk:
    """A folder of returned work, the record of what was sent, and the importer's arguments."""

    folder: Path
    store: Path
    now: dict[str, Base]
    issued: dict[tuple[str, str, str], Base]
    old: Base
    batches: list[dict[str, Any]] = field(default_factory=list)
    minute: int = 0

    def row(self, decision: str, candidate: int = 0, **cells: str) -> dict[str, str]:
        self.minute += 1
        organ = cells.get("organ", "liver")
        return {
            "case_id": CASE, "organ": organ, "candidate_id": IDS[organ].get(candidate, ""),
            "decision": decision, "reviewer_id": "R1",
            "time": f"2026-11-21T10:{self.minute:02d}:00Z", "seconds": "5", "reason": "",
            "comment": "", "tool": "", "base_sha256": self.now[organ].base_sha256, "mask": "",
            **cells,
        }  # fmt: skip

    def csv(self, *rows: dict[str, str], name: str = "decisions.csv", **form: Any) -> None:
        path = self.folder / name
        with open(path, "w", newline="", encoding=form.pop("encoding", "utf-8")) as file:
            writer = csv.DictWriter(file, DECISION_COLUMNS, **form)
            writer.writeheader()
            writer.writerows(rows)

    def json(self, *rows: dict[str, Any], name: str = "decisions.json", **head: Any) -> None:
        decisions = [
            {k: v for k, v in row.items() if k not in ("reviewer_id", "tool")} for row in rows
        ]
        export = {
            "format": "tumoratlas-decisions", "schema": 1, "batch": "b1", "reviewer_id": "R1",
            "tool": "triage page 1", "exported": "2026-11-21T11:00:00.000Z",
            "decisions": decisions, **head,
        }  # fmt: skip
        (self.folder / name).write_text(json.dumps(export))

    def read(self) -> tuple[list[Event], dict[str, str]]:
        """Return the events, and the code of each row left out."""
        candidates = [
            {"candidate_id": c, "number": n, "case_id": CASE, "organ": organ}
            for organ, base in self.now.items()
            for n, c in base.candidates.items()
        ]
        events, excluded = read_returns(
            self.folder, batch="b1", candidates=pd.DataFrame(candidates),
            bases={(CASE, o): base.base_sha256 for o, base in self.now.items()},
            grids={CASE: GRID}, reviewers=ROSTER, store=self.store, now=NOW,
            batches=self.batches, issued=self.issued,
        )  # fmt: skip
        for row in excluded:
            assert row["rule"] == "check_review" and row["reason"] and row["remedy"]
            text = " ".join(row.values())
            assert "\n" not in text and str(self.folder) not in text
        assert len(excluded) == len({row["id"] for row in excluded})
        return events, {row["id"]: row["code"] for row in excluded}

    def codes(self) -> list[str]:
        return sorted(self.read()[1].values())

    def mask(self, event: Event) -> NDArray[np.uint16]:
        return load_mask(self.store, event.mask_sha256, max_voxels=SHOWN["liver"].size)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Return a desk; the maps of both organs and one of an earlier model were sent out."""
    (tmp_path / "b1").mkdir()

    def base(organ: str, array: NDArray[np.uint16], ids: dict[int, str]) -> Base:
        return store_base(
            tmp_path / "store", case_id=CASE, organ=organ, candidates=array, candidate_ids=ids,
            grid=GRID,
        )  # fmt: skip

    now = {organ: base(organ, SHOWN[organ], IDS[organ]) for organ in BOXES}
    old = base("liver", draw(EARLIER), {1: OLD_ID})
    record_bases(tmp_path / "bases.jsonl", [*now.values(), old])
    issued = read_bases(tmp_path / "bases.jsonl")
    return Desk(tmp_path / "b1", tmp_path / "store", now, issued, old)


def said(events: list[Event]) -> list[tuple[str, str | None]]:
    return [(e.decision, e.candidate_id) for e in events]


# What was shown ----------------------------------------------------------------------------


def test_bases_are_recorded_once(tmp_path: Path) -> None:
    path, bases = tmp_path / "bases.jsonl", [
        Base("a" * 64, CASE, "liver", {1: "x"}), Base("a" * 64, CASE, "kidney", {}),
    ]  # fmt: skip
    record_bases(path, [*bases, *bases])
    before = path.read_bytes()
    record_bases(path, bases)
    assert path.read_bytes() == before
    assert list(read_bases(path).values()) == bases
    first = json.loads(before.splitlines()[0])
    assert len(first.pop("sum")) == 16  # of the line, against bit rot
    assert first == {
        "base_sha256": "a" * 64, "case_id": CASE, "organ": "liver", "candidates": {"1": "x"},
    }  # fmt: skip
    with pytest.raises(ReviewError, match="BASE_CONFLICT"):
        record_bases(path, [Base("a" * 64, CASE, "liver", {1: "y"})])
    assert read_bases(tmp_path / "absent.jsonl") == {}


def test_decisions_on_an_earlier_base_are_taken_in(desk: Desk) -> None:
    old = {"candidate_id": OLD_ID, "base_sha256": desk.old.base_sha256}
    edited = draw({1: np.s_[1:3, 2:6, 2:8]})
    write_nifti(desk.folder / "e.nii.gz", edited, GRID)
    desk.csv(
        desk.row("accept", **old),
        desk.row("edit", **old, mask="e.nii.gz"),
        # The candidate of one base beside the hash of the other.
        desk.row("accept", 1, base_sha256=desk.old.base_sha256),
        desk.row("accept", 1, candidate_id=OLD_ID),
        desk.row("accept", 1, base_sha256="0" * 64),
        desk.row("accept", 2),
    )
    events, left_out = desk.read()
    assert said(events) == [("accept", OLD_ID), ("edit", OLD_ID), ("accept", IDS["liver"][2])]
    assert {e.base_sha256 for e in events[:2]} == {desk.old.base_sha256}
    np.testing.assert_array_equal(desk.mask(events[1]), edited)
    assert list(left_out.values()) == ["CANDIDATE_UNKNOWN", "CANDIDATE_UNKNOWN", "BASE_STALE"]


def batch(name: str = "b1", kind: str = "candidates", **facts: Any) -> dict[str, Any]:
    return {
        "batch": name, "kind": kind, "reviewer_id": "R1", "case_id": CASE, "organs": ["liver"],
        "bases": {}, "rank": 1, **facts,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "stage"),
    [
        ([], "review"),
        ([batch("b2", "full")], "review"),
        ([batch()], "review"),
        ([batch(kind="full")], "full_read"),
        ([batch(kind="adjudicate")], "adjudicate"),
    ],
)
def test_stage_is_of_the_batch(desk: Desk, lines: list[dict[str, Any]], stage: str) -> None:
    desk.batches = lines
    desk.csv(desk.row("accept", 1), desk.row("sign_off"))
    events, left_out = desk.read()
    assert not left_out
    assert [e.stage for e in events] == [stage, stage]


def test_a_batch_takes_what_it_asked_for(desk: Desk) -> None:
    desk.batches = [batch(), batch("b2", case_id="BDMAP_00000009", organs=["kidney"])]
    desk.csv(
        desk.row("accept", 1), desk.row("accept", 1, organ="kidney"),
        desk.row("accept", 2, reviewer_id="R2"),
    )  # fmt: skip
    events, left_out = desk.read()
    assert said(events) == [("accept", IDS["liver"][1])]
    assert list(left_out.values()) == ["CASE_UNKNOWN", "REVIEWER_OTHER"]


# Forms -------------------------------------------------------------------------------------


def test_json_says_the_same_as_csv(desk: Desk) -> None:
    rows = [
        desk.row("accept", 1, tool="triage page 1"),
        desk.row("reject", 2, reason="cyst", comment="flüssig, rund", tool="triage page 1"),
        desk.row("contest", reason="missed", comment="missed tumor at R -12.3 A 45.0 S 101.5 mm",
                 tool="triage page 1"),
        desk.row("sign_off", tool="triage page 1"),
    ]  # fmt: skip
    desk.csv(*rows)
    from_csv, left_out = desk.read()
    assert not left_out and len(from_csv) == 4
    desk.json(*(row | {"seconds": 5, "time": row["time"][:-1] + ".000Z"} for row in rows))
    both, left_out = desk.read()
    assert both == from_csv and not left_out
    (desk.folder / "decisions.csv").unlink()
    assert desk.read() == (from_csv, {})
    # A later export holds the earlier one.
    desk.json(*rows, desk.row("accept", 3), name="decisions (1).json")
    events, left_out = desk.read()
    assert len(events) == 5 and not left_out
    desk.csv(rows[0] | {"tool": "by hand"}, name="decisions_2.csv")
    events, left_out = desk.read()
    assert len(events) == 5 and left_out == {"b1/decisions_2.csv:2": "ROW_DUPLICATE"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"format": "other"}, "JSON_FORM"),
        ({"schema": 2}, "JSON_FORM"),
        ({"schema": True}, "JSON_FORM"),
        ({"batch": "b2"}, "BATCH_OTHER"),
        ({"batch": None}, "JSON_FORM"),
        ({"reviewer_id": ["R1"]}, "JSON_FORM"),
        ({"decisions": {}}, "JSON_FORM"),
        ({"decisions": [0] * 100_001}, "JSON_FORM"),
    ],
)
def test_json_of_another_form_is_one_line(desk: Desk, change: dict[str, Any], code: str) -> None:
    desk.csv(desk.row("accept", 1))
    desk.json(desk.row("accept", 2), **change)
    events, left_out = desk.read()
    assert len(events) == 1 and left_out == {"b1/decisions.json": code}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "EMPTY_FILE"), ("{", "JSON_FORM"), ("[]", "JSON_FORM"), ("null", "JSON_FORM"),
        ("[" * 100_000, "JSON_FORM"), ('{"schema": NaN}', "JSON_FORM"),
        ('{"schema": 1, "schema": 1}', "JSON_FORM"), ("9" * 5000, "JSON_FORM"),
        ("<html>", "JSON_FORM"), ("\ud800", "JSON_FORM"),
    ],
)  # fmt: skip
def test_json_that_is_none_is_one_line(desk: Desk, text: str, code: str) -> None:
    (desk.folder / "decisions.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    desk.csv(desk.row("accept", 1))
    events, left_out = desk.read()
    assert len(events) == 1 and left_out == {"b1/decisions.json": code}


def test_bad_entries_of_json_are_left_out_one_by_one(desk: Desk) -> None:
    good = desk.row("accept", 1)
    bad = [
        good | {"verdict": "yes"}, good | {"seconds": True}, good | {"comment": {"a": 1}},
        good | {"organ": "colon"}, good | {"seconds": 1e9}, good | {"decision": ""},
        good | {"time": "2026-11-21T13:00:00Z"},
    ]  # fmt: skip
    desk.json(*bad, desk.row("accept", 2, seconds=None), good, hint="x")
    export = json.loads((desk.folder / "decisions.json").read_text())
    export["decisions"] += [7, None]
    (desk.folder / "decisions.json").write_text(json.dumps(export))
    events, left_out = desk.read()
    assert said(events) == [("accept", IDS["liver"][1]), ("accept", IDS["liver"][2])]
    assert [e.seconds for e in events] == [5.0, None]
    assert left_out.pop("b1/decisions.json") == "JSON_FORM"
    codes = ["JSON_FORM"] * 3 + ["CASE_UNKNOWN", "SECONDS_INVALID", "DECISION_MISSING"]
    codes += ["TIME_FUTURE"]
    expected = {f"b1/decisions.json#{n}": code for n, code in enumerate(codes, start=1)}
    assert left_out == expected | {f"b1/decisions.json#{n}": "JSON_FORM" for n in (10, 11)}


def test_reject_reasons_are_a_closed_set(desk: Desk) -> None:
    rows = [desk.row("reject", 1, reason=reason) for reason in ("", *REJECT_REASONS)]
    desk.csv(
        *rows, desk.row("reject", 2, reason="haemangioma"), desk.row("contest", 2, reason="mine")
    )
    events, left_out = desk.read()
    assert len(events) == 7 and list(left_out.values()) == ["REASON_UNKNOWN"]


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ({"candidate_id": "1.23457E+15"}, "ID_DAMAGED"),
        ({"candidate_id": "1,23457E+15"}, "ID_DAMAGED"),
        ({"base_sha256": "1.2E+63"}, "ID_DAMAGED"),
        ({"reviewer_id": "7"}, "ID_DAMAGED"),
        ({"reviewer_id": "0007"}, "ID_DAMAGED"),
        ({"time": "21.11.2026 10:00"}, "TIME_INVALID"),
        ({"time": "11/21/2026 10:00"}, "TIME_INVALID"),
        ({"time": "46347,4166"}, "TIME_INVALID"),
        ({"time": "########"}, "TIME_INVALID"),
    ],
)
def test_what_spreadsheets_do(desk: Desk, cells: dict[str, str], code: str) -> None:
    good = desk.row("accept", 2, reviewer_id="007", seconds="4,5")
    # Semicolons, a byte order mark, and empty cells behind the last.
    desk.csv(good, desk.row("accept", 1, **cells), delimiter=";", encoding="utf-8-sig")
    path = desk.folder / "decisions.csv"
    path.write_bytes(path.read_bytes().replace(b"\r\n", b";;;\r\n"))
    events, left_out = desk.read()
    assert [(e.reviewer_id, e.seconds) for e in events] == [("007", 4.5)]
    assert left_out == {"b1/decisions.csv:3": code}


def test_lines_before_damage_count(desk: Desk) -> None:
    desk.csv(desk.row("accept", 1), desk.row("accept", 2))
    with open(desk.folder / "decisions.csv", "a") as file:
        file.write('"torn" quote,\n')
    events, left_out = desk.read()
    assert len(events) == 2 and left_out == {"b1/decisions.csv": "CSV_FORM"}


# Masks -------------------------------------------------------------------------------------

EDITED = draw({**BOXES["liver"], 2: np.s_[6:9, 10:14, 8:11]})


def slicer_file(path: Path, array: NDArray[np.uint16] = EDITED, **names: str) -> None:
    """Save the liver's segments, cut to their box, in LPS order."""
    part, grid = to_canonical(*cut(array, GRID), "LPS")
    segments = [
        segment(n, names.get(f"n{n}", f"liver candidate {n}"), IDS["liver"][n])
        for n in IDS["liver"]
    ]
    write_slicer(path, part[None], segments, grid)


def itk_file(path: Path) -> None:
    names = {n: (f"liver candidate {n}", "") for n in IDS["liver"]}
    write_itk_seg_nrrd(path, EDITED, names, GRID)


def dicom_file(path: Path, kind: str = "BINARY", by: str = "tracking") -> None:
    array, grid = to_canonical(EDITED, GRID, "LPS")
    masks = np.stack([array == n for n in IDS["liver"]], axis=-1).astype(np.uint8)
    if kind == "FRACTIONAL":
        masks = masks.astype(np.float32)
    elif kind == "LABELMAP":
        masks = array.astype(np.uint8)
    labels = {
        "tracking": ["a", "b", "c"],
        "label": list(IDS["liver"].values()),
        "name": [f"liver candidate {n}" for n in IDS["liver"]],
    }[by]
    tracked = list(IDS["liver"].values()) if by == "tracking" else ["made by a tool"] * 3
    write_dicom_seg(path, dicom_slices(grid), masks, labels, tracked, kind)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("e.nii.gz", lambda path: write_nifti(path, EDITED, GRID)),
        ("e.seg.nrrd", slicer_file),
        ("e.seg.nrrd", lambda path: slicer_file(path, n2="my tumor", n1="liver candidate 2")),
        ("e.seg.nrrd", itk_file),
        ("e.dcm", dicom_file),
        ("e.dcm", lambda path: dicom_file(path, by="label")),
        ("e.dcm", lambda path: dicom_file(path, by="name")),
        ("e.dcm", lambda path: dicom_file(path, "FRACTIONAL")),
        ("e.dcm", lambda path: dicom_file(path, "LABELMAP", by="name")),
    ],
    ids="nifti slicer renamed itk dicom dicom-label dicom-name fractional labelmap".split(),
)
def test_an_edit_in_every_format(desk: Desk, name: str, write: Callable[[Path], None]) -> None:
    write(desk.folder / name)
    desk.csv(desk.row("edit", 2, mask=name), desk.row("accept", 1))
    events, left_out = desk.read()
    assert not left_out
    np.testing.assert_array_equal(desk.mask(events[0]), EDITED == 2)


def test_an_unchanged_or_misplaced_mask_says_so(desk: Desk) -> None:
    elsewhere = np.roll(SHOWN["liver"] == 3, -8, axis=1) * np.uint16(3)
    write_nifti(desk.folder / "same.nii.gz", SHOWN["liver"], GRID)
    write_nifti(desk.folder / "away.nii.gz", elsewhere, GRID)
    write_nifti(desk.folder / "known.nii.gz", (SHOWN["liver"] == 2) * np.uint16(9), GRID)
    desk.csv(
        desk.row("edit", 1, mask="same.nii.gz"), desk.row("edit", 3, mask="away.nii.gz"),
        desk.row("add", mask="known.nii.gz"), desk.row("accept", 2),
    )  # fmt: skip
    events, left_out = desk.read()
    assert said(events) == [("accept", IDS["liver"][2])]
    assert list(left_out.values()) == ["EDIT_UNCHANGED", "MASK_ELSEWHERE", "ADD_KNOWN"]


def test_the_organ_outline_is_no_tumor(desk: Desk) -> None:
    organ = draw({1: np.s_[0:12, 0:19, 0:15]})
    new = draw({4: np.s_[0:2, 16:19, 12:15]})
    layers = np.stack([SHOWN["liver"] + new, organ])
    known = [segment(n, f"liver candidate {n}", IDS["liver"][n]) for n in IDS["liver"]]
    for outline in (
        segment(1, "liver (outline)", layer=1),
        segment(1, "renamed", layer=1, organ_outline="liver"),
    ):
        write_slicer(desk.folder / "e.seg.nrrd", layers, [*known, segment(4, "x"), outline], GRID)
        desk.csv(desk.row("add", mask="e.seg.nrrd"))
        [added], left_out = desk.read()
        assert not left_out
        np.testing.assert_array_equal(desk.mask(added), new > 0)
    write_slicer(desk.folder / "e.seg.nrrd", layers[1:], [segment(1, "liver (outline)")], GRID)
    assert desk.codes() == ["MASK_EMPTY"]


def test_names_of_other_organs_are_not_new_tumors(desk: Desk) -> None:
    for name in ("kidney candidate 1", "liver candidate 8"):
        write_slicer(desk.folder / "e.seg.nrrd", SHOWN["kidney"][None],
                     [segment(1, name), segment(2, "mine")], GRID)  # fmt: skip
        desk.csv(desk.row("add", mask="e.seg.nrrd"))
        assert desk.codes() == ["MASK_OTHER_CASE"]


def test_dicom_segments_may_overlap_and_leave_out_frames(desk: Desk) -> None:
    array, grid = to_canonical(EDITED, GRID, "LPS")
    one, two = array == 1, np.zeros(array.shape, bool)
    two[[1, 9]] = to_canonical(draw({1: np.s_[:, 3:8, 3:9]}), GRID, "LPS")[0][[1, 9]] > 0
    masks = np.stack([one & (np.arange(12) != 2)[:, None, None], two], axis=-1).astype(np.uint8)
    ids = list(IDS["liver"].values())
    write_dicom_seg(desk.folder / "e.dcm", dicom_slices(grid), masks, ["x", "y"], [ids[0], None])
    assert pydicom.dcmread(desk.folder / "e.dcm").NumberOfFrames == 4
    desk.csv(desk.row("edit", 1, mask="e.dcm"), desk.row("accept", 2))
    [edit, _], left_out = desk.read()
    assert not left_out
    wanted, _ = to_canonical(masks[..., 0].astype(np.uint16), grid, "RAS")
    np.testing.assert_array_equal(desk.mask(edit), wanted)
    desk.csv(desk.row("add", mask="e.dcm"))
    [added], left_out = desk.read()
    assert not left_out
    wanted, _ = to_canonical(masks[..., 1].astype(np.uint16), grid, "RAS")
    np.testing.assert_array_equal(desk.mask(added), wanted)


def moved(**change: Any) -> Grid:
    affine = to_canonical(EDITED, GRID, "LPS")[1].affine
    affine[:3, :3] *= change.get("scale", 1)
    affine[:3, 3] += np.array([1, 0, 0]) * change.get("x_mm", 0)
    return Grid.of(SHAPE, affine)


@pytest.mark.parametrize(
    ("grid", "codes"),
    [
        (moved(x_mm=0.05), []), (moved(x_mm=0.4), ["MASK_GRID"]),
        (moved(scale=1.01), ["MASK_GRID"]), (moved(x_mm=100), ["MASK_GRID"]),
    ],
)  # fmt: skip
def test_dicom_on_another_grid_is_refused(desk: Desk, grid: Grid, codes: list[str]) -> None:
    array, _ = to_canonical(EDITED, GRID, "LPS")
    masks = (array == 2)[..., None].astype(np.uint8)
    write_dicom_seg(desk.folder / "e.dcm", dicom_slices(grid), masks, ["liver candidate 2"], [None])
    desk.csv(desk.row("edit", 2, mask="e.dcm"))
    assert desk.codes() == codes


def test_dicom_files_are_read_strictly(desk: Desk) -> None:
    path = desk.folder / "e.dcm"
    desk.csv(desk.row("edit", 2, mask="e.dcm"))
    dicom_file(path)
    good = path.read_bytes()
    array, grid = to_canonical(EDITED, GRID, "LPS")
    for data in (b"x", good[:300], good[: len(good) // 2], good[:-40], b"DICM" * 99):
        path.write_bytes(data)
        assert desk.codes() == ["MASK_UNREADABLE"]
    image = dicom_slices(grid)[0]
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.save_as(path, enforce_file_format=True)
    assert desk.codes() == ["MASK_UNREADABLE"]
    half = (array == 2)[..., None].astype(np.float32) / 2
    write_dicom_seg(path, dicom_slices(grid), half, ["liver candidate 2"], [None], "FRACTIONAL")
    assert desk.codes() == ["MASK_VALUES"]


# Real DICOM --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The string:UserWarning")  # the patient's pseudonym
def test_a_segmentation_made_on_a_real_ct_series(real_data: Path, tmp_path: Path) -> None:
    with tarfile.open(real_data / "tcia_crlm_ct_1004/dicom.tar.xz") as file:
        file.extractall(tmp_path / "ct", filter="data")
    series = read_series(tmp_path / "ct/CRLM-CT-1004", max_voxels=1 << 26)
    volume, grid = to_canonical(series.array, series.grid)
    slices = [pydicom.dcmread(path) for path in sorted((tmp_path / "ct").rglob("*.dcm"))]
    masks = np.zeros((len(slices), 512, 512, 2), np.uint8)
    masks[5:9, 200:220, 250:270, 0] = masks[7:15:2, 210:230, 240:300, 1] = 1
    ids = [hex_id("1"), hex_id("2")]
    write_dicom_seg(tmp_path / "s.dcm", slices, masks, ["a", "b"], ids)
    found = {s.candidate_id: s.voxels for s in read_returned(tmp_path / "s.dcm", grid)}
    for n, candidate_id in enumerate(ids):
        voxels = found[candidate_id]
        assert len(voxels) == masks[..., n].sum()
        # The same pixels of the series, whatever its order: their values tell.
        pixels = np.stack([one.pixel_array for one in slices])[masks[..., n] > 0]
        slope, shift = float(slices[0].RescaleSlope), float(slices[0].RescaleIntercept)
        np.testing.assert_array_equal(
            np.sort(volume.ravel()[voxels]), np.sort(pixels * slope + shift)
        )


def test_a_real_segmentation_lies_on_its_ct(real_data: Path) -> None:
    """The numbers are those that the object's own measurement report gives."""
    series = read_series(real_data / "dcmqi_liver_seg/ct-3slice", max_voxels=1 << 22)
    volume, grid = to_canonical(series.array, series.grid)
    [liver] = read_returned(real_data / "dcmqi_liver_seg/liver_seg.dcm", grid)
    values = volume.ravel()[liver.voxels].astype(float)
    assert (liver.name, len(values)) == ("Liver", 107098)
    assert values.mean() == pytest.approx(37.3289, abs=1e-4)
    assert values.std() == pytest.approx(59.1691, abs=1e-3)
    affine = grid.affine
    affine[0, 3] += grid.spacing_mm[0] / 2
    with pytest.raises(ReviewError, match="MASK_GRID.*corners displaced by 0.5 voxels"):
        read_returned(real_data / "dcmqi_liver_seg/liver_seg.dcm", Grid.of(grid.shape, affine))


# MONAI Label -------------------------------------------------------------------------------

SENT = np.zeros(SHAPE, np.uint16)
for _organ in ("liver", "kidney"):
    add_labels(SENT, _organ, SHOWN[_organ])


@dataclass
class Studies:
    """A studies folder as MONAI Label leaves it."""

    desk: Desk
    datastore: dict[str, Any]

    def save(
        self,
        array: NDArray[np.uint16] | None,
        tag: str = "final",
        ext: str = ".nii.gz",
        label_info: list[dict[str, Any]] | None = None,
        **meta: Any,
    ) -> Path:
        """Save a label as the server does; with an array as a label map."""
        path = self.desk.folder / SCANS / "labels" / tag / f"{CASE}{ext}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if array is not None:
            write_nifti(path, array, GRID)
        info = {
            "ts": 1, "name": path.name, "label_info": label_info or [],
            "checksum": f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
        }  # fmt: skip
        if meta:
            info["segmentationMeta"] = {
                "status": "approved", "approvedBy": "R1", "level": "easy", "comment": "",
                "editTime": 1795255200, **meta,
            }  # fmt: skip
        self.datastore["objects"][CASE]["labels"][tag] = {"ext": ext, "info": info}
        self.write()
        return path

    def write(self) -> None:
        path = self.desk.folder / SCANS / "datastore_v2.json"
        path.write_text(json.dumps(self.datastore, indent=2))


@pytest.fixture
def studies(desk: Desk) -> Studies:
    write_case_labels(desk.folder, CASE, SENT, GRID)
    labels = CaseLabels(
        CASE,
        {organ: base.base_sha256 for organ, base in desk.now.items()},
        {organ: list(ids) for organ, ids in IDS.items()},
    )
    write_monai_datastore(desk.folder, "b1", [labels])
    path = desk.folder / SCANS / "datastore_v2.json"
    return Studies(desk, json.loads(path.read_text()))


NAME = f"b1/scans/datastore_v2.json#{CASE}"


def test_nobody_saved_a_label(studies: Studies) -> None:
    assert studies.desk.read() == ([], {})


def test_an_approved_label_is_compared_with_what_was_sent(studies: Studies) -> None:
    label = SENT.copy()
    label[6, 10, 8] = 0  # liver 2 is edited
    label[label == 1003] = 0  # liver 3 is not there: nothing is said
    label[10:12, 18:20, 14:16] = 1004
    label[0, 0, 0:3] = 1100
    studies.save(label, approvedBy="R2", comment="ok")
    events, left_out = studies.desk.read()
    assert not left_out
    by_what = {(e.organ, e.decision, e.candidate_id): e for e in events}
    ids = IDS["liver"], IDS["kidney"]
    assert set(by_what) == {
        ("liver", "accept", ids[0][1]), ("liver", "edit", ids[0][2]), ("liver", "add", None),
        ("kidney", "accept", ids[1][1]), ("kidney", "accept", ids[1][2]),
    }  # fmt: skip
    edit, add = by_what["liver", "edit", ids[0][2]], by_what["liver", "add", None]
    np.testing.assert_array_equal(studies.desk.mask(edit), label == 1002)
    wanted = (label == 1004) + 2 * (label == 1100).astype(np.uint16)
    np.testing.assert_array_equal(studies.desk.mask(add), wanted)
    for event in events:
        assert (event.reviewer_id, event.role, event.tool) == ("R2", "junior", "MONAI Label")
        assert (event.time, event.comment) == ("2026-11-21T10:00:00.000Z", "ok")
        assert event.base_sha256 == studies.desk.now[event.organ].base_sha256


def test_a_covered_part_is_not_lost_by_an_edit(studies: Studies) -> None:
    """The kidney's candidate lies over a voxel of the liver's in the map of all organs."""
    assert (SENT[SHOWN["liver"] == 1] == 3001).sum() == 1
    label = SENT.copy()
    label[1, 2, 2] = 0
    studies.save(label, approvedBy="R1")
    edit = next(e for e in studies.desk.read()[0] if e.decision == "edit")
    wanted = SHOWN["liver"] == 1
    wanted[1, 2, 2] = False
    np.testing.assert_array_equal(studies.desk.mask(edit), wanted)


def test_only_the_latest_approved_label_counts(studies: Studies) -> None:
    older = np.where(SENT == 1001, SENT, 0).astype(np.uint16)
    newer = np.where(SENT == 1002, SENT, 0).astype(np.uint16)
    studies.save(SENT)  # saved, never reviewed
    studies.save(older, "version_2", approvedBy="R1")
    studies.save(newer, "version_10", approvedBy="R1")
    studies.save(SENT, "version_11", status="flagged")
    events, left_out = studies.desk.read()
    assert said(events) == [("accept", IDS["liver"][2])]
    assert left_out == {
        f"{NAME}/final": "MONAI_NOT_APPROVED", f"{NAME}/version_2": "MONAI_OLDER",
        f"{NAME}/version_11": "MONAI_NOT_APPROVED",
    }  # fmt: skip


def test_labels_that_slicer_numbered_anew_are_known_by_name(studies: Studies) -> None:
    label = np.zeros(SHAPE, np.uint16)
    label[SENT == 1002], label[SENT == 3002], label[0, 0, :3], label[0, 2, :3] = 1, 2, 3, 4
    info = ["liver candidate 2", "kidney candidate 2", "Kidney new", "mine"]
    names = [{"name": name, "idx": n} for n, name in enumerate(info, start=1)]
    studies.save(label, label_info=names, approvedBy="R1")
    events, left_out = studies.desk.read()
    assert sorted(said(events), key=str) == sorted(
        [("accept", IDS["liver"][2]), ("accept", IDS["kidney"][2]), ("add", None)], key=str
    )
    assert left_out == {f"{NAME}/final/label 4": "MASK_VALUES"}
    # Without names nothing is guessed.
    studies.save(label, approvedBy="R1")
    assert studies.desk.read()[0] == []


def test_a_segmentation_in_a_studies_folder(studies: Studies) -> None:
    path = studies.desk.folder / SCANS / "labels/final" / f"{CASE}.seg.nrrd"
    path.parent.mkdir(parents=True)
    new = draw({1: np.s_[0:2, 16:19, 12:15]})
    layers = np.stack([SHOWN["liver"], SHOWN["kidney"] + 10 * (SHOWN["kidney"] == 2), new])
    segments = [segment(n, f"liver candidate {n}") for n in IDS["liver"]]
    segments += [
        segment(1, "renamed", IDS["kidney"][1], 1),
        segment(12, "kidney candidate 2", "", 1),
    ]
    write_slicer(path, layers.astype(np.uint16), [*segments, segment(1, "liver new", "", 2)], GRID)
    studies.save(None, ext=".seg.nrrd", approvedBy="R1")
    events, left_out = studies.desk.read()
    assert not left_out
    assert [e.decision for e in events].count("accept") == 5
    np.testing.assert_array_equal(studies.desk.mask(next(e for e in events if e.mask_sha256)), new)


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({"approvedBy": ""}, "REVIEWER_UNKNOWN"),
        ({"approvedBy": "R9"}, "REVIEWER_UNKNOWN"),
        ({"approvedBy": "R1", "editTime": ""}, "TIME_INVALID"),
        ({"approvedBy": "R1", "editTime": 4102444800}, "TIME_FUTURE"),
    ],
)
def test_approvals_are_checked_like_rows(studies: Studies, meta: dict, code: str) -> None:
    studies.save(np.where(SENT == 1001, SENT, 0).astype(np.uint16), **meta)
    studies.desk.csv(studies.desk.row("accept", 3))
    events, left_out = studies.desk.read()
    assert said(events) == [("accept", IDS["liver"][3])]
    assert left_out == {f"{NAME}/final/1001": code}


def test_bad_labels_are_left_out_and_the_others_count(studies: Studies) -> None:
    label = SENT.copy()
    # Beyond every organ, an organ that was not asked about, no candidate and not a new number.
    label[0, 0, 0:4], label[0, 1, 0:4], label[0, 2, 0:4], label[0, 3, 0:4] = 9001, 2001, 7, 1000
    studies.save(label, approvedBy="R1", editTime="1795255200")
    events, left_out = studies.desk.read()
    assert len(events) == 5
    assert left_out == {f"{NAME}/final/label {n}": "MASK_VALUES" for n in (7, 1000, 2001, 9001)}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda entry: entry["image"]["info"].update(batch="b2"), "BATCH_OTHER"),
        (lambda entry: entry["image"]["info"].pop("bases"), "MONAI_FORM"),
        (lambda entry: entry["image"]["info"]["bases"].update(liver="0" * 64), "BASE_STALE"),
        (lambda entry: entry["labels"]["final"]["info"].update(checksum="SHA256:0"),
         "MONAI_CHANGED"),
        (lambda entry: entry["labels"]["final"].update(ext=".nrrd"), "MASK_FORMAT"),
        (lambda entry: entry["labels"]["final"].update(ext="/../x.nii.gz"), "MASK_FORMAT"),
        (lambda entry: entry["labels"].update({"../x": entry["labels"]["final"]}), "MONAI_FORM"),
        (lambda entry: entry["labels"].update(version_2=entry["labels"]["final"]), "FILE_MISSING"),
        (lambda entry: entry.update(labels=3), "MONAI_FORM"),
    ],
)  # fmt: skip
def test_a_damaged_case_of_a_datastore_is_one_line(
    studies: Studies, change: Callable[[dict], object], code: str
) -> None:
    studies.save(SENT, approvedBy="R1")
    objects = studies.datastore["objects"]
    before = copy.deepcopy(objects[CASE])
    change(objects[CASE])
    studies.write()
    events, left_out = studies.desk.read()
    assert not events
    left_out.pop(f"{NAME}/final", None)  # told of as an older version
    assert left_out == {NAME: code}
    objects |= {CASE: before, "BDMAP_00000009": before}
    studies.write()
    events, left_out = studies.desk.read()
    assert len(events) == 5 and list(left_out.values()) == ["CASE_UNKNOWN"]


def test_a_datastore_of_another_form_is_one_line(studies: Studies) -> None:
    studies.desk.csv(studies.desk.row("accept", 3))
    for text in ("", "{", "[]", '{"objects": 3}', "[" * 100_000):
        (studies.desk.folder / SCANS / "datastore_v2.json").write_text(text)
        events, left_out = studies.desk.read()
        assert len(events) == 1
        assert left_out == {"b1/scans/datastore_v2.json": "MONAI_FORM" if text else "EMPTY_FILE"}
