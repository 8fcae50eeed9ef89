"""Harmonize on the phantom sources: labels of every copy end where the truth says."""

import copy
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.ingested import LIMITS, Ingested, ingest
from tests.phantoms import truth, write_phantoms
from tests.phantoms.anatomy import Phantom, draw
from tests.phantoms.demo import DEMO_KEY
from tests.phantoms.more_patients import FULL
from tests.phantoms.told import scan_id
from tumoratlas.core.structures import organ_mask, structure_bit
from tumoratlas.harmonize.cases import LOWEST_HU, harmonize_case
from tumoratlas.images.arrays import read_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import read_nifti
from tumoratlas.ingest.alignment import Alignment
from tumoratlas.ingest.readers import read_scan

KEY = bytes.fromhex(DEMO_KEY)
Members = list[dict[str, Any]]
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the full set, with the demo's key."""
    folder = tmp_path_factory.mktemp("full")
    write_phantoms(folder)
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_text(DEMO_KEY + "\n")
    return folder


@pytest.fixture(scope="module")
def done(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    """Return the ingested full set."""
    sources = {path.name: path for path in sorted((full / "sources").iterdir())}
    return ingest(sources, tmp_path_factory.mktemp("work"), full / "key")


def members_of(done: Ingested, name: str) -> Members:
    """Return a copy of the members of a scan's case."""
    return copy.deepcopy(done.cases[done.case_of(name)]["members"])


def member(members: Members, name: str) -> dict[str, Any]:
    """Return one of the members."""
    return next(one for one in members if one["scan_id"] == name)


def phantom_of(number: int) -> Phantom:
    """Draw a patient again: the true mask of every structure."""
    return draw(next(patient for patient in FULL if patient.number == number), 0)


def lesions(phantom: Phantom, organ: str) -> NDArray[np.uint8]:
    """Return the true lesions (z, y, x): 1 tumor, 2 cyst."""
    return phantom.labels(organ, "tumor") + np.uint8(2) * phantom.labels(organ, "cyst")


def true_mask(phantom: Phantom, name: str) -> Mask:
    """Return the true mask of a structure, the kidney of unknown side too."""
    return phantom.organ(name) if name == "kidney" else phantom.masks[name]


def dice(one: Mask, other: Mask) -> float:
    """Return the Dice coefficient of two masks."""
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def present(planes: NDArray[np.uint32], name: str) -> Mask:
    """Return the voxels of a structure in its bit plane."""
    return (planes & np.uint32(structure_bit(name))) != 0


def arrays_of(folder: Path, row: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a case's folder by name, each on the grid that it says."""
    arrays = {}
    for path in folder.glob("*.b2nd"):
        arrays[path.stem], meta = read_array(path)
        assert Grid.from_json(meta["grid"]).shape == arrays[path.stem].shape
        assert meta["grid"] == row["model_grid" if path.stem.startswith("model") else "grid"]
    return arrays


def harmonize(members: Members, folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Harmonize a case; return its record and arrays by name."""
    folder.mkdir()
    row = harmonize_case("BDMAP_1", members, folder, model_spacing_mm=1.5, **LIMITS)
    return row, arrays_of(folder, row)


def codes(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the codes of masks that were left out, by id."""
    return {one["id"]: one["code"] for one in row["excluded_masks"]}


# All cases


def test_every_mask_of_every_case_is_that_of_the_truth(full: Path, done: Ingested) -> None:
    """Voxel by voxel through flips, crops, stale headers and other axes; 0.85 if resampled."""
    scans = truth.scans(full)
    kept = {
        scan_id(row.source, row.source_case, KEY): int(row.patient[-2:])
        for row in scans[scans.expected == "kept"].itertuples()
    }
    carried: Counter[tuple[str, bool]] = Counter()
    assert {row["scan_id"] for row in done.case_rows.values()} == set(kept)
    for case_id, row in done.case_rows.items():
        phantom = phantom_of(kept[row["scan_id"]])
        arrays = arrays_of(done.harmonized[case_id], row)
        for name, origin in row["structures"].items():
            found, true = present(arrays["structures"], name), true_mask(phantom, name)
            if origin["source"] == "flare23":
                # Its label map has one value a voxel: a pooled tumor is not of its organ.
                true = true & ~(lesions(phantom, "liver") + lesions(phantom, "colon") > 0)
            if origin["is_resampled"]:
                assert dice(found, true) > 0.85, (case_id, name)
            else:
                np.testing.assert_array_equal(found, true, err_msg=f"{origin} {name}")
            is_own = origin["scan_id"] == row["scan_id"]
            carried["" if is_own else origin["source"], origin["is_resampled"]] += 1
        for name in {s for s in phantom.masks if s not in row["structures"]}:
            assert not present(arrays["structures"], name).any()
        wanted = {
            f"{model}lesions_{organ}" for organ in row["annotated"] for model in ("", "model_")
        }
        wanted |= {"pooled"} if row["pooled"] else set()
        assert set(arrays) == {"model", "structures"} | wanted
        if row["pooled"]:
            assert row["pooled"]["source"] == "flare23"
            pooled_mask = (lesions(phantom, "liver") + lesions(phantom, "colon")) > 0
            if row["pooled"]["is_resampled"]:
                assert dice(arrays["pooled"] > 0, pooled_mask) > 0.7
            else:
                np.testing.assert_array_equal(arrays["pooled"], pooled_mask)
        for organ in row["annotated"]:
            np.testing.assert_array_equal(arrays[f"lesions_{organ}"], lesions(phantom, organ))
        ct = read_nifti(done.harmonized[case_id] / "ct.nii.gz", max_voxels=10**7)
        assert ct.grid.orientation == "RAS"
        assert ct.grid.corner_distance_mm(Grid.from_json(row["grid"])) < 1e-3
        assert ct.grid.corner_distance_mm(phantom.grid) < 1e-2
    sources = {source for source, _ in carried if source}
    assert {"abdomenatlas11", "abdomenct1k", "ct_org", "flare23"} <= sources
    assert carried["flare23", True] > 0


def test_the_first_source_of_a_structure_wins(done: Ingested) -> None:
    """LiTS draws liver and tumors, the parent the rest; only LiTS says that none is none."""
    row = done.case_rows[done.case_of("lits_0")]
    assert row["structures"]["liver"]["source"] == row["source"] == "lits"
    assert row["structures"]["spleen"]["source"] == "abdomenatlas11"
    assert row["structures"]["spleen"]["licence"]
    assert {organ: one["source"] for organ, one in row["annotated"].items()} == {"liver": "lits"}
    row = done.case_rows[done.case_of("kits23_case_00001")]
    assert row["annotated"]["kidney"]["tumor_free_means"] == "confirmed_empty"


def test_model_lesions_keep_their_volume(done: Ingested) -> None:
    """On the model grid a tumor of 2 cm and more loses and wins nothing."""
    case_id = done.case_of("lits_0")
    arrays = arrays_of(done.harmonized[case_id], done.case_rows[case_id])
    grid = Grid.from_json(done.case_rows[case_id]["grid"])
    native = np.count_nonzero(arrays["lesions_liver"]) * grid.voxel_volume_mm3
    model = np.count_nonzero(arrays["model_lesions_liver"]) * 1.5**3
    assert model == pytest.approx(native, rel=0.05)


# Copies


def test_labels_of_a_whole_scan_are_carried_onto_a_crop(done: Ingested, tmp_path: Path) -> None:
    """The parent's copy kept instead, cut to the body: the tumors inside are the true ones."""
    whole, crop = members_of(done, "lits_0")
    way = Alignment.from_json(crop["alignment"])
    whole["alignment"], crop["alignment"] = way.inverse().to_json(), None
    row, arrays = harmonize([crop, whole], tmp_path / "case")
    phantom = phantom_of(1)
    shape = arrays["structures"].shape
    assert shape != phantom.grid.shape
    expected, _ = way.inverse().carry(lesions(phantom, "liver"), shape)
    np.testing.assert_array_equal(arrays["lesions_liver"], expected)
    assert np.count_nonzero(expected) == np.count_nonzero(lesions(phantom, "liver"))
    assert row["structures"]["liver"]["source"] == "abdomenatlas11"
    assert codes(row) == {}


def test_a_resampled_copy_is_carried_by_interpolation(done: Ingested, tmp_path: Path) -> None:
    """FLARE at 2 mm onto MSD, by the alignment that both headers give."""
    kept, flare = (
        copy.deepcopy(done.listed[name]) for name in ("msd_ct_colon_001", "flare23_FLARE23_0001")
    )
    grids = []
    for scan in (kept, flare):
        volume = read_scan(scan, **LIMITS)
        scan["file_sha256"] = volume.sha256
        grids.append(volume.grid.affine)
    way = np.linalg.inv(grids[0]) @ grids[1]
    flare["alignment"] = Alignment.of(
        (0, 1, 2), way.diagonal()[2::-1], way[2::-1, 3]
    ).to_json()  # fmt: skip
    kept["alignment"] = None
    row, arrays = harmonize([kept, flare], tmp_path / "case")
    phantom = phantom_of(9)
    drawn = [name for name, origin in row["structures"].items() if origin["is_resampled"]]
    assert {"liver", "spleen", "pancreas"} <= set(drawn)
    for name in drawn:
        assert dice(present(arrays["structures"], name), phantom.masks[name]) > 0.85, name
    np.testing.assert_array_equal(arrays["lesions_colon"], lesions(phantom, "colon"))
    assert not row["annotated"]["colon"]["is_resampled"]
    assert codes(row) == {} and row["pooled"]["scan_id"] == "flare23_FLARE23_0001"
    assert dice(arrays["pooled"] > 0, lesions(phantom, "colon") > 0) > 0.7


def test_pooled_tumors_annotate_no_organ(done: Ingested) -> None:
    """FLARE's tumors of an unnamed organ are kept, and say nothing of any organ's state."""
    case_id = done.case_of("flare23_FLARE23_0003")
    row = done.case_rows[case_id]
    assert row["annotated"] == {} and row["pooled"]["scan_id"] == "flare23_FLARE23_0003"
    assert row["pooled"]["licence"]
    pooled, _ = read_array(done.harmonized[case_id] / "pooled.b2nd")
    assert pooled.dtype == np.uint8 and set(np.unique(pooled)) == {0, 1}
    others = [row for row in done.case_rows.values() if not row["pooled"]]
    assert others and all(row["pooled"] == {} for row in others)


def test_a_copy_that_ends_inside_a_structure_gives_no_mask_of_it(
    done: Ingested, full: Path, tmp_path: Path
) -> None:
    """A crop through the liver, whole scan without labels: the liver stays unknown."""
    given = full / "sources/lits/Training_Batch1"
    lits = tmp_path / "lits"
    lits.mkdir()
    phantom = phantom_of(1)
    planes = np.flatnonzero(phantom.masks["liver"].any(axis=(1, 2)))
    middle = int(planes.mean())
    shutil.copyfile(given / "volume-0.nii", lits / "volume-0.nii")
    for name in ("volume", "segmentation"):
        image = nib.load(given / f"{name}-0.nii")
        # The header stays that of the whole scan; slices 0 to 4 are gone, too.
        part = np.asarray(image.dataobj)[:, :, 5:middle]
        assert nib.aff2axcodes(image.affine)[2] == "S"
        nib.save(nib.Nifti1Image(part, image.affine, image.header), lits / f"{name}-30.nii")
    work = tmp_path / "work"
    work.mkdir()
    found = ingest({"lits": lits}, work, full / "key")
    assert [row["relation"] for row in found.relations] == ["crop"]
    (row,) = found.case_rows.values()
    assert row["scan_id"] == "lits_0"
    assert codes(row)["lits_30/liver"] == "LABEL_CUT"
    assert "liver" not in row["structures"]
    # Cut below the liver instead: a whole mask, exactly where it belongs.
    for name in ("volume", "segmentation"):
        image = nib.load(given / f"{name}-0.nii")
        part = np.asarray(image.dataobj)[:, :, max(0, planes[0] - 1) :]
        nib.save(nib.Nifti1Image(part, image.affine, image.header), lits / f"{name}-30.nii")
    work = tmp_path / "again"
    work.mkdir()
    found = ingest({"lits": lits}, work, full / "key")
    ((case_id, row),) = found.case_rows.items()
    assert codes(row) == {} and row["structures"]["liver"]["scan_id"] == "lits_30"
    arrays = arrays_of(found.harmonized[case_id], row)
    np.testing.assert_array_equal(present(arrays["structures"], "liver"), phantom.masks["liver"])
    np.testing.assert_array_equal(arrays["lesions_liver"], lesions(phantom, "liver"))


def test_a_copy_without_the_whole_organ_does_not_say_that_it_is_free_of_tumors(
    done: Ingested, full: Path, tmp_path: Path
) -> None:
    """The crop shows the liver's lower planes, all its tumors lie above: nothing is known."""
    given = full / "sources/lits/Training_Batch1"
    lits, work = tmp_path / "lits", tmp_path / "work"
    lits.mkdir()
    work.mkdir()
    tumors = np.flatnonzero((lesions(phantom_of(1), "liver") > 0).any(axis=(1, 2)))
    shutil.copyfile(given / "volume-0.nii", lits / "volume-0.nii")
    for name in ("volume", "segmentation"):
        image = nib.load(given / f"{name}-0.nii")
        part = np.asarray(image.dataobj)[:, :, 5 : tumors[0] - 2]
        nib.save(nib.Nifti1Image(part, image.affine, image.header), lits / f"{name}-30.nii")
    (row,) = ingest({"lits": lits}, work, full / "key").case_rows.values()
    assert codes(row) == dict.fromkeys(("lits_30/liver", "lits_30/liver_tumor"), "LABEL_CUT")
    assert row["annotated"] == {}


def test_sources_that_disagree_are_recorded(done: Ingested, tmp_path: Path) -> None:
    """The first source's voxels stay; the difference is counted."""
    members = members_of(done, "msd_ct_liver_28")
    lits = member(members, "lits_28")
    path = tmp_path / "segmentation-28.nii"
    image = nib.load(lits["labels"][0]["paths"][0])
    data = np.asarray(image.dataobj).copy()
    removed = np.argwhere(data == 2)[:3]
    data[tuple(removed.T)] = 1
    nib.save(nib.Nifti1Image(data, image.affine, image.header), path)
    lits["labels"][0]["paths"] = [str(path)]
    row, arrays = harmonize(members, tmp_path / "case")
    np.testing.assert_array_equal(arrays["lesions_liver"], lesions(phantom_of(3), "liver"))
    (conflict,) = row["excluded_masks"]
    assert (conflict["code"], conflict["id"]) == ("LABEL_CONFLICT", "lits_28/liver_tumor")
    assert conflict["evidence"].startswith("3 voxels, Dice 0.99")


def test_a_member_without_labels_is_not_read(done: Ingested, tmp_path: Path) -> None:
    """The cropped FLARE scan has none; nobody misses its image."""
    members = members_of(done, "kits23_case_00001")
    flare = member(members, "flare23_FLARE23_2201")
    assert flare["labels"] == []
    flare["image_path"] = str(tmp_path / "nowhere.nii.gz")
    row, arrays = harmonize(members, tmp_path / "case")
    np.testing.assert_array_equal(arrays["lesions_kidney"], lesions(phantom_of(6), "kidney"))
    assert set(np.unique(arrays["lesions_kidney"])) == {0, 1, 2}
    inside = organ_mask(arrays["structures"], "kidney")
    assert inside[arrays["lesions_kidney"] > 0].all() and codes(row) == {}


# Bytes


def test_padding_is_kept_in_the_release_image_only(done: Ingested) -> None:
    """-3024 outside the field of view would bleed into the model image."""
    folder = done.harmonized[done.case_of("amos22_amos_0001")]
    assert read_nifti(folder / "ct.nii.gz", max_voxels=10**7).array.min() == -3024
    model, _ = read_array(folder / "model.b2nd")
    assert model.min() == LOWEST_HU


def test_harmonizing_twice_gives_the_same_bytes(done: Ingested, tmp_path: Path) -> None:
    """No time, name or process enters a file."""
    found = []
    for name in "ab":
        harmonize(members_of(done, "msd_ct_liver_28"), tmp_path / name)
        found.append({p.name: p.read_bytes() for p in sorted((tmp_path / name).iterdir())})
    assert found[0] == found[1]
