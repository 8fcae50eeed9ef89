"""Tests of the review loop: ledger, packets, returned decisions and masks, final masks."""

import csv
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pandas as pd
import pytest
import slicerio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tumoratlas.core.errors import ReviewError
from tumoratlas.core.tables import SCHEMAS, read_rows_of, write_table
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti, write_nifti
from tumoratlas.review.ledger import (
    COLUMNS,
    FIRST_HASH,
    Event,
    append_events,
    make_event,
    read_ledger,
    to_table,
)
from tumoratlas.review.masks import load_mask, mask_sha256, store_mask, voxels_by_label
from tumoratlas.review.merge.instances import MergedMask, instance_id
from tumoratlas.review.merge.organ import merge_organ
from tumoratlas.review.packets.batch import (
    DECISION_COLUMNS,
    WORKLIST_COLUMNS,
    PacketCase,
    PacketOrgan,
    write_batch,
)
from tumoratlas.review.returns.read import read_returns

CASE, ORGAN = "BDMAP_00000001", "liver"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ROSTER = pd.DataFrame(
    [("R1", "senior"), ("R2", "junior"), ("R3", "senior")], columns=["reviewer_id", "role"]
)
SHAPE = (12, 20, 16)
# A tilted grid, so that a mistaken axis, sign or corner cannot hide.
_TURN = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
_AFFINE = np.eye(4)
_AFFINE[:3, :3] = _TURN @ np.diag([0.8, 0.9, 2.5])
_AFFINE[:3, 3] = [-31.5, 12.25, -400.0]
GRID = Grid.of(SHAPE, _AFFINE)
IDS = {1: "c1aaaa", 2: "c2bbbb", 3: "c3cccc"}
BOXES = {
    1: np.s_[1:4, 2:6, 2:7],
    2: np.s_[6:8, 10:13, 8:10],
    3: np.s_[9:11, 15:18, 1:4],
}


def draw(boxes: dict[int, tuple[slice, ...]]) -> NDArray[np.uint16]:
    array = np.zeros(SHAPE, np.uint16)
    for label, box in boxes.items():
        array[box] = label
    return array


CANDIDATES = draw(BOXES)
BASE = mask_sha256(CANDIDATES, GRID)
TABLE = pd.DataFrame(
    [
        {
            "candidate_id": IDS[n], "number": n, "case_id": CASE, "organ": ORGAN,
            "volume_mm3": float((CANDIDATES == n).sum() * GRID.voxel_volume_mm3),
            "radius_mm": 3.0, "max_p": 0.9,
        }
        for n in IDS
    ]
)  # fmt: skip


@dataclass
class Inbox:
    """A folder of returned work and the importer's other arguments."""

    folder: Path
    store: Path

    def write(self, *rows: dict[str, str], delimiter: str = ",", encoding: str = "utf-8") -> None:
        with open(self.folder / "decisions.csv", "w", newline="", encoding=encoding) as file:
            writer = csv.DictWriter(file, DECISION_COLUMNS, delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)

    def read(self) -> tuple[list[Event], list[dict[str, str]]]:
        return read_returns(
            self.folder, batch="b1", candidates=TABLE, bases={(CASE, ORGAN): BASE},
            grids={CASE: GRID}, reviewers=ROSTER, store=self.store, now=NOW,
        )  # fmt: skip

    def codes(self) -> list[str]:
        return [row["code"] for row in self.read()[1]]

    def mask(self, event: Event) -> NDArray[np.uint16]:
        return load_mask(self.store, event.mask_sha256, max_voxels=CANDIDATES.size)


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    (tmp_path / "in").mkdir()
    return Inbox(tmp_path / "in", tmp_path / "store")


def row(decision: str, candidate: int = 0, **cells: str) -> dict[str, str]:
    minute = row.minute = (row.minute + 1) % 60
    return {
        "case_id": CASE, "organ": ORGAN, "candidate_id": IDS.get(candidate, ""),
        "decision": decision, "reviewer_id": "R1", "time": f"2026-11-21T10:{minute:02d}:00Z",
        "seconds": "5", "base_sha256": BASE, **cells,
    }  # fmt: skip


row.minute = 0


def event(decision: str, candidate: int | str | None = None, **fields: object) -> Event:
    event.second += 1
    role = {"R1": "senior", "R3": "senior", "kits23": "source"}.get(
        str(fields.get("reviewer_id", "R1")), "junior"
    )
    facts = {
        "stage": "review", "batch": "b1", "case_id": CASE, "organ": ORGAN,
        "candidate_id": IDS[candidate] if isinstance(candidate, int) else candidate,
        "reviewer_id": "R1", "role": role, "decision": decision,
        "time": "" if role == "source" else f"2026-11-21T10:{event.second // 60:02d}:"
                                            f"{event.second % 60:02d}.000Z",
    }  # fmt: skip
    return make_event(**(facts | fields))


event.second = 0


@pytest.fixture(autouse=True)
def _restart_clock() -> None:
    event.second = row.minute = 0


# Ledger ------------------------------------------------------------------------------------


def test_ledger_appends_once_and_chains(tmp_path: Path) -> None:
    path = tmp_path / "records" / "ledger.jsonl"
    events = [event("accept", 1), event("reject", 2), event("sign_off", seconds=5)]
    assert append_events(path, events[:2])[0].previous_hash == FIRST_HASH
    before = path.read_bytes()
    new = append_events(path, events)
    assert [e.event_id for e in new] == [events[2].event_id]
    assert path.read_bytes().startswith(before)
    assert append_events(path, [*events, *events]) == []
    assert [replace(e, previous_hash="") for e in read_ledger(path)] == events
    assert tuple(SCHEMAS["reviews"].names) == COLUMNS
    write_table(tmp_path / "reviews.parquet", "reviews", to_table(read_ledger(path)))
    assert read_rows_of(tmp_path / "reviews.parquet") == to_table(read_ledger(path))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [lines[0].replace('"accept"', '"reject"'), *lines[1:]], 1),
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: [lines[1], lines[0], lines[2]], 1),
        (lambda lines: [*lines[:2], lines[2][:-1]], 3),
        (lambda lines: [*lines[:2], "{}\n"], 3),
        (lambda lines: [lines[0], lines[1].replace(": ", ":"), lines[2]], 2),
        (lambda lines: [lines[0], "\n", *lines[1:]], 2),
    ],
)
def test_ledger_refuses_a_broken_chain(
    tmp_path: Path, change: Callable[[list[str]], list[str]], line: int
) -> None:
    path = tmp_path / "ledger.jsonl"
    append_events(path, [event("accept", 1), event("accept", 2), event("sign_off")])
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    broken = path.read_bytes()
    with pytest.raises(ReviewError, match=f"LEDGER_BROKEN.*line {line}:"):
        append_events(path, [event("accept", 3)])
    assert path.read_bytes() == broken


@pytest.mark.parametrize(
    "fields",
    [
        {"decision": "approve"},
        {"decision": "accept"},
        {"decision": "sign_off", "candidate_id": "c1aaaa"},
        {"decision": "sign_off", "reviewer_id": "R2"},
        {"decision": "source_label"},
        {"decision": "add"},
        {"decision": "contest", "time": "2026-11-21"},
    ],
)
def test_events_that_contradict_themselves_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ReviewError, match="EVENT_INVALID"):
        event(**fields)


def test_mask_store_is_content_addressed(tmp_path: Path) -> None:
    sha256 = store_mask(tmp_path, CANDIDATES, GRID)
    assert sha256 == store_mask(tmp_path, CANDIDATES.copy(), GRID) == BASE
    np.testing.assert_array_equal(
        load_mask(tmp_path, sha256, max_voxels=CANDIDATES.size), CANDIDATES
    )
    write_nifti(tmp_path / f"{sha256}.nii.gz", CANDIDATES * 2, GRID)
    with pytest.raises(ReviewError, match="STORE_BROKEN"):
        load_mask(tmp_path, sha256, max_voxels=CANDIDATES.size)


# Packets -----------------------------------------------------------------------------------


def packet(folder: Path, candidates: NDArray[np.uint16] = CANDIDATES) -> Path:
    ct = folder / "harmonized_ct.nii.gz"
    write_nifti(ct, np.arange(CANDIDATES.size, dtype=np.int16).reshape(SHAPE), GRID)
    rows = TABLE.to_dict("records") if candidates.any() else []
    shown = PacketOrgan(candidates, rows[::-1], candidates > 0, BASE)
    case = PacketCase(CASE, 1, ct, GRID, [ORGAN], lambda organ: shown)
    write_batch(
        folder / "b1", batch="b1", kind="candidates", reviewer_id="R1", role="senior",
        cases=[case],
    )  # fmt: skip
    return folder / "b1"


def files(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_packet_has_everything_and_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = packet(tmp_path / "one")

    class Later(datetime):
        @classmethod
        def utcnow(cls) -> datetime:
            return datetime(2031, 1, 1)

    monkeypatch.setattr(nrrd.writer, "datetime", Later)
    assert files(first) == files(packet(tmp_path / "two"))
    place = f"{CASE}/{ORGAN}"
    assert set(files(first)) == {
        "README.txt", "decisions.csv", "worklist.csv", "labels.itksnap.txt",
        f"scans/{CASE}.nii.gz", "scans/datastore_v2.json", f"scans/labels/original/{CASE}.nii.gz",
        f"{place}/candidates.nii.gz", f"{place}/candidates.seg.nrrd", f"{place}/organ.nii.gz",
    }  # fmt: skip
    segmentation = slicerio.read_segmentation(str(first / place / "candidates.seg.nrrd"))
    *segments, outline = segmentation["segments"]
    assert outline["name"] == "liver (outline)"
    for number, segment in enumerate(segments, start=1):
        assert segment["tags"] == {"candidate_id": IDS[number]}
        assert segment["name"] == f"liver candidate {number}"
        mask = slicerio.segment_mask(segmentation, segment).transpose(2, 1, 0)
        np.testing.assert_array_equal(mask, CANDIDATES == number)
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ segmentation["ijkToLPS"], _AFFINE)


def test_worklist_and_template(tmp_path: Path) -> None:
    folder = packet(tmp_path)
    work = pd.read_csv(folder / "worklist.csv", keep_default_na=False)
    assert list(work) == WORKLIST_COLUMNS
    assert work["candidate_id"].tolist() == [*IDS.values(), ""]
    assert set(work["base_sha256"]) == {BASE}
    centre = [float(v) for v in work["centroid_ras_mm"][1].split(";")]
    np.testing.assert_allclose(centre, (_AFFINE @ [8.5, 11, 6.5, 1])[:3], atol=0.06)
    template = (folder / "decisions.csv").read_text()
    assert template.splitlines()[0] == ",".join(DECISION_COLUMNS)
    assert len(template.splitlines()) == 5


def test_packet_without_candidates_can_be_signed(tmp_path: Path) -> None:
    folder = packet(tmp_path, np.zeros(SHAPE, np.uint16))
    assert not list(folder.rglob("candidates*"))
    work = pd.read_csv(folder / "worklist.csv", keep_default_na=False)
    assert work[["case_id", "organ", "candidate_id"]].values.tolist() == [[CASE, ORGAN, ""]]


def test_packet_protects_the_ct_of_the_pipeline(tmp_path: Path) -> None:
    folder = packet(tmp_path)
    (folder / "scans" / f"{CASE}.nii.gz").write_bytes(b"overwritten by a viewer")
    assert read_nifti(tmp_path / "harmonized_ct.nii.gz", max_voxels=CANDIDATES.size)


def test_untouched_template_holds_no_decision(tmp_path: Path, inbox: Inbox) -> None:
    shutil.copy(packet(tmp_path) / "decisions.csv", inbox.folder)
    assert inbox.read() == ([], [])


# Returns: rows -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (row("accept", 1, base_sha256="0" * 64), "BASE_STALE"),
        (row("accept", 1, candidate_id="c9"), "CANDIDATE_UNKNOWN"),
        (row("accept", 0), "CANDIDATE_MISSING"),
        (row("sign_off", 1), "CANDIDATE_GIVEN"),
        (row("sign_off", reviewer_id="R2"), "ROLE_WRONG"),
        (row("withdraw", reviewer_id="R2"), "ROLE_WRONG"),
        (row("accept", 1, reviewer_id="R9"), "REVIEWER_UNKNOWN"),
        (row("source_label"), "DECISION_UNKNOWN"),
        (row("Accept", 1), "DECISION_UNKNOWN"),
        (row("", 1), "DECISION_MISSING"),
        (row("accept", 1, time="2026-11-21T12:00:01Z"), "TIME_FUTURE"),
        (row("accept", 1, time="21.11.2026 10:00"), "TIME_INVALID"),
        (row("accept", 1, time="2026-11-21T10:00:00"), "TIME_INVALID"),
        (row("accept", 1, time="2026-11-21T10:00:00+01:00"), "TIME_INVALID"),
        (row("accept", 1, seconds="-3"), "SECONDS_INVALID"),
        (row("accept", 1, seconds="nan"), "SECONDS_INVALID"),
        (row("accept", 1, case_id="BDMAP_00000002"), "CASE_UNKNOWN"),
        (row("accept", 1, organ="colon"), "CASE_UNKNOWN"),
        (row("accept", 1, comment="a\x00b"), "TEXT_INVALID"),
        (row("edit", 1), "MASK_MISSING"),
        (row("edit", 1, mask="absent.nii.gz"), "MASK_MISSING"),
        (row("accept", 1, mask="absent.nii.gz"), "MASK_GIVEN"),
        (row("edit", 1, mask="../outside.nii.gz"), "PATH_OUTSIDE"),
        (row("edit", 1, mask="a/../../outside.nii.gz"), "PATH_OUTSIDE"),
        (row("edit", 1, mask="..\\outside.nii.gz"), "PATH_OUTSIDE"),
        (row("edit", 1, mask="/etc/hosts.nii.gz"), "PATH_OUTSIDE"),
        (row("edit", 1, mask="C:\\outside.nii.gz"), "PATH_OUTSIDE"),
        (row("edit", 1, mask="link.nii.gz"), "PATH_OUTSIDE"),
        (row("edit", 1, mask="linked/outside.nii.gz"), "PATH_OUTSIDE"),
        (row("edit", 1, mask="decisions.csv"), "MASK_FORMAT"),
    ],
)
def test_a_bad_row_is_left_out_and_the_others_go_on(
    inbox: Inbox, bad: dict[str, str], code: str
) -> None:
    write_nifti(inbox.folder.parent / "outside.nii.gz", CANDIDATES, GRID)
    (inbox.folder / "link.nii.gz").symlink_to(inbox.folder.parent / "outside.nii.gz")
    (inbox.folder / "linked").symlink_to(inbox.folder.parent)
    inbox.write(row("reject", 2), bad, row("accept", 3))
    events, excluded = inbox.read()
    taken = [(e.decision, e.candidate_id) for e in events]
    assert taken == [("reject", IDS[2]), ("accept", IDS[3])]
    [left_out] = excluded
    assert (left_out["id"], left_out["rule"]) == ("b1/decisions.csv:3", "check_review")
    assert left_out["code"] == code
    assert str(inbox.folder) not in str(left_out)
    assert not inbox.store.exists()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_csv_of_any_spreadsheet(inbox: Inbox, encoding: str, delimiter: str) -> None:
    good = row("accept", 1, comment="Läsion, rund; =1+1", seconds="4,5")
    inbox.write(good, delimiter=delimiter, encoding=encoding)
    [only], excluded = inbox.read()
    assert not excluded
    assert (only.comment, only.seconds) == ("Läsion, rund; =1+1", 4.5)
    assert only.time == "2026-11-21T10:01:00.000Z"
    assert (only.role, only.stage, only.batch) == ("senior", "review", "b1")


def test_files_that_are_no_decisions(inbox: Inbox) -> None:
    texts = {
        "a": b"", "b": "Läsion".encode("latin-1"), "c": b"case_id,organ\n", "d": b"\xef\xbb\xbf",
        "e": (",".join(DECISION_COLUMNS) + '\n"a"b,c\n').encode(),
    }  # fmt: skip
    for name, data in texts.items():
        (inbox.folder / name).mkdir()
        (inbox.folder / name / "decisions.csv").write_bytes(data)
    (inbox.folder / "f").mkdir()
    (inbox.folder / "f" / "decisions.csv").symlink_to(inbox.folder / "c" / "decisions.csv")
    inbox.write(row("accept", 1))
    with open(inbox.folder / "decisions.csv", "a") as file:
        file.write("too,few\n")
    events, excluded = inbox.read()
    assert len(events) == 1
    assert {r["id"]: r["code"] for r in excluded} == {
        "b1/a/decisions.csv": "EMPTY_FILE",
        "b1/b/decisions.csv": "CSV_ENCODING",
        "b1/c/decisions.csv": "CSV_COLUMNS",
        "b1/d/decisions.csv": "CSV_COLUMNS",
        "b1/e/decisions.csv": "CSV_FORM",
        "b1/f/decisions.csv": "PATH_OUTSIDE",
        "b1/decisions.csv:3": "CELLS_COUNT",
    }


def test_repeated_and_contradicting_rows(inbox: Inbox) -> None:
    twice, torn = row("accept", 1), row("accept", 2)
    inbox.write(twice, twice, torn, torn | {"decision": "reject"})
    events, excluded = inbox.read()
    assert [e.candidate_id for e in events] == [IDS[1]]
    assert [r["code"] for r in excluded] == ["ROW_DUPLICATE", "ROW_CONFLICT", "ROW_CONFLICT"]


def test_a_repeated_row_with_a_mask_counts_once(inbox: Inbox) -> None:
    write_nifti(inbox.folder / "add.nii.gz", draw({7: np.s_[0:2, 0:2, 12:14]}), GRID)
    twice = row("add", mask="add.nii.gz")
    inbox.write(twice, twice)
    events, excluded = inbox.read()
    assert [e.decision for e in events] == ["add"]
    assert [r["code"] for r in excluded] == ["ROW_DUPLICATE"]


def test_import_is_idempotent_and_independent_of_order(inbox: Inbox, tmp_path: Path) -> None:
    write_nifti(inbox.folder / "m.nii.gz", CANDIDATES, GRID)
    rows = [row("accept", 1), row("edit", 2, mask="m.nii.gz"), row("reject", 3), row("sign_off")]
    inbox.write(*rows)
    events, _ = inbox.read()
    inbox.write(*reversed(rows))
    assert inbox.read()[0] == events
    assert len(append_events(tmp_path / "ledger.jsonl", events)) == 4
    assert append_events(tmp_path / "ledger.jsonl", inbox.read()[0]) == []


def test_sign_off_of_the_same_moment_comes_last(inbox: Inbox) -> None:
    time = "2026-11-21T10:00:00Z"
    inbox.write(row("sign_off", time=time), row("accept", 1, time=time))
    assert [e.decision for e in inbox.read()[0]] == ["accept", "sign_off"]


def test_roster_must_be_clear(inbox: Inbox) -> None:
    roster = pd.DataFrame([("R1", "senior"), ("R1", "junior")], columns=list(ROSTER))
    with pytest.raises(ReviewError, match="ROSTER_INVALID"):
        read_returns(
            inbox.folder, batch="b1", candidates=TABLE, bases={}, grids={}, reviewers=roster,
            store=inbox.store, now=NOW,
        )  # fmt: skip


# Returns: masks ----------------------------------------------------------------------------

EDITED = draw({**BOXES, 2: np.s_[6:9, 10:14, 8:11]})


def save_segments(
    path: Path,
    layers: NDArray[np.integer],
    segments: list[dict],
    grid: Grid = GRID,
) -> None:
    """Save (layer, z, y, x) as 3D Slicer does: 4D only where segments overlap."""
    voxels = layers.transpose(0, 3, 2, 1)
    slicerio.write_segmentation(
        str(path),
        {
            "voxels": voxels[0] if len(voxels) == 1 else voxels,
            "ijkToLPS": np.diag([-1, -1, 1, 1]) @ grid.affine,
            "segments": segments,
        },
    )


def segment(value: int, candidate: int = 0, layer: int = 0) -> dict:
    tags = {"tags": {"candidate_id": IDS[candidate]}} if candidate else {}
    return {"id": f"Segment_{value}_{layer}", "name": f"s{value}", "labelValue": value,
            "layer": layer, "status": "completed", **tags}  # fmt: skip


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAI", "SRP", "AIL"])
@pytest.mark.parametrize("kind", ["nii.gz", "seg.nrrd"])
def test_turned_mask_lies_right(inbox: Inbox, orientation: str, kind: str) -> None:
    array, grid = to_canonical(EDITED, GRID, orientation)
    path = inbox.folder / f"edit.{kind}"
    if kind == "nii.gz":
        write_nifti(path, array, grid)
    else:
        save_segments(path, array[None], [segment(n, n) for n in IDS], grid)
    inbox.write(row("edit", 2, mask=path.name))
    [only], excluded = inbox.read()
    assert not excluded
    np.testing.assert_array_equal(inbox.mask(only), EDITED == 2)


def crop(array: NDArray[np.uint16], box: tuple[slice, ...]) -> tuple[NDArray[np.uint16], Grid]:
    affine = GRID.affine
    start = [s.start for s in box]
    affine[:3, 3] += affine[:3, :3] @ start[::-1]
    part = array[box]
    return np.ascontiguousarray(part), Grid.of(part.shape, affine)


def test_cropped_segmentation_is_put_back(inbox: Inbox) -> None:
    part, grid = to_canonical(*crop(EDITED, np.s_[5:10, 9:15, 7:12]), "LPS")
    save_segments(inbox.folder / "e.seg.nrrd", part[None], [segment(2, 2)], grid)
    inbox.write(row("edit", 2, mask="e.seg.nrrd"))
    [only], excluded = inbox.read()
    assert not excluded
    np.testing.assert_array_equal(inbox.mask(only), EDITED == 2)


def test_segmentation_larger_than_the_scan(inbox: Inbox) -> None:
    affine = GRID.affine
    affine[:3, 3] -= affine[:3, :3] @ [2, 2, 2]
    large = np.pad(EDITED, 2)
    grid = Grid.of(large.shape, affine)
    save_segments(inbox.folder / "e.seg.nrrd", large[None], [segment(n, n) for n in IDS], grid)
    inbox.write(row("edit", 2, mask="e.seg.nrrd"))
    [only], _ = inbox.read()
    np.testing.assert_array_equal(inbox.mask(only), EDITED == 2)
    large[0, 0, 0] = 2
    save_segments(inbox.folder / "e.seg.nrrd", large[None], [segment(n, n) for n in IDS], grid)
    assert inbox.codes() == ["MASK_GRID"]


def test_overlapping_segments_come_in_layers(inbox: Inbox) -> None:
    layers = np.stack([draw({1: BOXES[1]}), draw({1: np.s_[2:6, 3:8, 3:9]})])
    segments = [segment(1, 1), segment(1, 2, layer=1)]
    save_segments(inbox.folder / "e.seg.nrrd", layers, segments)
    inbox.write(row("edit", 1, mask="e.seg.nrrd"), row("edit", 2, mask="e.seg.nrrd"))
    one, two = inbox.read()[0]
    np.testing.assert_array_equal(inbox.mask(one), layers[0])
    np.testing.assert_array_equal(inbox.mask(two), layers[1])


def moved(x_mm: float = 0.0, scale: float = 1.0) -> Grid:
    affine = GRID.affine
    affine[:3, :3] *= scale
    affine[:3, 3] += _TURN[:, 0] * x_mm
    return Grid.of(SHAPE, affine)


@pytest.mark.parametrize("kind", ["nii.gz", "seg.nrrd"])
@pytest.mark.parametrize(
    ("grid", "codes"),
    [
        (moved(0.8 * 0.09), []),
        (moved(0.8 * 0.11), ["MASK_GRID"]),
        (moved(0.8), {"nii.gz": ["MASK_GRID"], "seg.nrrd": []}),
        (moved(scale=1.001), []),
        (moved(scale=1.01), ["MASK_GRID"]),
        (moved(scale=2), ["MASK_GRID"]),
    ],
)
def test_geometry_is_judged_by_corners(
    inbox: Inbox, kind: str, grid: Grid, codes: list[str] | dict[str, list[str]]
) -> None:
    path = inbox.folder / f"e.{kind}"
    if kind == "nii.gz":
        write_nifti(path, EDITED, grid)
    else:
        save_segments(path, EDITED[None], [segment(n, n) for n in IDS], grid)
    inbox.write(row("edit", 2, mask=path.name))
    assert inbox.codes() == (codes[kind] if isinstance(codes, dict) else codes)


def test_nifti_of_another_box_is_refused(inbox: Inbox) -> None:
    write_nifti(inbox.folder / "e.nii.gz", *crop(EDITED, np.s_[5:10, 9:15, 7:12]))
    inbox.write(row("edit", 2, mask="e.nii.gz"))
    assert inbox.codes() == ["MASK_GRID"]


def save_floats(path: Path, array: NDArray[np.floating]) -> None:
    image = nib.Nifti1Image(np.float32(array).transpose(2, 1, 0), GRID.affine)
    image.set_qform(GRID.affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def test_values_must_be_whole(inbox: Inbox) -> None:
    path = inbox.folder / "e.nii.gz"
    inbox.write(row("edit", 2, mask=path.name))
    save_floats(path, EDITED)
    assert inbox.codes() == []
    save_floats(path, EDITED * 0.999)
    assert inbox.codes() == ["MASK_VALUES"]
    save_floats(path, EDITED * -1.0)
    assert inbox.codes() == ["MASK_VALUES"]
    save_floats(path, EDITED * 0.0)
    assert inbox.codes() == ["MASK_EMPTY"]
    path.write_bytes(path.read_bytes()[:-9])
    assert inbox.codes()[0].startswith("GZIP")


def test_empty_segmentation_is_one_voxel(inbox: Inbox) -> None:
    grid = Grid.of((1, 1, 1), np.eye(4))
    save_segments(inbox.folder / "e.seg.nrrd", np.zeros((1, 1, 1, 1), np.uint8), [], grid)
    inbox.write(row("add", mask="e.seg.nrrd"))
    assert inbox.codes() == ["MASK_EMPTY"]


def test_segmentation_files_are_read_strictly(inbox: Inbox) -> None:
    path = inbox.folder / "e.seg.nrrd"
    inbox.write(row("edit", 2, mask=path.name))
    save_segments(path, EDITED[None], [segment(n, n) for n in IDS])
    good = path.read_bytes()
    end = good.index(b"\n\n")
    detached = good[:end] + b"\ndata file: outside.raw" + good[end:]
    huge = good.replace(b"sizes: 16 20 12", b"sizes: 16000 20 12")
    for data, code in [
        (good[:-20], "GZIP"), (good[:-6] + bytes(6), "GZIP"), (good[: end // 2], "GZIP"),
        (detached, "MASK_UNREADABLE"), (huge, "MASK_UNREADABLE"), (b"NRRD0004\n", "MASK_UNREAD"),
        (good.replace(b"type: uint16", b"type: float "), "MASK_UNREADABLE"),
        (b"version https://git-lfs.github.com/spec/v1\n", "POINTER_FILE"),
        (good.replace(b"Segment1_LabelValue:=2", b"Segment1_LabelValue:=9"), "MASK_VALUES"),
    ]:  # fmt: skip
        assert data != good
        path.write_bytes(data)
        [excluded] = inbox.read()[1]
        assert excluded["code"].startswith(code)
        assert str(inbox.folder) not in str(excluded)


def test_what_each_decision_takes_from_its_mask(inbox: Inbox) -> None:
    halves = {1: np.s_[1:4, 2:4, 2:7], 4: np.s_[1:4, 4:6, 2:7]}
    write_nifti(inbox.folder / "split.nii.gz", draw({**BOXES, **halves}), GRID)
    bridge = np.s_[6:11, 10:18, 1:10]
    merged = draw({2: bridge})
    save_segments(inbox.folder / "merge.seg.nrrd", merged[None], [segment(2, 2)])
    new = {7: np.s_[0:2, 0:2, 12:14], 9: np.s_[0:1, 5:7, 12:14]}
    write_nifti(inbox.folder / "add.nii.gz", draw({**BOXES, **new}), GRID)
    inbox.write(
        row("split", 1, mask="split.nii.gz"), row("merge", 2, mask="merge.seg.nrrd"),
        row("merge", 3, mask="merge.seg.nrrd"), row("add", mask="add.nii.gz"),
    )  # fmt: skip
    (split, merge_2, merge_3, add), excluded = inbox.read()
    assert not excluded
    np.testing.assert_array_equal(inbox.mask(split), draw({1: halves[1], 2: halves[4]}))
    assert merge_2.mask_sha256 == merge_3.mask_sha256
    np.testing.assert_array_equal(inbox.mask(merge_2), draw({1: bridge}))
    np.testing.assert_array_equal(inbox.mask(add), draw({1: new[7], 2: new[9]}))


@pytest.mark.parametrize(
    ("rows", "codes"),
    [
        # The only label is another candidate's: an edit never guesses.
        ([("edit", 2, "one")], ["MASK_SEGMENT"]),
        ([("add", 0, "one")], ["MASK_SEGMENT"]),
        ([("split", 1, "one")], ["MASK_SEGMENT"]),
        ([("edit", 1, "one"), ("edit", 2, "all")], []),
        ([("edit", 1, "all"), ("edit", 2, "all")], []),
        ([("merge", 1, "all")], ["MERGE_INCOMPLETE"]),
        ([("merge", 1, "all"), ("merge", 2, "all")], []),
        ([("merge", 1, "all"), ("merge", 9, "all"), ("merge", 2, "all")],
         ["CANDIDATE_MISSING", "MERGE_INCOMPLETE", "MERGE_INCOMPLETE"]),
        ([("merge", 1, "all"), ("edit", 2, "all")], ["MASK_SHARED", "MASK_SHARED"]),
        ([("split", 1, "all"), ("split", 2, "all")], ["MASK_SHARED", "MASK_SHARED"]),
        ([("edit", 1, "foreign")], ["MASK_OTHER_CASE"]),
        ([("add", 0, "overlap")], ["MASK_OVERLAP"]),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit_their_decision(
    inbox: Inbox, rows: list[tuple[str, int, str]], codes: list[str]
) -> None:
    names = {"one": "one.nii.gz", "all": "all.nii.gz", "foreign": "f.seg.nrrd",
             "overlap": "o.seg.nrrd"}  # fmt: skip
    write_nifti(inbox.folder / names["one"], draw({1: BOXES[1]}), GRID)
    write_nifti(inbox.folder / names["all"], CANDIDATES, GRID)
    foreign = {**segment(1), "tags": {"candidate_id": "of_another_case"}}
    save_segments(inbox.folder / names["foreign"], CANDIDATES[None],
                  [foreign, segment(2, 2), segment(3, 3)])  # fmt: skip
    layers = np.stack([draw({1: BOXES[1]}), draw({1: BOXES[1]})])
    save_segments(inbox.folder / names["overlap"], layers, [segment(1), segment(1, layer=1)])
    inbox.write(*(row(decision, n, mask=names[mask]) for decision, n, mask in rows))
    assert sorted(inbox.codes()) == sorted(codes)


# Final masks -------------------------------------------------------------------------------

MASKS: dict[str, NDArray[np.uint16]] = {}


def drawn(boxes: dict[int, tuple[slice, ...]]) -> str:
    array = draw(boxes)
    sha256 = mask_sha256(array, GRID)
    MASKS[sha256] = array
    return sha256


def merged(*events: Event, **arguments: object) -> MergedMask:
    facts = {"candidates": CANDIDATES, "candidate_ids": IDS, "source_lesions": None}
    return merge_organ(
        case_id=CASE, organ=ORGAN, shape=SHAPE, events=events, load_mask=MASKS.__getitem__,
        **(facts | arguments),
    )  # fmt: skip


def of_ids(result: MergedMask) -> dict[str, NDArray[np.bool_]]:
    return {line.tumor_id: result.instances == n for n, line in result.lineage.items()}


EDIT_2 = drawn({1: np.s_[6:9, 10:14, 8:11]})
NEW = np.s_[0:2, 0:2, 12:14]
ADD = drawn({1: NEW})
ADD_ID = instance_id(CASE, ORGAN, SHAPE, np.flatnonzero(draw({1: NEW})))


def test_accept_edit_add_reject() -> None:
    events = [
        event("accept", 1), event("edit", 2, mask_sha256=EDIT_2), event("reject", 3),
        event("add", mask_sha256=ADD, reviewer_id="R2"), event("sign_off", reviewer_id="R3"),
    ]  # fmt: skip
    result = merged(*events)
    assert (result.state, result.origin, result.signed_by) == ("present", "review", "R3")
    assert not result.pending and not result.overlaps
    got = of_ids(result)
    assert set(got) == {IDS[1], IDS[2], ADD_ID}
    np.testing.assert_array_equal(got[IDS[1]], CANDIDATES == 1)
    np.testing.assert_array_equal(got[IDS[2]], MASKS[EDIT_2] == 1)
    np.testing.assert_array_equal(got[ADD_ID], MASKS[ADD] == 1)
    assert [line.origin for line in result.lineage.values()] == ["accept", "edit", "add"]
    assert set(result.kinds.values()) == {"tumor"}
    assert not result.instances[CANDIDATES == 3].any()
    by_id = {line.tumor_id: line for line in result.lineage.values()}
    assert by_id[IDS[2]].candidate_ids == (IDS[2],)
    assert by_id[ADD_ID].candidate_ids == () and by_id[ADD_ID].reviewers == ("R2",)
    assert by_id[IDS[1]].event_ids == (events[0].event_id,)


def all_rejected() -> list[Event]:
    return [event("reject", n) for n in IDS]


@pytest.mark.parametrize(
    ("events", "open_items"),
    [
        (lambda: [], 4),
        (lambda: [event("accept", 1)], 3),
        (lambda: [event("accept", 1), event("sign_off")], 2),
        (lambda: [*all_rejected(), event("uncertain", 2), event("sign_off")], 1),
        (lambda: [event("sign_off"), *all_rejected()], 1),
        (lambda: [*all_rejected(), event("sign_off"), event("contest", 1, reviewer_id="R2")], 1),
        (lambda: [*all_rejected(), event("sign_off"), event("undo")], 1),
        (lambda: [*all_rejected(), event("undo", 2), event("sign_off")], 1),
        (lambda: [*all_rejected(), event("sign_off"), event("withdraw")], 1),
        # Signed earlier than decided, though imported last.
        (lambda: (early := event("sign_off")) and [*all_rejected(), early], 1),
        # Imported later, though decided earlier: the senior had not seen it.
        (lambda: (late := event("contest", 2)) and [*all_rejected(), event("sign_off"), late], 1),
    ],
)
def test_unsettled_organs_stay_unknown(events: Callable[[], list[Event]], open_items: int) -> None:
    result = merged(*events())
    assert (result.state, result.origin, result.signed_by) == ("unknown", "", "")
    assert not result.instances.any() and not result.lineage
    assert len(result.pending) == open_items


def test_signature_makes_empty_known() -> None:
    result = merged(*all_rejected(), event("sign_off"))
    assert (result.state, result.signed_by) == ("confirmed_empty", "R1")
    nothing = {"candidates": None, "candidate_ids": {}}
    assert merged(event("sign_off"), **nothing).state == "confirmed_empty"
    assert merged(**nothing).state == "unknown"
    again = [*all_rejected(), event("sign_off"), event("withdraw"), event("sign_off")]
    assert merged(*again).state == "confirmed_empty"


def test_who_wins() -> None:
    rest = [event("reject", 2), event("reject", 3)]
    shrunk = drawn({1: np.s_[1:3, 2:5, 2:6]})
    cases = [
        ([event("reject", 1), event("accept", 1, reviewer_id="R2")], 0),
        ([event("accept", 1, reviewer_id="R2"), event("reject", 1)], 0),
        ([event("reject", 1, reviewer_id="R2"), event("accept", 1)], 60),
        ([event("accept", 1), event("reject", 1), event("uncertain", 1, reviewer_id="R3")], 0),
        ([event("accept", 1, reviewer_id="R2"), event("reject", 1, reviewer_id="R2")], 0),
        ([event("reject", 1), event("undo", 1), event("accept", 1, reviewer_id="R2")], 60),
        ([event("accept", 1), event("undo", 1, reviewer_id="R3")], 60),
        # A junior's outline refines what a senior accepted, and revives nothing.
        ([event("accept", 1), event("edit", 1, mask_sha256=shrunk, reviewer_id="R2")], 24),
        ([event("edit", 1, mask_sha256=shrunk, reviewer_id="R2"), event("accept", 1)], 60),
        ([event("reject", 1), event("edit", 1, mask_sha256=shrunk, reviewer_id="R2")], 0),
        ([event("edit", 1, mask_sha256=shrunk), event("accept", 1, reviewer_id="R2")], 24),
    ]
    for events, voxels in cases:
        result = merged(*rest, *events, event("sign_off"))
        assert not result.pending
        assert np.count_nonzero(result.instances) == voxels


def test_a_senior_may_refuse_an_added_tumor() -> None:
    add = event("add", mask_sha256=ADD, reviewer_id="R2")
    start = [*all_rejected(), add]
    assert merged(*start, event("sign_off")).state == "present"
    assert merged(*start, event("accept", ADD_ID), event("sign_off")).lineage[1].origin == "add"
    refused = [*start, event("reject", ADD_ID), event("sign_off")]
    assert merged(*refused).state == "confirmed_empty"
    undone = [*start, event("undo", reviewer_id="R2"), event("sign_off")]
    assert merged(*undone).state == "confirmed_empty"


def test_split_and_merge() -> None:
    parts = {1: np.s_[1:4, 2:4, 2:7], 2: np.s_[1:4, 4:6, 2:7]}
    bridge = drawn({1: np.s_[6:11, 10:18, 1:10]})
    events = [
        event("split", 1, mask_sha256=drawn(parts)),
        event("merge", 2, mask_sha256=bridge), event("merge", 3, mask_sha256=bridge),
    ]  # fmt: skip
    result = merged(*events, event("sign_off"))
    assert [line.origin for line in result.lineage.values()] == ["merge", "split", "split"]
    assert result.lineage[1].candidate_ids == (IDS[2], IDS[3])
    assert len(result.lineage[1].event_ids) == 2
    np.testing.assert_array_equal(result.instances == 1, MASKS[bridge] == 1)
    assert len({line.tumor_id for line in result.lineage.values()}) == 3
    torn = merged(*events, event("reject", 3), event("sign_off"))
    assert torn.state == "unknown" and "contradicted" in torn.pending[0]
    redone = merged(*events, event("accept", 2), event("reject", 3), event("sign_off"))
    assert set(of_ids(redone)) > {IDS[2]} and len(redone.lineage) == 3


def test_overlaps_are_settled_and_told() -> None:
    wide = drawn({1: np.s_[1:8, 2:13, 2:10]})
    later = drawn({1: np.s_[0:3, 0:5, 2:14]})
    events = [
        event("edit", 2, mask_sha256=wide), event("accept", 1), event("reject", 3),
        event("add", mask_sha256=later), event("sign_off"),
    ]  # fmt: skip
    result = merged(*events)
    got = of_ids(result)
    # The accepted candidate lies inside the edit: nothing of it is left.
    assert IDS[1] not in got
    later_mask = MASKS[later] == 1
    np.testing.assert_array_equal(got[IDS[2]], (MASKS[wide] == 1) & ~later_mask)
    lost = {(o.loser_id, o.winner_id): o.voxels for o in result.overlaps}
    assert lost[IDS[1], IDS[2]] == (CANDIDATES == 1).sum()
    assert sum(lost.values()) == 60 + ((MASKS[wide] == 1) & later_mask).sum()


LESIONS = np.zeros(SHAPE, np.uint8)
LESIONS[2:4, 2:4, 2:4] = 1
LESIONS[4, 4, 4] = 1  # touches the first by a corner only: one tumor under 26-connectivity
LESIONS[8:9, 2:3, 12:14] = 1
LESIONS[8:11, 8:11, 12:15] = 2


def source() -> Event:
    return event("source_label", reviewer_id="kits23", batch="")


def test_source_labels_need_no_signature() -> None:
    result = merged(source(), source_lesions=LESIONS)
    assert (result.state, result.origin, result.signed_by) == ("present", "source", "")
    assert result.pending == []
    assert result.kinds == {1: "tumor", 2: "tumor", 3: "cyst"}
    np.testing.assert_array_equal(np.bincount(result.instances.ravel())[1:], [9, 2, 27])
    assert result.lineage[1].tumor_id == instance_id(
        CASE, ORGAN, SHAPE, np.flatnonzero(result.instances == 1)
    )
    empty = merged(source(), source_lesions=np.zeros(SHAPE, np.uint8))
    assert (empty.state, empty.origin) == ("confirmed_empty", "source")


def test_review_adds_to_source_labels_once_signed() -> None:
    decided = [source(), event("accept", 1), event("reject", 2), event("reject", 3)]
    half = merged(*decided, source_lesions=LESIONS)
    assert (half.state, half.origin) == ("present", "source")
    assert len(half.lineage) == 3 and len(half.pending) == 1
    done = merged(*decided, event("sign_off"), source_lesions=LESIONS)
    assert (done.origin, done.signed_by) == ("review", "R1")
    got = of_ids(done)
    # The candidate is the source's tumor: no rim of the model's is left around it.
    assert IDS[1] not in got and len(got) == 3
    assert done.counts.accepted == done.counts.swallowed == 1
    taken = merged(*decided, event("sign_off"), event("withdraw"), source_lesions=LESIONS)
    assert taken.state == "unknown" and not taken.instances.any()


@pytest.mark.parametrize(
    ("events", "arguments", "code"),
    [
        (lambda: [event("accept", "c9")], {}, "CANDIDATE_UNKNOWN"),
        (lambda: [event("accept", 1, organ="colon")], {}, "EVENT_FOREIGN"),
        (lambda: [source()], {}, "SOURCE_EVENT"),
        (lambda: [], {"source_lesions": LESIONS}, "SOURCE_EVENT"),
        (lambda: [source()], {"source_lesions": LESIONS * 2}, "MASK_VALUES"),
        (lambda: [source()], {"source_lesions": LESIONS[1:]}, "MASK_GRID"),
        (lambda: [], {"candidates": CANDIDATES[1:]}, "MASK_GRID"),
        (lambda: [], {"candidate_ids": {1: "c1aaaa"}}, "MASK_VALUES"),
        (lambda: [], {"candidates": None}, "MASK_VALUES"),
        (lambda: [event("edit", 1, mask_sha256=drawn({1: NEW, 2: BOXES[1]}))], {}, "MASK_VALUES"),
    ],
)
def test_what_does_not_belong_together_is_an_error(
    events: Callable[[], list[Event]], arguments: dict[str, object], code: str
) -> None:
    with pytest.raises(ReviewError, match=code):
        merged(*events(), **arguments)


def test_wrong_grid_of_a_stored_mask() -> None:
    MASKS["0" * 64] = CANDIDATES[1:]
    with pytest.raises(ReviewError, match="MASK_GRID"):
        merged(event("edit", 1, mask_sha256="0" * 64))


KINDS = ["accept", "reject", "uncertain", "edit", "add", "contest", "undo", "sign_off", "withdraw"]


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(KINDS), st.sampled_from([1, 2, 3]), st.sampled_from(["R1", "R2"])
        ),
        max_size=14,
    ),
    closing=st.booleans(),
    has_source=st.booleans(),
)
def test_invariants(steps: list[tuple[str, int, str]], closing: bool, has_source: bool) -> None:
    """Hold for any history: every released voxel is accounted for, and nothing else is."""
    event.second = 0
    events = [source()] if has_source else []
    for decision, n, reviewer in steps:
        if decision in ("sign_off", "withdraw"):
            reviewer = "R1"
        candidate = None if decision in ("add", "sign_off", "withdraw") else n
        mask = {"edit": EDIT_2, "add": ADD}.get(decision, "")
        events.append(event(decision, candidate, reviewer_id=reviewer, mask_sha256=mask))
    if closing:
        events += [event("accept", n) for n in IDS] + [event("sign_off")]
    lesions = LESIONS if has_source else None
    result = merged(*events, source_lesions=lesions)
    ids = dict(random.Random(0).sample(sorted(IDS.items()), 3))
    again = merged(*events, source_lesions=lesions, candidate_ids=ids)
    np.testing.assert_array_equal(result.instances, again.instances)
    assert (result.lineage, result.pending) == (again.lineage, again.pending)
    labels = set(voxels_by_label(result.instances))
    assert labels == set(result.lineage) == set(result.kinds) == set(range(1, len(labels) + 1))
    allowed = np.zeros(SHAPE, bool)
    for line in result.lineage.values():
        known = {e.event_id for e in events}
        assert line.event_ids and set(line.event_ids) <= known
        if line.origin == "accept":
            allowed |= CANDIDATES == next(n for n in IDS if IDS[n] in line.candidate_ids)
        else:
            allowed |= {"edit": MASKS[EDIT_2] > 0, "add": MASKS[ADD] > 0,
                        "source": LESIONS > 0}[line.origin]  # fmt: skip
    assert not result.instances[~allowed].any()
    if closing:
        assert not result.pending and result.signed_by == "R1"
    if result.origin == "review":
        assert result.signed_by and not result.pending
    if result.state == "unknown":
        assert result.pending and not labels
    elif result.state == "confirmed_empty":
        assert not labels


# The whole loop ----------------------------------------------------------------------------


def test_round_trip_through_packet_ledger_and_store(tmp_path: Path, inbox: Inbox) -> None:
    folder = packet(tmp_path)
    place = f"{CASE}/{ORGAN}"
    segmentation = slicerio.read_segmentation(str(folder / place / "candidates.seg.nrrd"))
    voxels = segmentation["voxels"][0]  # the outline of the organ is the second layer
    voxels[voxels == 2] = 0
    voxels[8:11, 10:14, 6:9] = 2
    slicerio.write_segmentation(str(inbox.folder / "liver.seg.nrrd"), segmentation)
    template = pd.read_csv(folder / "decisions.csv", keep_default_na=False, dtype=str)
    template["decision"] = ["accept", "edit", "reject", "sign_off"]
    template["mask"] = ["", "liver.seg.nrrd", "", ""]
    template["reviewer_id"] = "R1"
    template["time"] = [f"2026-11-21T10:0{n}:00Z" for n in range(4)]
    template.to_csv(inbox.folder / "decisions.csv", index=False, encoding="utf-8-sig")
    events, excluded = inbox.read()
    assert not excluded
    append_events(tmp_path / "ledger.jsonl", events)
    result = merge_organ(
        case_id=CASE, organ=ORGAN, shape=SHAPE, source_lesions=None, candidates=CANDIDATES,
        candidate_ids=IDS, events=read_ledger(tmp_path / "ledger.jsonl"),
        load_mask=lambda sha256: load_mask(inbox.store, sha256, max_voxels=CANDIDATES.size),
    )  # fmt: skip
    got = of_ids(result)
    assert set(got) == {IDS[1], IDS[2]}
    np.testing.assert_array_equal(got[IDS[2]], MASKS[EDIT_2] == 1)
