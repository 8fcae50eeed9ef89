"""Tests of review packets: what a reviewer gets opens everywhere, in the right place."""

import csv
import json
import re
from datetime import datetime
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import slicerio

from tumoratlas.core.errors import InputError, ReviewError
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti, write_nifti
from tumoratlas.review.ledger import DECISIONS, REJECT_REASONS
from tumoratlas.review.masks import mask_sha256, voxels_by_label
from tumoratlas.review.packets.batch import (
    DECISION_COLUMNS,
    WORKLIST_COLUMNS,
    PacketCase,
    write_batch,
)
from tumoratlas.review.packets.labels import ORGANS, case_label
from tumoratlas.review.packets.organ import PacketOrgan
from tumoratlas.review.returns.mask_files import read_returned

SHAPE = (12, 20, 16)
# A tilted grid, so that a mistaken axis, sign or corner cannot hide.
TURN = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ np.diag([0.8, 0.9, 2.5])
AFFINE[:3, 3] = [-31.5, 12.25, -400.0]
GRID = Grid.of(SHAPE, AFFINE)
LIVER = {1: np.s_[1:4, 2:6, 2:7], 2: np.s_[6:8, 10:13, 8:10], 3: np.s_[9:11, 15:18, 1:4]}
# Overlaps the liver's second candidate.
KIDNEY = {1: np.s_[7:9, 11:15, 9:12]}
MISSED = (-12.3, 45.0, 101.5)


def draw(boxes, shape=SHAPE):
    array = np.zeros(shape, np.uint16)
    for label, box in boxes.items():
        array[box] = label
    return array


def shown(case_id, organ, boxes, **change):
    candidates = draw(boxes)
    mask = np.zeros(SHAPE, bool)
    mask[1:11, 1:18, 1:15] = True
    rows = [
        {
            "candidate_id": f"{case_id[-1]}{organ[:2]}{n:012d}",
            "number": n,
            "volume_mm3": 10.04 * n,
            "radius_mm": 3.0,
            "max_p": 0.9,
        }
        for n in boxes
    ]
    facts = {
        "candidates": candidates,
        "rows": rows[::-1],
        "organ_mask": None if organ == "kidney" else mask,
        "base_sha256": mask_sha256(candidates, GRID),
    }
    return PacketOrgan(**(facts | change))


def case(folder, case_id="BDMAP_00000001", rank=1, organs=None, grid=GRID):
    ct = folder / "pipeline" / f"{case_id}.nii.gz"
    if not ct.exists():
        write_nifti(ct, np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), grid)
    organs = organs or {
        "kidney": shown(case_id, "kidney", KIDNEY),
        "liver": shown(case_id, "liver", LIVER),
        "colon": shown(case_id, "colon", {}, missed_ras_mm=[MISSED]),
    }
    return PacketCase(case_id, rank, ct, grid, list(organs), organs.__getitem__)


def batch(folder, *cases, kind="candidates", role="senior", name="b0001", **options):
    place = folder / name
    rows, excluded = write_batch(
        place, batch=name, kind=kind, reviewer_id="R01", role=role,
        cases=cases or [case(folder)], **options,
    )  # fmt: skip
    return place, rows, excluded


def files(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def sitk_ras(image):
    """Return the affine of an ITK image: voxel index (x, y, z) to RAS mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


def test_a_batch_holds_these_files_and_equal_ones(tmp_path, monkeypatch):
    first, _, excluded = batch(tmp_path / "one")
    assert not excluded

    class Later(datetime):
        @classmethod
        def utcnow(cls):
            return datetime(2031, 1, 1)

    monkeypatch.setattr(nrrd.writer, "datetime", Later)
    second, _, _ = batch(tmp_path / "two")
    assert files(first) == files(second)
    place = "BDMAP_00000001"
    assert set(files(first)) == {
        "README.txt", "worklist.csv", "decisions.csv", "labels.itksnap.txt",
        f"scans/{place}.nii.gz", f"scans/labels/original/{place}.nii.gz",
        "scans/datastore_v2.json",
        f"{place}/liver/candidates.nii.gz", f"{place}/liver/candidates.seg.nrrd",
        f"{place}/liver/organ.nii.gz",
        f"{place}/kidney/candidates.nii.gz", f"{place}/kidney/candidates.seg.nrrd",
        f"{place}/colon/organ.nii.gz",
    }  # fmt: skip


def check_places(place, case_id, organ, grid, candidates, organ_mask):
    """Compare all files of a case and organ in three libraries with what was shown."""
    for name in (
        f"scans/{case_id}.nii.gz",
        f"scans/labels/original/{case_id}.nii.gz",
        f"{case_id}/{organ}/candidates.nii.gz",
        f"{case_id}/{organ}/organ.nii.gz",
    ):
        read = nib.load(place / name)
        image = sitk.ReadImage(str(place / name))
        np.testing.assert_allclose(read.affine, grid.affine, atol=1e-4)
        np.testing.assert_allclose(sitk_ras(image), grid.affine, atol=1e-4)
        assert read.shape == image.GetSize() == grid.shape[::-1]
    array = sitk.GetArrayFromImage(
        sitk.ReadImage(str(place / case_id / organ / "candidates.nii.gz"))
    )
    assert np.array_equal(array, candidates)
    path = place / case_id / organ / "candidates.seg.nrrd"
    seg = slicerio.read_segmentation(str(path))
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ seg["ijkToLPS"], grid.affine, atol=1e-9)
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(sitk_ras(image), grid.affine, atol=1e-9)
    layers = sitk.GetArrayFromImage(image)
    assert np.array_equal(layers[..., 0], candidates)
    assert np.array_equal(layers[..., 1], organ_mask)
    *tumors, outline = seg["segments"]
    assert outline["name"] == f"{organ} (outline)" and outline["tags"] == {"organ_outline": organ}
    assert np.array_equal(slicerio.segment_mask(seg, outline).transpose(2, 1, 0), organ_mask)
    for segment in tumors:
        number = segment["labelValue"]
        assert segment["name"] == f"{organ} candidate {number}"
        mask = slicerio.segment_mask(seg, segment).transpose(2, 1, 0)
        assert np.array_equal(mask, candidates == number)
    return {s["tags"]["candidate_id"]: s["labelValue"] for s in tumors}


def test_all_files_lie_in_the_same_place_in_every_library(tmp_path):
    place, rows, _ = batch(tmp_path)
    organ = shown("BDMAP_00000001", "liver", LIVER)
    ids = check_places(place, "BDMAP_00000001", "liver", GRID, organ.candidates, organ.organ_mask)
    assert ids == {row["candidate_id"]: row["number"] for row in organ.rows}
    assert ids.items() <= {(r["candidate_id"], r.get("number")) for r in rows}


def test_segmentation_without_an_outline_has_one_layer(tmp_path):
    place, _, _ = batch(tmp_path)
    seg = slicerio.read_segmentation(str(place / "BDMAP_00000001/kidney/candidates.seg.nrrd"))
    assert seg["voxels"].shape == SHAPE[::-1]
    assert [s["name"] for s in seg["segments"]] == ["kidney candidate 1"]


def test_the_outline_never_comes_back_as_a_tumor(tmp_path):
    place, _, _ = batch(tmp_path)
    segments = read_returned(place / "BDMAP_00000001/liver/candidates.seg.nrrd", GRID)
    assert [s.name for s in segments] == [f"liver candidate {n}" for n in LIVER]
    for number, segment in enumerate(segments, start=1):
        expected = np.flatnonzero(draw(LIVER) == number)
        np.testing.assert_array_equal(segment.voxels, expected)


def test_many_candidates_need_and_get_two_bytes(tmp_path):
    shape_boxes = {n: np.s_[n // 200, n % 20, n // 20 % 16] for n in range(1, 301)}
    many = shown("BDMAP_00000001", "liver", shape_boxes)
    place, rows, excluded = batch(tmp_path, case(tmp_path, organs={"liver": many}))
    assert not excluded
    segments = read_returned(place / "BDMAP_00000001/liver/candidates.seg.nrrd", GRID)
    assert len(segments) == len(voxels_by_label(many.candidates)) == len(rows) - 1


def test_worklist_and_form(tmp_path):
    cases = [case(tmp_path, "BDMAP_00000002", rank=7), case(tmp_path, rank=3)]
    place, rows, _ = batch(tmp_path, *cases)
    work = pd.read_csv(place / "worklist.csv", keep_default_na=False)
    assert list(work) == WORKLIST_COLUMNS
    assert work["case_id"].tolist() == ["BDMAP_00000001"] * 7 + ["BDMAP_00000002"] * 7
    assert work["organ"].tolist()[:7] == ["liver"] * 4 + ["kidney"] * 2 + ["colon"]
    assert work["number"].tolist()[:4] == ["1", "2", "3", ""]
    centre = [float(v) for v in work["centroid_ras_mm"][1].split(";")]
    np.testing.assert_allclose(centre, (AFFINE @ [8.5, 11, 6.5, 1])[:3], atol=0.06)
    missed = work.loc[work["missed_ras_mm"] != "", ["organ", "missed_ras_mm"]].values.tolist()
    assert missed == [["colon", "-12.3;45.0;101.5"]] * 2
    bases = {organ: mask_sha256(draw(boxes), GRID) for organ, boxes in
             (("liver", LIVER), ("kidney", KIDNEY), ("colon", {}))}  # fmt: skip
    assert (work["base_sha256"] == work["organ"].map(bases)).all()
    form = pd.read_csv(place / "decisions.csv", keep_default_na=False, dtype=str)
    assert list(form) == DECISION_COLUMNS
    filled = ["case_id", "organ", "candidate_id", "base_sha256"]
    assert form[filled].equals(work[filled].astype(str))
    assert set(form["reviewer_id"]) == {"R01"}
    assert not form.drop(columns=[*filled, "reviewer_id"]).to_numpy().any()
    assert len(rows) == len(work)


LINE = re.compile(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([0-9.]+)\s+([01])\s+([01])\s+"([^"]+)"')


def test_label_descriptions_for_itksnap(tmp_path):
    place, _, _ = batch(tmp_path)
    lines = (place / "labels.itksnap.txt").read_text().splitlines()
    assert lines[1] == "# ITK-SnAP Label Description File"
    parsed = [LINE.fullmatch(line).groups() for line in lines if not line.startswith("#")]
    names = {int(groups[0]): groups[-1] for groups in parsed}
    assert names == {
        0: "Clear Label", 1: "candidate 1", 2: "candidate 2", 3: "candidate 3",
        1001: "liver candidate 1", 1002: "liver candidate 2", 1003: "liver candidate 3",
        3001: "kidney candidate 1",
    }  # fmt: skip
    colours = [tuple(map(int, groups[1:4])) for groups in parsed[1:4]]
    assert len(set(colours)) == 3 and all(0 <= v <= 255 for c in colours for v in c)
    assert all(groups[4:7] == ("1", "1", "1") for groups in parsed[1:])
    # Every label of every map has a name.
    for path in place.rglob("*.nii.gz"):
        if "candidates" in path.name or "original" in str(path):
            assert set(np.unique(nib.load(path).dataobj).tolist()) <= set(names)


def test_monai_label_opens_the_scans(tmp_path):
    place, _, _ = batch(tmp_path, case(tmp_path), case(tmp_path, "BDMAP_00000002", rank=2))
    store = json.loads((place / "scans" / "datastore_v2.json").read_text())
    assert set(store) == {"name", "description", "images_dir", "labels_dir", "objects"}
    images = place / "scans" / store["images_dir"]
    assert {p.name for p in images.glob("*.nii.gz")} == {
        f"{image_id}{entry['image']['ext']}" for image_id, entry in store["objects"].items()
    }
    for image_id, entry in store["objects"].items():
        assert set(entry) == {"image", "labels"} and set(entry["labels"]) == {"original"}
        label = entry["labels"]["original"]
        path = place / "scans" / store["labels_dir"] / "original" / (image_id + label["ext"])
        voxels = np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)
        expected = np.where(draw(LIVER) > 0, draw(LIVER) + 1000, 0)
        expected = np.where(draw(KIDNEY) > 0, draw(KIDNEY) + 3000, expected)  # later organ wins
        np.testing.assert_array_equal(voxels, expected)
        names = {item["idx"]: item["name"] for item in label["info"]["label_info"]}
        assert set(names) == set(np.unique(voxels).tolist()) - {0}
        assert names[3001] == "kidney candidate 1"
        info = entry["image"]["info"]
        assert info["batch"] == "b0001"
        assert info["bases"]["liver"] == mask_sha256(draw(LIVER), GRID)
        assert set(info["bases"]) == {"liver", "kidney", "colon"}


def test_labels_of_all_organs_keep_apart():
    labels = [case_label(organ, n) for organ in ORGANS for n in (1, 999)]
    assert labels == sorted(set(labels)) and max(labels) <= np.iinfo(np.uint16).max
    for number in (0, 1000):
        with pytest.raises(ReviewError, match="TOO_MANY_CANDIDATES"):
            case_label("liver", number)


def test_one_organ_that_fails_leaves_the_rest(tmp_path):
    def load(organ):
        if organ == "kidney":
            raise InputError("GZIP_CRC", "candidates.nii.gz", "damaged", remedy="Run it again")
        return shown("BDMAP_00000001", organ, LIVER if organ == "liver" else {1000: KIDNEY[1]})

    good = case(tmp_path)
    bad = PacketCase(good.case_id, 1, good.ct_path, GRID, ["liver", "kidney", "colon"], load)
    place, rows, excluded = batch(tmp_path, bad)
    assert [(row["id"], row["rule"], row["code"]) for row in excluded] == [
        ("b0001/BDMAP_00000001/kidney", "export_packets", "GZIP_CRC"),
        ("b0001/BDMAP_00000001/colon", "export_packets", "TOO_MANY_CANDIDATES"),
    ]
    assert {row["organ"] for row in rows} == {"liver"}
    assert not list(place.rglob("kidney")) and not list(place.rglob("colon"))
    labels = nib.load(place / "scans/labels/original/BDMAP_00000001.nii.gz")
    assert set(np.unique(labels.dataobj).tolist()) == {0, 1001, 1002, 1003}


HOSTILE = ["../b", "a/b", "", ".", "a\nb", "a:b", "a|b", "CON.txt", 'x"y', "=1+1", "ä"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(tmp_path, name):
    with pytest.raises(ReviewError, match="NAME_INVALID"):
        batch(tmp_path, name=name)
    good = case(tmp_path)
    bad = PacketCase(name, 1, good.ct_path, GRID, ["liver"], good.load)
    with pytest.raises(ReviewError, match="NAME_INVALID"):
        batch(tmp_path, bad)
    rows = [{**row, "candidate_id": name} for row in shown("a1", "liver", LIVER).rows]
    organ = shown("a1", "liver", LIVER, rows=rows)
    _, _, excluded = batch(tmp_path, case(tmp_path, organs={"liver": organ}))
    assert [row["code"] for row in excluded] == ["NAME_INVALID"]
    assert not (tmp_path / "b").exists()


def test_a_reviewer_id_is_only_text(tmp_path):
    write_batch(
        tmp_path / "b0001", batch="b0001", kind="full", reviewer_id="R\n1 {x}", role="senior",
        cases=[case(tmp_path)],
    )  # fmt: skip
    assert (tmp_path / "b0001" / "README.txt").read_text().startswith("Batch b0001 for R?1 {x}:")


def test_labels_that_are_no_rows_are_a_defect(tmp_path):
    organ = shown("a1", "liver", LIVER, candidates=draw({1: LIVER[1]}))
    with pytest.raises(ValueError, match="labels"):
        batch(tmp_path, case(tmp_path, organs={"liver": organ}))


def test_the_ct_is_a_copy(tmp_path):
    place, _, _ = batch(tmp_path)
    copy = place / "scans/BDMAP_00000001.nii.gz"
    assert not copy.is_symlink() and copy.stat().st_nlink == 1
    copy.write_bytes(b"overwritten by a viewer")
    assert read_nifti(tmp_path / "pipeline/BDMAP_00000001.nii.gz", max_voxels=np.prod(SHAPE))


@pytest.mark.parametrize(
    ("kind", "role", "words"),
    [
        ("candidates", "senior", "Look at every candidate"),
        ("full", "senior", "slice by slice"),
        ("adjudicate", "senior", "took no part"),
        ("adjudicate", "junior", "You do not sign off"),
    ],
)
def test_instructions(tmp_path, kind, role, words):
    place, _, _ = batch(tmp_path, kind=kind, role=role)
    text = (place / "README.txt").read_text()
    assert text.startswith("Batch b0001 for R01: 1 case\n" + "=" * 27 + "\n")
    assert words in text
    for word in (*DECISIONS[:6], "add", "contest", "sign_off", "undo", *REJECT_REASONS):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100
    named = [
        n for n in ("triage.html", "labels.itksnap.txt", "worklist.csv", "scans/") if n in text
    ]
    assert len(named) == 4


def test_nobodys_decision_is_in_a_packet(tmp_path):
    """The second reader of a case gets the first one's files, but for name and number."""
    first, _, _ = batch(tmp_path)
    form = first / "decisions.csv"
    form.write_text(form.read_text().replace(",,R01,", ",accept,R01,2026-11-21T14:05:00Z", 1))
    second, _, _ = batch(tmp_path, name="b0002")
    differing = {
        name for name, data in files(second).items()
        if data.replace(b"b0002", b"b0001") != files(first)[name]
    }  # fmt: skip
    assert differing == {"decisions.csv"}
    with open(second / "decisions.csv", newline="") as file:
        assert {row["decision"] + row["reason"] + row["time"] for row in csv.DictReader(file)} == {
            ""
        }


def test_what_somebody_typed_is_carried_over(tmp_path):
    old, _, _ = batch(tmp_path / "old")
    text = (old / "decisions.csv").read_text().splitlines()
    cells = text[1].split(",")
    cells[3] = "accept"
    (old / "decisions.csv").write_text("\n".join([text[0], ",".join(cells), *text[2:]]))
    (old / "decisions-2.json").write_text("{}")
    (old / "masks" / "a").mkdir(parents=True)
    (old / "masks" / "a" / "liver.seg.nrrd").write_bytes(b"drawn")
    (old / "masks" / "link.nii.gz").symlink_to(old / "README.txt")
    (old / "notes.txt").write_text("mine")
    new, _, _ = batch(tmp_path / "new", previous=old)
    assert (new / "decisions.csv").read_bytes() == (old / "decisions.csv").read_bytes()
    assert (new / "masks" / "a" / "liver.seg.nrrd").read_bytes() == b"drawn"
    added = set(files(new)) - set(files(batch(tmp_path / "plain")[0]))
    assert added == {"decisions-2.json", "masks/a/liver.seg.nrrd"}


def test_a_form_without_decisions_is_written_anew(tmp_path):
    old, _, _ = batch(tmp_path / "old")
    only_liver = case(tmp_path, organs={"liver": shown("BDMAP_00000001", "liver", LIVER)})
    new, _, _ = batch(tmp_path / "new", only_liver, previous=old)
    assert len((new / "decisions.csv").read_text().splitlines()) == 5
    (old / "decisions.csv").write_bytes("nicht UTF-8: ä".encode("latin-1"))
    kept, _, _ = batch(tmp_path / "kept", only_liver, previous=old)
    assert (kept / "decisions.csv").read_bytes() == (old / "decisions.csv").read_bytes()
    gone, _, _ = batch(tmp_path / "gone", only_liver, previous=tmp_path / "nothing")
    assert files(gone) == files(new)


def test_real_tumors_open_in_the_right_place(real_data: Path, tmp_path: Path):
    """LiTS 0: eleven real tumors of a real scan that is stored in another axis order."""
    folder = real_data / "lits_liver_0"
    most = 1 << 26
    ct = read_nifti(folder / "ct.nii.gz", max_voxels=most)
    ct, grid = to_canonical(ct.array, ct.grid)
    file = read_nifti(folder / "tumor_instances.nii.gz", max_voxels=most)
    tumors, tumor_grid = to_canonical(file.array.astype(np.uint16), file.grid)
    file = read_nifti(folder / "liver_pseudo_difftumor.nii.gz", max_voxels=most)
    liver, _ = to_canonical(file.array > 0, file.grid)
    assert grid.corner_distance_mm(tumor_grid) < 1e-3
    write_nifti(tmp_path / "ct.nii.gz", ct, grid)
    rows = [
        {"candidate_id": f"t{n:02d}", "number": n, "volume_mm3": 1.0, "radius_mm": 1.0,
         "max_p": 1.0}
        for n in voxels_by_label(tumors)
    ]  # fmt: skip
    organ = PacketOrgan(tumors, rows, liver, mask_sha256(tumors, grid))
    lits = PacketCase("lits0", 1, tmp_path / "ct.nii.gz", grid, ["liver"], lambda _: organ)
    place, work, excluded = batch(tmp_path, lits)
    assert not excluded and len(work) == 12
    ids = check_places(place, "lits0", "liver", grid, tumors, liver)
    assert len(ids) == 11
    segments = read_returned(place / "lits0/liver/candidates.seg.nrrd", grid)
    for segment in segments:
        number = ids[segment.candidate_id]
        assert np.array_equal(segment.voxels, np.flatnonzero(tumors == number))
    # The place in mm is right in the CT as published: tumors are darker than the liver there.
    published = sitk.ReadImage(str(folder / "ct.nii.gz"))
    image = sitk.ReadImage(str(place / "lits0/liver/candidates.nii.gz"))
    resampled = sitk.GetArrayFromImage(
        sitk.Resample(image, published, sitk.Transform(), sitk.sitkNearestNeighbor)
    )
    hu = sitk.GetArrayFromImage(published)
    assert np.count_nonzero(resampled) == np.count_nonzero(tumors) == 2591
    assert round(float(hu[resampled > 0].mean())) == 87
