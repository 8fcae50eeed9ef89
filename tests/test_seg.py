"""DICOM SEG objects of a release: exact, deterministic, readable, and without a patient."""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts

from tests.phantoms.dicom import Series, write_series
from tumoratlas.core.errors import PutOffError, ReleaseError
from tumoratlas.core.files import read_json, write_json
from tumoratlas.core.runner import (
    Step,
    Task,
    finished_folders,
    read_manifest,
    read_record,
    read_rows,
    run_shard,
)
from tumoratlas.core.structures import structures, tumor_structures
from tumoratlas.images.dicom import read_series
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti, write_nifti
from tumoratlas.release.privacy.search import find_phi
from tumoratlas.release.seg.codes import read_codes
from tumoratlas.release.seg.steps import write_segs
from tumoratlas.release.seg.write import write_seg
from tumoratlas.release.steps import list_excluded
from tumoratlas.release.verify.seg import seg_problems
from tumoratlas.review.returns.dicom_seg import read_dicom_seg

CODES = Path(__file__).resolve().parents[1] / "resources/dicom_codes.csv"
LIMITS = {"max_voxels": 10**9, "min_slices": 1}
CASE = "BDMAP_00000007"
TO_RAS = np.diag([-1.0, -1.0, 1.0])
SHIFT = np.array([[1, 0, 0, 0.05], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
ODD = (12, 13, 11)  # a slice of 143 pixels ends within a byte
PRIVATE = {
    "PatientName": "DOE^JANE", "PatientID": "4711007", "PatientBirthDate": "19580314",
    "StudyDate": "20210314", "InstitutionName": "St. Doe", "ReferringPhysicianName": "ROE^RICHARD",
    "AccessionNumber": "A20210314", "StudyDescription": "DOE abdomen", "PatientSex": "F",
    "StationName": "CTDOE", "OperatorsName": "ROE^ROBERT",
}  # fmt: skip


def turned(degrees: float) -> Callable[[Dataset], None]:
    """Return what turns a whole series about the patient's left-right axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])

    def finish(data: Dataset) -> None:
        there = turn @ [float(v) for v in data.ImagePositionPatient]
        data.ImagePositionPatient = [f"{v:.8f}" for v in there]
        axes = [turn @ [1, 0, 0], turn @ [0, 1, 0]]
        data.ImageOrientationPatient = [f"{v:.10f}" for axis in axes for v in axis]

    return finish


def phantom(
    folder: Path, shape: tuple[int, int, int] = ODD, **series: Any
) -> tuple[dict[str, Any], Grid]:
    """Write a series, and return its listed scan and its grid in canonical order."""
    grid = Grid.of(shape, np.array([[0.8, 0, 0, -5], [0, 0.7, 0, 9], [0, 0, 2, 40], [0, 0, 0, 1]]))
    hu = np.random.default_rng(3).integers(-900, 900, shape).astype(np.int16)
    hu[:, 2:-2, 2:-2] = 40
    # Names run against the positions.
    names = [f"i{shape[0] - k:03d}.dcm" for k in range(shape[0])]
    write_series(folder, hu, grid, names, Series("seg", -1024, 3.2, **series))
    return listed(folder)


def listed(folder: Path) -> tuple[dict[str, Any], Grid]:
    series = read_series(folder, max_voxels=10**9)
    scan = {
        "scan_id": "chaos_1", "image_path": str(folder), "format": "dicom", "repairs": [],
        "files": sorted(path.name for path in series.files), "suspects": [],
        "licence": "CC BY-NC-SA 4.0", "file_sha256": series.sha256,
    }  # fmt: skip
    return scan, to_canonical(series.array, series.grid)[1]


def masks(folder: Path, grid: Grid) -> list[dict[str, Any]]:
    """Write a case's masks: two organs, one of them empty, two tumors and a cyst that overlap."""
    z, y, x = grid.shape
    liver, empty = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    liver[1 : z - 1, : y // 2, x // 3 :] = 1
    liver[z // 2, 1, -1] = 0
    kidney = np.zeros(grid.shape, np.uint8)
    kidney[: z // 2, y // 2 :, : x // 2] = 1
    tumors, cysts, pooled = (np.zeros(grid.shape, np.uint16) for _ in range(3))
    tumors[2:5, 1:4, x // 2 :] = 1
    tumors[z - 3 : z - 1, 2:4, x // 3 : x // 2] = 2
    cysts[1:3, -4:-1, 1:3] = 1
    pooled[0, 0, 0] = 1
    for name, array in {
        "segmentations/liver": liver, "segmentations/spleen": empty,
        "segmentations/kidney_left": kidney, "segmentations/liver_lesion": liver,
        "instances/liver": tumors, "instances/kidney": cysts, "instances/pooled": pooled,
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_nifti(folder / f"{name}.nii.gz", array, grid)
    keys = ("organ", "number", "lesion_kind", "origin", "tumor_id")
    rows = [
        ("liver", 2, "tumor", "edit", "00000000000000a2"),
        ("liver", 1, "tumor", "source", "00000000000000a1"),
        ("kidney", 1, "cyst", "source", "00000000000000b1"),
        ("unassigned", 1, "lesion", "pooled", "00000000000000c1"),
        ("colon", 1, "tumor", "source", "00000000000000d1"),  # withheld: it has no file
    ]
    return [dict(zip(keys, row, strict=True)) for row in rows]


EXPECTED = {
    "liver": ("segmentations/liver", 1, ""),
    "kidney_left": ("segmentations/kidney_left", 1, ""),
    "liver tumor 1": ("instances/liver", 1, "00000000000000a1"),
    "liver tumor 2": ("instances/liver", 2, "00000000000000a2"),
    "kidney cyst 1": ("instances/kidney", 1, "00000000000000b1"),
    "pooled lesion 1": ("instances/pooled", 1, "00000000000000c1"),
}


def written(tmp_path: Path, **series: Any) -> tuple[Path, Path, list[dict[str, Any]], Grid]:
    """Return the object, folder of the masks, tumors and grid of a phantom case."""
    scan, grid = phantom(tmp_path / "dicom", **series)
    tumors = masks(tmp_path / "case", grid)
    make(tmp_path, scan, tumors)
    return tmp_path / "seg.dcm", tmp_path / "case", tumors, grid


def make(folder: Path, scan: dict[str, Any], tumors: list[dict[str, Any]]) -> dict[str, Any]:
    return write_seg(
        folder, case_id=CASE, scan=scan, written=folder / "case", tumors=tumors,
        codes=read_codes(CODES), **LIMITS,
    )  # fmt: skip


def points(seg: Dataset) -> dict[str, np.ndarray]:
    """Return each segment's pixels as places in the patient (`keys`)."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    rows_mm, columns_mm = shared.PixelMeasuresSequence[0].PixelSpacing
    labels = {int(one.SegmentNumber): one.SegmentLabel for one in seg.SegmentSequence}
    found: dict[str, list[np.ndarray]] = {label: [] for label in labels.values()}
    for item, plane in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        places = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(plane)
        places = places + np.outer(columns * columns_mm, cosines[:3])
        places += np.outer(rows * rows_mm, cosines[3:])
        number = int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        found[labels[number]].append(places)
    return {label: keys(np.concatenate(parts)) for label, parts in found.items()}


def mask_points(mask: np.ndarray, grid: Grid) -> np.ndarray:
    indices = np.argwhere(mask)[:, ::-1]
    return keys((indices @ grid.affine[:3, :3].T + grid.affine[:3, 3]) @ TO_RAS)


def keys(places: np.ndarray) -> np.ndarray:
    """Return places (n, 3) in LPS mm as sorted numbers, equal where they agree to 0.05 mm."""
    x, y, z = np.floor(places.T * 10 + 0.137).astype(np.int64) + (1 << 18)
    return np.sort((x << 40) + (y << 20) + z)


def check_exact(path: Path, case: Path, grid: Grid) -> None:
    """Compare every segment with its mask: by pydicom, by our importer and by highdicom."""
    seg = pydicom.dcmread(path)
    found = points(seg)
    assert set(found) == set(EXPECTED)
    by_importer = {one.name: one for one in read_dicom_seg(path, grid)}
    by_library = hd.seg.segread(path)
    for number, label in enumerate(found, start=1):
        name, value, tumor_id = EXPECTED[label]
        mask = read_nifti(case / f"{name}.nii.gz", max_voxels=10**9).array == value
        np.testing.assert_array_equal(found[label], mask_points(mask, grid))
        np.testing.assert_array_equal(by_importer[label].voxels, np.flatnonzero(mask))
        assert (by_importer[label].candidate_id or "") == tumor_id
        volume = by_library.get_volume(segment_numbers=[number], combine_segments=True)
        assert int(volume.array.sum()) == int(mask.sum()) * number


@pytest.mark.parametrize(
    "series",
    [
        {},
        {"shape": (9, 16, 24)},
        {"is_rle": True, "bits": 12},
        {"finish": turned(90)},
        {"finish": turned(-90)},
        {"finish": turned(17)},
    ],
    ids=["odd", "whole bytes", "compressed", "coronal", "coronal back", "oblique"],
)
def test_every_segment_is_its_mask_in_the_patient(tmp_path: Path, series: dict[str, Any]) -> None:
    path, case, tumors, grid = written(tmp_path, **series)
    check_exact(path, case, grid)
    assert seg_problems(path, case_id=CASE, folder=case, tumors=tumors, grid=grid) == []


@pytest.mark.parametrize(("name", "spacing"), [("chaos_ct_set_3", 2.0), ("tcia_crlm_ct_1004", 5.0)])
def test_real_series(real_data: Path, tmp_path: Path, name: str, spacing: float) -> None:
    with tarfile.open(real_data / name / "dicom.tar.xz") as archive:
        archive.extractall(tmp_path / "dicom", filter="data")
    folder = next(path.parent for path in sorted((tmp_path / "dicom").rglob("*.dcm")))
    scan, grid = listed(folder)
    tumors = masks(tmp_path / "case", grid)
    row = make(tmp_path, scan, tumors)
    check_exact(tmp_path / "seg.dcm", tmp_path / "case", grid)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert row == {"case_id": CASE, "segments": 6, "frames": int(seg.NumberOfFrames)}
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == spacing == float(measures.SliceThickness)
    first = pydicom.dcmread(sorted(folder.iterdir())[0], stop_before_pixels=True)
    assert seg.StudyInstanceUID == first.StudyInstanceUID
    assert seg.FrameOfReferenceUID == first.FrameOfReferenceUID
    slices = {
        pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID: path
        for path in folder.iterdir()
    }
    for item in seg.PerFrameFunctionalGroupsSequence:
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        path = slices[source.ReferencedSOPInstanceUID]
        there = pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient
        assert item.PlanePositionSequence[0].ImagePositionPatient == there
    assert b"CRLM" not in (tmp_path / "seg.dcm").read_bytes()
    assert b"CHAOS" not in (tmp_path / "seg.dcm").read_bytes()


def test_a_real_series_without_identifiers_is_refused(real_data: Path, tmp_path: Path) -> None:
    scan, grid = listed(real_data / "totalseg_ct_dicom/dicom")
    tumors = masks(tmp_path / "case", grid)
    with pytest.raises(ReleaseError) as caught:
        make(tmp_path, scan, tumors)
    assert caught.value.code == "SEG_SERIES"


def test_segments_say_what_they_are(tmp_path: Path) -> None:
    seg = pydicom.dcmread(written(tmp_path)[0])
    told = {
        one.SegmentLabel: (
            one.SegmentedPropertyTypeCodeSequence[0].CodeValue,
            one.SegmentAlgorithmType,
            *(item.CodeMeaning for item in one.get("AnatomicRegionSequence", [])),
            *(i.CodeMeaning for i in one.get("SegmentedPropertyTypeModifierCodeSequence", [])),
        )
        for one in seg.SegmentSequence
    }
    assert told == {
        "kidney_left": ("64033007", "MANUAL", "Left"),
        "liver": ("10200004", "MANUAL"),
        "kidney cyst 1": ("367643001", "MANUAL", "Kidney"),
        "liver tumor 1": ("108369006", "MANUAL", "Liver"),
        "liver tumor 2": ("108369006", "SEMIAUTOMATIC", "Liver"),
        "pooled lesion 1": ("52988006", "MANUAL"),
    }
    tracked = [one.TrackingUID for one in seg.SegmentSequence if "TrackingUID" in one]
    assert len(set(tracked)) == 4 and all(len(uid) <= 64 for uid in tracked)
    assert (seg.SegmentsOverlap, seg.SegmentationType) == ("YES", "BINARY")


def test_a_single_segment_does_not_overlap(tmp_path: Path) -> None:
    path, case, tumors, _ = written(tmp_path)
    scan, grid = listed(tmp_path / "dicom")
    for name in ("instances/liver", "instances/kidney", "instances/pooled",
                 "segmentations/kidney_left"):  # fmt: skip
        (case / f"{name}.nii.gz").unlink()
    assert make(tmp_path, scan, tumors)["segments"] == 1
    seg = pydicom.dcmread(path)
    assert seg.SegmentsOverlap == "NO" and len(seg.pixel_array) == 10
    assert seg_problems(path, case_id=CASE, folder=case, tumors=tumors, grid=grid) == []


def test_empty_masks_make_no_file(tmp_path: Path) -> None:
    scan, grid = phantom(tmp_path / "dicom")
    (tmp_path / "case/segmentations").mkdir(parents=True)
    write_nifti(tmp_path / "case/segmentations/liver.nii.gz", np.zeros(grid.shape, np.uint8), grid)
    assert make(tmp_path, scan, []) == {"case_id": CASE, "segments": 0, "frames": 0}
    assert not (tmp_path / "seg.dcm").exists()


def test_equal_masks_give_equal_bytes_and_others_another_identifier(tmp_path: Path) -> None:
    path, case, tumors, grid = written(tmp_path)
    scan, _ = listed(tmp_path / "dicom")
    before = path.read_bytes()
    make(tmp_path, scan, tumors[::-1])
    assert path.read_bytes() == before
    liver = read_nifti(case / "segmentations/liver.nii.gz", max_voxels=10**6).array.copy()
    liver[3, 0, -1] ^= 1
    write_nifti(case / "segmentations/liver.nii.gz", liver, grid)
    make(tmp_path, scan, tumors)
    old = pydicom.dcmread(pydicom.filebase.DicomBytesIO(before))
    new = pydicom.dcmread(path)
    assert old.SOPInstanceUID != new.SOPInstanceUID
    assert old.StudyInstanceUID == new.StudyInstanceUID
    assert [s.get("TrackingUID") for s in old.SegmentSequence] == [
        s.get("TrackingUID") for s in new.SegmentSequence
    ]


def test_nothing_of_the_patient_is_in_the_file(tmp_path: Path) -> None:
    path, *_ = written(tmp_path / "release", tags=PRIVATE)
    data = path.read_bytes()
    for text in ("DOE", "JANE", "ROE", "Doe", "4711007", "19580314", "20210314"):
        assert text.encode() not in data
    seg = pydicom.dcmread(path)
    assert (seg.PatientID, seg.PatientName, seg.StudyDate) == (CASE, "", "")
    assert "InstanceCreationDate" not in seg and "ContributingEquipmentSequence" not in seg
    (tmp_path / "found/seg").mkdir(parents=True)
    shutil.copy(path, tmp_path / f"found/seg/{CASE}.dcm")
    assert {hit.kind for hit in find_phi(tmp_path / "found", ["DOE^JANE", "20210314"])} <= {"UID"}


def without(name: str) -> Callable[[Dataset], None]:
    return lambda data: setattr(data, name, "")


def jittered(data: Dataset) -> None:
    if data.InstanceNumber == 5:
        x, y, z = data.ImagePositionPatient
        data.ImagePositionPatient = [x, y, float(z) + 0.06]


@pytest.mark.parametrize(
    ("finish", "code", "evidence"),
    [
        (jittered, "SEG_GEOMETRY", "unevenly spaced"),
        (without("SOPInstanceUID"), "SEG_SERIES", "SOPInstanceUID is missing"),
        (without("StudyInstanceUID"), "SEG_SERIES", "StudyInstanceUID is missing"),
        (without("FrameOfReferenceUID"), "SEG_SERIES", "FrameOfReferenceUID is missing"),
        (lambda d: setattr(d, "SOPInstanceUID", "1.2.3"), "SEG_SERIES", "1 values of SOPInstance"),
        (lambda d: setattr(d, "StudyInstanceUID", f"1.2.{d.InstanceNumber}"), "SEG_SERIES",
         "12 values of StudyInstanceUID"),
    ],
)  # fmt: skip
def test_a_series_that_cannot_be_referred_to_is_refused(
    tmp_path: Path, finish: Callable[[Dataset], None], code: str, evidence: str
) -> None:
    with pytest.raises(ReleaseError) as caught:
        written(tmp_path, finish=finish)
    assert caught.value.code == code and evidence in caught.value.evidence
    assert caught.value.subject == CASE and not (tmp_path / "seg.dcm").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda grid: Grid.of(grid.shape, SHIFT @ grid.affine),
        lambda grid: Grid.of((grid.shape[0] - 1, *grid.shape[1:]), grid.affine),
        lambda grid: grid.with_spacing(1.0),
    ],
    ids=["moved", "cut", "resampled"],
)
def test_masks_on_another_grid_are_refused(tmp_path: Path, change: Callable[[Grid], Grid]) -> None:
    scan, grid = phantom(tmp_path / "dicom")
    tumors = masks(tmp_path / "case", change(grid))
    with pytest.raises(ReleaseError) as caught:
        make(tmp_path, scan, tumors)
    assert caught.value.code == "SEG_GEOMETRY"


def test_a_changed_series_is_refused(tmp_path: Path) -> None:
    scan, grid = phantom(tmp_path / "dicom")
    tumors = masks(tmp_path / "case", grid)
    with pytest.raises(PutOffError) as caught:
        make(tmp_path, scan | {"file_sha256": "0" * 64}, tumors)
    assert caught.value.code == "SCAN_CHANGED"


def flip_bit(seg: Dataset) -> None:
    seg.PixelData = bytes([seg.PixelData[0] ^ 1]) + seg.PixelData[1:]


def move(seg: Dataset) -> None:
    position = seg.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    position.ImagePositionPatient = [float(v) + 0.1 for v in position.ImagePositionPatient]


def swap(seg: Dataset) -> None:
    # The one slice of the liver that lacks a voxel takes the place of its neighbour.
    frames = [
        (int(plane.sum()), item.PlanePositionSequence[0])
        for item, plane in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True)
        if item.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 2
    ]
    (_, a), (_, b) = sorted(frames, key=lambda frame: frame[0])[:2]
    a.ImagePositionPatient, b.ImagePositionPatient = b.ImagePositionPatient, a.ImagePositionPatient


def rename(seg: Dataset) -> None:
    seg.SegmentSequence[2].SegmentLabel = "liver tumor 9"


def name(seg: Dataset) -> None:
    seg.PatientName = "DOE^JANE"


def stretch(seg: Dataset) -> None:
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.7, 0.9]


def lose_frame(seg: Dataset) -> None:
    seg.PerFrameFunctionalGroupsSequence.pop()
    seg.NumberOfFrames = int(seg.NumberOfFrames) - 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (flip_bit, "1 slices of kidney_left"),
        (move, "do not lie"),
        (stretch, "do not lie"),
        (swap, "2 slices of liver"),
        (rename, "liver tumor 9"),
        (name, "PatientName"),
        (lose_frame, "pooled lesion 1"),
    ],
)
def test_a_changed_object_is_found(
    tmp_path: Path, change: Callable[[Dataset], None], told: str
) -> None:
    path, case, tumors, grid = written(tmp_path)
    seg = pydicom.dcmread(path)
    change(seg)
    seg.save_as(path)
    problems = seg_problems(path, case_id=CASE, folder=case, tumors=tumors, grid=grid)
    assert len(problems) == 1 and told in problems[0]


def test_a_mask_without_its_segment_is_found(tmp_path: Path) -> None:
    path, case, tumors, grid = written(tmp_path)
    shutil.copy(case / "segmentations/liver.nii.gz", case / "segmentations/spleen.nii.gz")
    problems = seg_problems(path, case_id=CASE, folder=case, tumors=tumors, grid=grid)
    assert len(problems) == 1 and "spleen" in problems[0]


def test_codes_are_those_of_the_standard() -> None:
    known = {
        (code, meaning)
        for entries in concepts["SCT"].values()
        for code, (meaning, _) in entries.items()
    }
    codes = read_codes(CODES)
    organs = {row.name for row in structures().values() if row.kind == "organ"}
    tumors = {row.name for row in tumor_structures().values()}
    assert set(codes) == organs | tumors | {"cyst", "lesion"}
    told = {
        (concept.value, concept.meaning)
        for meaning in codes.values()
        for concept in (meaning.category, meaning.type, meaning.side)
        if concept
    }
    # The library's list lacks this one; SNOMED CT has it as "Intestinal structure".
    assert told - known == {("113276009", "Intestine")}


def steps(tmp_path: Path, *, licence: str = "CC BY 4.0", **series: Any) -> Path:
    """Run the step on a DICOM and a NIfTI case; return its manifest."""
    scan, grid = phantom(tmp_path / "dicom", **series)
    cases = {
        CASE: {"members": [scan | {"licence": licence}]},
        "BDMAP_00000008": {"members": [scan | {"format": "nifti"}]},
    }
    write_json(tmp_path / "cases.json", cases)

    def write(task: Task, folder: Path) -> dict[str, Any]:
        return {"case_id": task.id, "tumors": masks(folder, grid)}

    for rule in ("write_cases", "measure_tumors"):
        step = Step(rule, "s0000", tmp_path / rule, {}, code="1")
        tasks = [Task(case_id, {}, {}) for case_id in cases]
        run_shard(step, tasks, write, step.folder / "s0000.tsv")
    step = Step("write_segs", "s0000", tmp_path / "write_segs", {}, code="1")
    write_segs(
        step, step.folder / "s0000.tsv", written=tmp_path / "write_cases/s0000.tsv",
        measured=tmp_path / "measure_tumors/s0000.tsv", cases=tmp_path / "cases.json",
        codes=CODES, **LIMITS,
    )  # fmt: skip
    return step.folder / "s0000.tsv"


def test_the_step_takes_public_series_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = steps(tmp_path / "a")
    assert read_manifest(manifest) == {CASE: "ok"}
    folder = finished_folders([manifest])[CASE]
    assert list(read_record(folder)["outputs"]) == ["seg.dcm"]
    assert read_manifest(steps(tmp_path / "b", licence="internal")) == {}


def test_the_step_lists_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = steps(tmp_path / "a", finish=without("SOPInstanceUID"))
    (row,) = read_rows([manifest])
    assert read_json(manifest.parent / CASE / "record.json")["outputs"] == {}
    (excluded,) = list_excluded([], [], [], [manifest])
    assert row["segments"] == 0 and excluded["id"] == f"{CASE}/seg.dcm"
    assert (excluded["rule"], excluded["code"]) == ("write_segs", "SEG_SERIES")
