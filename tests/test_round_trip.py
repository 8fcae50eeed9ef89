"""Eleven real liver tumors go out and come back through every format, voxel by voxel."""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import slicerio
from numpy.typing import NDArray

from tests.segmentations import (
    cut,
    dicom_slices,
    segment,
    write_dicom_seg,
    write_itk_seg_nrrd,
    write_slicer,
)
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti, write_nifti
from tumoratlas.review.bases import Base, store_base
from tumoratlas.review.ledger import Event
from tumoratlas.review.masks import load_mask, voxels_by_label
from tumoratlas.review.packets.batch import DECISION_COLUMNS, PacketCase, PacketOrgan, write_batch
from tumoratlas.review.returns.mask_files import read_returned
from tumoratlas.review.returns.read import read_returns

CASE, ORGAN = "BDMAP_00000001", "liver"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ROSTER = pd.DataFrame([("R1", "senior"), ("R2", "junior")], columns=["reviewer_id", "role"])


@dataclass(frozen=True)
class Sent:
    """The tumors as candidates, and the packet of their batch."""

    tumors: NDArray[np.uint16]
    grid: Grid
    base: Base
    packet: Path
    store: Path
    voxels: dict[int, NDArray[np.int64]]

    @property
    def files(self) -> Path:
        return self.packet / CASE / ORGAN

    def read(self, folder: Path) -> tuple[list[Event], dict[str, str]]:
        """Return the events, and the code of each row left out."""
        table = [
            {"candidate_id": c, "number": n, "case_id": CASE, "organ": ORGAN}
            for n, c in self.base.candidates.items()
        ]
        events, excluded = read_returns(
            folder, batch="b1", candidates=pd.DataFrame(table),
            bases={(CASE, ORGAN): self.base.base_sha256}, grids={CASE: self.grid},
            reviewers=ROSTER, store=self.store, now=NOW, issued={self.base.key: self.base},
            batches=[{"batch": "b1", "kind": "candidates", "reviewer_id": reviewer,
                      "case_id": CASE, "organs": [ORGAN]} for reviewer in ("R1", "R2")],
        )  # fmt: skip
        for row in excluded:
            text = " ".join(row.values())
            assert row["reason"] and row["remedy"]
            assert len(text) < 600 and "\n" not in text and str(folder) not in text
        assert len(excluded) == len({row["id"] for row in excluded})
        return events, {row["id"]: row["code"] for row in excluded}

    def row(self, decision: str, number: int = 0, **cells: str) -> dict[str, str]:
        return {
            "case_id": CASE, "organ": ORGAN, "candidate_id": self.base.candidates.get(number, ""),
            "decision": decision, "reviewer_id": "R1", "time": f"2026-11-21T10:{number:02d}:00Z",
            "seconds": "5", "tool": "t", "base_sha256": self.base.base_sha256, **cells,
        }  # fmt: skip


@pytest.fixture(scope="session")
def sent(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """Send out the tumors of LiTS volume 0."""
    folder = tmp_path_factory.mktemp("lits")
    path = real_data / "lits_liver_0/tumor_instances.nii.gz"
    file = read_nifti(path, max_voxels=1 << 26)
    tumors, grid = to_canonical(file.array.astype(np.uint16), file.grid)
    voxels = voxels_by_label(tumors)
    ids = {n: hashlib.sha256(b"%d" % n).hexdigest()[:16] for n in voxels}
    base = store_base(
        folder / "store", case_id=CASE, organ=ORGAN, candidates=tumors, candidate_ids=ids,
        grid=grid,
    )  # fmt: skip
    rows = [
        {"candidate_id": ids[n], "number": n, "volume_mm3": 1.0, "radius_mm": 1.0, "max_p": 1.0}
        for n in voxels
    ]
    shown = PacketOrgan(tumors, rows, tumors > 0, base.base_sha256)
    write_batch(
        folder / "b1", batch="b1", kind="candidates", reviewer_id="R1", role="senior",
        cases=[PacketCase(CASE, 1, path, grid, [ORGAN], lambda organ: shown)],
    )  # fmt: skip
    return Sent(tumors, grid, base, folder / "b1", folder / "store", voxels)


def write_form(path: Path, *rows: dict[str, str], **form: str) -> None:
    with open(path, "w", newline="", encoding=form.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, DECISION_COLUMNS, **form)
        writer.writeheader()
        writer.writerows(rows)


# Each writer saves a map of the eleven tumors as one tool does --------------------------------


def as_nifti(path: Path, array: NDArray[np.uint16], sent: Sent) -> None:
    write_nifti(path, *to_canonical(array, sent.grid, "LPS"))


def as_slicer(path: Path, array: NDArray[np.uint16], sent: Sent) -> None:
    """Save the packet's segmentation, changed, cut and in LPS order, its outline included."""
    segmentation = slicerio.read_segmentation(str(sent.files / "candidates.seg.nrrd"))
    organ = np.ascontiguousarray(segmentation["voxels"][1].transpose(2, 1, 0))
    _, box = cut(organ, sent.grid)
    start = np.rint(np.linalg.inv(sent.grid.affine) @ box.affine[:, 3])[2::-1].astype(int)
    part = tuple(slice(a, a + n) for a, n in zip(start, box.shape, strict=True))
    turned = [to_canonical(layer[part], box, "LPS") for layer in (array, organ)]
    layers = np.stack([turned[0][0], turned[1][0].astype(np.uint16)])
    write_slicer(path, layers, segmentation["segments"], turned[0][1])


def as_itk(path: Path, array: NDArray[np.uint16], sent: Sent) -> None:
    names = {n: (f"liver candidate {n}", c) for n, c in sent.base.candidates.items()}
    write_itk_seg_nrrd(path, array, names, sent.grid)


def as_dicom(path: Path, array: NDArray[np.uint16], sent: Sent) -> None:
    turned, grid = to_canonical(array, sent.grid, "LPS")
    labels = [f"liver candidate {n}" for n in sent.base.candidates]
    write_dicom_seg(
        path, dicom_slices(grid), turned.astype(np.uint8), labels,
        list(sent.base.candidates.values()), "LABELMAP",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "write"),
    [("e.nii.gz", as_nifti), ("e.seg.nrrd", as_slicer), ("e.seg.nrrd", as_itk),
     ("e.dcm", as_dicom)],
    ids=["nifti", "slicer", "itk", "dicom"],
)  # fmt: skip
def test_masks_come_back_whole(
    sent: Sent, tmp_path: Path, name: str, write: Callable[[Path, NDArray[np.uint16], Sent], None]
) -> None:
    write(tmp_path / name, sent.tumors, sent)
    segments = read_returned(tmp_path / name, sent.grid)
    assert len(segments) == len(sent.voxels) == 11
    numbers = {candidate_id: n for n, candidate_id in sent.base.candidates.items()}
    for found in segments:
        number = found.number or numbers[found.candidate_id]
        np.testing.assert_array_equal(found.voxels, sent.voxels[number])
    # Of one tumor a voxel is taken away: what is stored is that, and nothing else.
    changed = sent.tumors.copy()
    changed.ravel()[sent.voxels[4][0]] = 0
    write(tmp_path / name, changed, sent)
    write_form(
        tmp_path / "decisions.csv",
        *(sent.row("edit" if n in (4, 5) else "accept", n, mask=name if n in (4, 5) else "")
          for n in sent.voxels),
    )  # fmt: skip
    events, left_out = sent.read(tmp_path)
    assert left_out == {"b1/decisions.csv:6": "EDIT_UNCHANGED"}
    assert len(events) == 10
    [edit] = [e for e in events if e.mask_sha256]
    assert edit.candidate_id == sent.base.candidates[4]
    stored = load_mask(sent.store, edit.mask_sha256, max_voxels=sent.tumors.size)
    np.testing.assert_array_equal(np.flatnonzero(stored), sent.voxels[4][1:])


def test_binary_dicom_segments_come_back_whole(sent: Sent, tmp_path: Path) -> None:
    turned, grid = to_canonical(sent.tumors, sent.grid, "LPS")
    some = [1, 4, 11]
    masks = np.stack([turned == n for n in some], axis=-1)
    ids = [sent.base.candidates[n] for n in some]
    write_dicom_seg(tmp_path / "e.dcm", dicom_slices(grid), masks, ["a", "b", "c"], ids)
    found = {s.candidate_id: s.voxels for s in read_returned(tmp_path / "e.dcm", sent.grid)}
    for number, candidate_id in zip(some, ids, strict=True):
        np.testing.assert_array_equal(found[candidate_id], sent.voxels[number])


def test_the_monai_label_folder_comes_back_whole(sent: Sent, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    (scans / "labels/final").mkdir(parents=True)
    datastore = json.loads((sent.packet / "scans/datastore_v2.json").read_text())
    file = f"{CASE}.nii.gz"
    shutil.copy(sent.packet / "scans/labels/original" / file, scans / "labels/final" / file)
    meta = {"status": "approved", "approvedBy": "R2", "editTime": 1795255200, "comment": ""}
    labels = datastore["objects"][CASE]["labels"]
    labels["final"] = {"ext": ".nii.gz", "info": {"segmentationMeta": meta}}
    (scans / "datastore_v2.json").write_text(json.dumps(datastore))
    events, left_out = sent.read(tmp_path)
    assert not left_out
    assert {e.candidate_id for e in events} == set(sent.base.candidates.values())
    assert {e.decision for e in events} == {"accept"}


def test_decisions_are_the_same_as_json_and_as_csv(sent: Sent, tmp_path: Path) -> None:
    rows = [sent.row("accept", n) for n in sent.voxels]
    write_form(tmp_path / "decisions.csv", *rows)
    from_csv, _ = sent.read(tmp_path)
    export = {
        "format": "tumoratlas-decisions", "schema": 1, "batch": "b1", "reviewer_id": "R1",
        "tool": "t", "exported": "2026-11-21T11:00:00.000Z",
        "decisions": [
            {k: v for k, v in row.items() if k not in ("reviewer_id", "tool")} for row in rows
        ],
    }  # fmt: skip
    (tmp_path / "decisions.json").write_text(json.dumps(export))
    assert sent.read(tmp_path) == (from_csv, {})
    assert len(from_csv) == 11


# Hostile returns: each is told in one line, and every good line counts ------------------------

Spoil = Callable[[Sent, Path], list[dict[str, str]]]


def spoil(code: str | None, name: str) -> Callable[[Spoil], object]:
    return lambda write: pytest.param(write, code, id=name)


@spoil(None, "cropped")
def cropped(sent: Sent, folder: Path) -> list[dict[str, str]]:
    """A file cut to its voxels is no defect."""
    changed = sent.tumors.copy()
    changed.ravel()[sent.voxels[2][0]] = 0
    as_slicer(folder / "m.seg.nrrd", changed, sent)
    return [sent.row("edit", 2, mask="m.seg.nrrd")]


@spoil(None, "overlapping-4d")
def overlapping(sent: Sent, folder: Path) -> list[dict[str, str]]:
    """Nor are overlapping segments, which come in four dimensions."""
    second = np.zeros_like(sent.tumors)
    second.ravel()[np.concatenate([sent.voxels[2], sent.voxels[3][:1]])] = 1
    segments = [segment(n, f"x{n}", c) for n, c in sent.base.candidates.items() if n != 2]
    segments.append(segment(1, "x2", sent.base.candidates[2], layer=1))
    first = np.where(sent.tumors == 2, 0, sent.tumors).astype(np.uint16)
    write_slicer(folder / "m.seg.nrrd", np.stack([first, second]), segments, sent.grid)
    return [sent.row("edit", 2, mask="m.seg.nrrd")]


@spoil("MASK_EMPTY", "one-voxel")
def one_voxel(sent: Sent, folder: Path) -> list[dict[str, str]]:
    grid = Grid.of((1, 1, 1), np.eye(4))
    write_slicer(folder / "m.seg.nrrd", np.zeros((1, 1, 1, 1), np.uint8), [], grid)
    return [sent.row("edit", 2, mask="m.seg.nrrd")]


@spoil("MASK_SEGMENT", "unknown-segment")
def unknown_segment(sent: Sent, folder: Path) -> list[dict[str, str]]:
    only = np.where(sent.tumors == 2, 1, 0).astype(np.uint16)
    part, grid = cut(only, sent.grid)
    write_slicer(folder / "m.seg.nrrd", part[None], [segment(1, "Segment_1")], grid)
    return [sent.row("edit", 2, mask="m.seg.nrrd")]


@spoil(None, "two-reviewers")
def two_reviewers(sent: Sent, folder: Path) -> list[dict[str, str]]:
    """Two reviewers may disagree: both are heard, and the merge settles it."""
    return [sent.row("accept", 2), sent.row("reject", 2, reviewer_id="R2", reason="vessel")]


@spoil("BASE_STALE", "stale-base")
def stale_base(sent: Sent, folder: Path) -> list[dict[str, str]]:
    return [sent.row("accept", 2, base_sha256="0" * 64)]


@spoil("TIME_INVALID", "excel-date")
def excel_date(sent: Sent, folder: Path) -> list[dict[str, str]]:
    return [sent.row("accept", 2, time="21.11.2026 10:02")]


@spoil("ROW_DUPLICATE", "duplicate")
def duplicate(sent: Sent, folder: Path) -> list[dict[str, str]]:
    return [sent.row("accept", 1)]


@spoil("CANDIDATE_UNKNOWN", "unknown-candidate")
def unknown_candidate(sent: Sent, folder: Path) -> list[dict[str, str]]:
    return [sent.row("accept", 2, candidate_id="f" * 16)]


@spoil("ROLE_WRONG", "wrong-role")
def wrong_role(sent: Sent, folder: Path) -> list[dict[str, str]]:
    return [sent.row("sign_off", reviewer_id="R2")]


@spoil("TIME_FUTURE", "future")
def future(sent: Sent, folder: Path) -> list[dict[str, str]]:
    return [sent.row("accept", 2, time="2026-11-21T12:00:01Z")]


@pytest.mark.parametrize(
    ("write", "code"),
    [cropped, overlapping, one_voxel, unknown_segment, two_reviewers, stale_base, excel_date,
     duplicate, unknown_candidate, wrong_role, future],
)  # fmt: skip
def test_hostile_returns(sent: Sent, tmp_path: Path, write: Spoil, code: str | None) -> None:
    rows = write(sent, tmp_path)
    # Byte order mark and semicolons throughout, as a spreadsheet saves them.
    good = [sent.row("accept", 1), sent.row("reject", 3, reason="cyst")]
    write_form(
        tmp_path / "decisions.csv", good[0], *rows, good[1], delimiter=";", encoding="utf-8-sig"
    )
    events, left_out = sent.read(tmp_path)
    assert left_out == ({"b1/decisions.csv:3": code} if code else {})
    taken = [(e.decision, e.candidate_id) for e in events]
    for row in (*good, *(rows if code is None else ())):
        assert (row["decision"], row["candidate_id"]) in taken
    assert len(events) == 2 + (len(rows) if code is None else 0)


def test_a_mask_of_another_scan_is_refused(sent: Sent, tmp_path: Path) -> None:
    """One slice off, or spacing rounded: the message says by how much."""
    affine = sent.grid.affine
    affine[0, 0] = round(affine[0, 0], 2)
    other = replace(sent, grid=Grid.of(sent.grid.shape, affine))
    part, grid = cut(other.tumors, other.grid)
    segments = [segment(n, f"x{n}", c) for n, c in sent.base.candidates.items()]
    write_slicer(tmp_path / "m.seg.nrrd", part[None], segments, grid)
    write_form(
        tmp_path / "decisions.csv", sent.row("edit", 2, mask="m.seg.nrrd"), sent.row("accept", 1)
    )
    events, left_out = sent.read(tmp_path)
    assert len(events) == 1 and list(left_out.values()) == ["MASK_GRID"]
