"""The files of a released case: masks as they are, joined maps of what may be seen."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.files import sha256_bytes
from tumoratlas.core.structures import structure_bit, structures
from tumoratlas.images.arrays import read_array, write_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import write_nifti
from tumoratlas.release.cases import (
    CT,
    IGNORE,
    tumor_class_map,
    tumor_files,
    voxels_sha256,
    whole_organ,
    write_case,
)

GRID = Grid.of(
    (12, 14, 16),
    np.array([[0.8, 0, 0, -30], [0, 0.9, 0, -20], [0, 0, 2.5, 10], [0, 0, 0, 1]], float),
)
ORGANS = ("liver", "pancreas", "kidney", "colon", "esophagus", "uterus")
# Each organ is a slab of two columns, so that every voxel's organ is known by its x.
SLAB = {organ: np.s_[:, :, 2 * n : 2 * n + 2] for n, organ in enumerate(ORGANS)}
SPOT = (np.s_[2:4, 2:4], np.s_[6:8, 6:8])


def spot(organ: str, number: int) -> tuple[slice, ...]:
    """Return the voxels of an organ's instance."""
    return (*SPOT[number - 1], SLAB[organ][2])


class Case:
    """What harmonize and review leave of a case, before it is written."""

    def __init__(self, folder: Path, masks: tuple[str, ...], known: tuple[str, ...]) -> None:
        """Write the scan, organ masks and instance maps with a tumor and a cyst each."""
        self.harmonized, self.merged = folder / "harmonized", folder / "merged"
        self.target = folder / "case"
        rng = np.random.default_rng(4)
        self.ct = rng.integers(-1000, 1000, GRID.shape, dtype=np.int16)
        write_nifti(self.harmonized / CT, self.ct, GRID)
        planes = np.zeros(GRID.shape, np.uint32)
        for name in masks:
            planes[SLAB.get(structures()[name].organ, np.s_[:, :, 14:])] |= np.uint32(
                structure_bit(name)
            )
        write_array(self.harmonized / "structures.b2nd", planes, grid=GRID.to_json())
        self.maps: dict[str, NDArray[np.uint16]] = {}
        self.kinds = {"1": {"kind": "tumor"}, "2": {"kind": "cyst"}}
        for organ in known:
            self.maps[organ] = np.zeros(GRID.shape, np.uint16)
            for number in (1, 2):
                self.maps[organ][spot(organ, number)] = number
        self.harmonized_row: dict[str, Any] = {
            "case_id": "BDMAP_90000001",
            "source": "msd_ct",
            "grid": GRID.to_json(),
            "structures": dict.fromkeys(masks, {}),
        }

    def write(self, *withheld: str) -> dict[str, Any]:
        """Write the case and return its row."""
        for organ, labels in self.maps.items():
            write_nifti(self.merged / f"{organ}.nii.gz", labels, GRID)
        states = {organ: "present" if organ in self.maps else "unknown" for organ in ORGANS}
        return write_case(
            self.target,
            harmonized=self.harmonized,
            merged=self.merged,
            harmonized_row=self.harmonized_row,
            merged_row={
                "masks": [{"organ": organ, "state": states[organ]} for organ in ORGANS],
                "instances": dict.fromkeys(self.maps, self.kinds),
            },
            withheld=withheld,
            connectivity=26,
        )

    def read(self, name: str) -> NDArray[Any]:
        """Return a written volume (z, y, x), read by another library."""
        return np.asanyarray(nib.load(self.target / name).dataobj).transpose(2, 1, 0)

    def files(self) -> set[str]:
        """Return the files that were written."""
        paths = (path for path in self.target.rglob("*") if path.is_file())
        return {path.relative_to(self.target).as_posix() for path in paths}


ALL = ("liver", "pancreas", "kidney_left", "kidney_right", "colon", "esophagus", "uterus", "spleen")


def test_every_file_stands_in_the_row_with_the_hash_of_its_voxels(tmp_path: Path) -> None:
    """The hashes are those of the arrays that another reader finds."""
    case = Case(tmp_path, ALL, ORGANS)
    row = case.write()
    assert set(row["voxel_sha256"]) == case.files()
    for name, sha256 in row["voxel_sha256"].items():
        array = case.read(name)
        little = array.astype(array.dtype.newbyteorder("<"))
        assert sha256 == sha256_bytes(little.tobytes(order="C")), name
    assert list(row["voxel_sha256"]) == sorted(row["voxel_sha256"])
    assert (row["shape"], row["slices"]) == ([12, 14, 16], 12)
    assert row["spacing_mm"] == pytest.approx([0.8, 0.9, 2.5])
    assert set(row["structures"]) == {
        name.removeprefix("segmentations/").removesuffix(".nii.gz")
        for name in case.files()
        if name.startswith("segmentations/")
    }
    np.testing.assert_array_equal(case.read(CT), case.ct)


def test_the_hash_sees_values_and_dtype_and_not_memory() -> None:
    """One voxel changes it; byte order and strides do not."""
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    assert voxels_sha256(array) == voxels_sha256(array.astype(">i2"))
    assert voxels_sha256(array) == voxels_sha256(np.asfortranarray(array))
    changed = array.copy()
    changed[1, 2, 3] += 1
    assert len({voxels_sha256(a) for a in (array, changed, array.astype(np.int32))}) == 3


def test_known_tumors_have_their_organs_value_and_cysts_none(tmp_path: Path) -> None:
    """With six known organs nothing is ignored; cysts are 0, and only their own file has them."""
    case = Case(tmp_path, ALL, ORGANS)
    case.write()
    expected = np.zeros(GRID.shape, np.uint8)
    for value, organ in enumerate(ORGANS, start=1):
        expected[spot(organ, 1)] = value
    np.testing.assert_array_equal(case.read("tumor_labels.nii.gz"), expected)
    cyst = case.read("segmentations/liver_cyst.nii.gz")
    assert cyst[spot("liver", 2)].all() and cyst.sum() == cyst[spot("liver", 2)].size


def test_the_combined_map_lays_later_organs_over_earlier(tmp_path: Path) -> None:
    """Voxel by voxel, not box by box; tumors lie over all, cysts and `kidney` in nothing."""
    case = Case(tmp_path, (*ALL, "kidney"), ("liver",))
    planes, meta = read_array(case.harmonized / "structures.b2nd")
    slanted = np.add.outer(np.arange(14), np.arange(16)) % 5 == 0
    planes[3, slanted] |= np.uint32(structure_bit("spleen"))
    write_array(case.harmonized / "structures.b2nd", planes, **meta)
    case.write()
    expected = np.zeros(GRID.shape, np.uint8)
    for name in sorted(ALL, key=lambda name: structures()[name].index):
        mask = (planes & np.uint32(structure_bit(name))) != 0
        np.testing.assert_array_equal(case.read(f"segmentations/{name}.nii.gz"), mask)
        expected[mask] = structures()[name].index
    expected[spot("liver", 1)] = 27
    np.testing.assert_array_equal(case.read("combined_labels.nii.gz"), expected)


def test_an_organ_of_unknown_tumors_is_ignored_where_no_known_tumor_is(tmp_path: Path) -> None:
    """Its own mask and nothing else; a tumor of a known organ that reaches into it stays."""
    case = Case(tmp_path, ALL, tuple(o for o in ORGANS if o not in ("pancreas", "kidney")))
    reaching = (slice(5, 6), slice(5, 6), slice(0, 4))  # from the liver into the pancreas
    case.maps["liver"][reaching] = 1
    case.write()
    expected = np.zeros(GRID.shape, np.uint8)
    expected[SLAB["pancreas"]] = expected[SLAB["kidney"]] = IGNORE
    expected[reaching] = 1
    for value, organ in enumerate(ORGANS, start=1):
        if organ in case.maps:
            expected[spot(organ, 1)] = value
    np.testing.assert_array_equal(case.read("tumor_labels.nii.gz"), expected)


@pytest.mark.parametrize(
    ("masks", "withheld"),
    [
        (tuple(name for name in ALL if name != "colon"), ()),
        (ALL, ("segmentations/colon.nii.gz",)),
    ],
)
def test_without_an_organs_mask_the_whole_scan_is_ignored(
    tmp_path: Path, masks: tuple[str, ...], withheld: tuple[str, ...]
) -> None:
    """Unknown tumors of an organ without a mask, or with one that is withheld, may be anywhere."""
    case = Case(tmp_path, masks, tuple(organ for organ in ORGANS if organ != "colon"))
    case.write(*withheld)
    labels = case.read("tumor_labels.nii.gz")
    tumors = np.zeros(GRID.shape, bool)
    for organ in case.maps:
        tumors[spot(organ, 1)] = True
    assert (labels[~tumors] == IGNORE).all()
    assert (labels[tumors] != IGNORE).all()
    assert labels[spot("liver", 2)].max() == IGNORE  # a cyst says nothing about colon tumors


def test_an_empty_organ_mask_ignores_nothing(tmp_path: Path) -> None:
    """Somebody looked for the organ and found none of it in the scan."""
    case = Case(tmp_path, tuple(n for n in ALL if n != "uterus"), ORGANS[:-1])
    case.harmonized_row["structures"]["uterus"] = {}
    case.write()
    assert case.read("segmentations/uterus.nii.gz").max() == 0
    assert case.read("tumor_labels.nii.gz").max() < IGNORE


def test_of_tumors_that_overlap_the_later_organ_wins(tmp_path: Path) -> None:
    """The combined map follows its own indices: there the esophagus lies over the uterus."""
    case = Case(tmp_path, ALL, ORGANS)
    shared = (slice(9, 11), slice(9, 11), slice(9, 11))
    for labels in case.maps.values():
        labels[shared] = 1
    case.write()
    assert (case.read("tumor_labels.nii.gz")[shared] == 6).all()
    assert (case.read("combined_labels.nii.gz")[shared] == 32).all()
    for name in ("liver_lesion", "endometrioma_tumor"):
        assert case.read(f"segmentations/{name}.nii.gz")[shared].all()


def test_withheld_files_are_absent_and_leave_no_trace(tmp_path: Path) -> None:
    """Neither the joined maps nor the row show what a licence keeps out."""
    case = Case(tmp_path, ALL, ORGANS)
    hidden = (CT, "segmentations/spleen.nii.gz", *tumor_files("liver"))
    row = case.write(*hidden)
    assert not case.files() & set(hidden)
    assert not set(row["voxel_sha256"]) & set(hidden)
    assert "liver" not in row["organs"] and "pancreas" in row["organs"]
    assert not {"spleen", "liver_lesion", "liver_cyst"} & set(row["structures"])
    combined = case.read("combined_labels.nii.gz")
    assert not np.isin(combined, [8, 27]).any()
    assert (combined[spot("liver", 1)] == 5).all()  # of the organ, whose mask is free
    labels = case.read("tumor_labels.nii.gz")
    assert (labels[SLAB["liver"]] == IGNORE).all()
    assert (labels == 1).sum() == 0


def test_one_tumor_file_withheld_holds_back_the_organ(tmp_path: Path) -> None:
    """Instances would show what the mask may not."""
    case = Case(tmp_path, ALL, ORGANS)
    row = case.write("instances/kidney.nii.gz")
    assert not case.files() & set(tumor_files("kidney"))
    assert "kidney" not in row["organs"]


def test_pooled_lesions_are_numbered_and_ignored(tmp_path: Path) -> None:
    """A lesion in a hole of its organ's mask is not background; one that is settled has no row."""
    case = Case(tmp_path, ALL, tuple(organ for organ in ORGANS if organ != "liver"))
    planes, meta = read_array(case.harmonized / "structures.b2nd")
    hole, settled = spot("liver", 1), (slice(9, 11), slice(9, 11), slice(0, 2))
    case.maps["colon"][settled] = 1  # a known tumor of the colon that grew into the liver
    planes[hole] = 0  # as in a map with one value a voxel
    write_array(case.harmonized / "structures.b2nd", planes, **meta)
    pooled = np.zeros(GRID.shape, np.uint8)
    pooled[hole] = pooled[settled] = 1
    write_array(case.harmonized / "pooled.b2nd", pooled, **meta)
    row = case.write()
    assert "instances/pooled.nii.gz" in row["voxel_sha256"]
    expected = np.zeros(GRID.shape, np.uint16)
    expected[hole] = 1
    found = case.read("instances/pooled.nii.gz")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected)
    labels = case.read("tumor_labels.nii.gz")
    assert (labels[settled] == 4).all()
    labels[settled] = IGNORE
    assert (labels[SLAB["liver"]] == IGNORE).all()
    withheld = Case(tmp_path / "again", ALL, ORGANS)
    write_array(withheld.harmonized / "pooled.b2nd", pooled, **meta)
    withheld.write("instances/pooled.nii.gz")
    assert "instances/pooled.nii.gz" not in withheld.files()


def test_a_case_that_is_withheld_whole_has_no_file(tmp_path: Path) -> None:
    """Nothing is written, and the row says so."""
    case = Case(tmp_path / "a", ALL, ORGANS)
    names = list(case.write()["voxel_sha256"])
    hidden = Case(tmp_path / "b", ALL, ORGANS)
    row = hidden.write(*names)
    assert hidden.files() == set()
    assert (row["voxel_sha256"], row["structures"], row["organs"]) == ({}, [], [])


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    """Every file, twice."""
    cases = [Case(tmp_path / name, ALL, ORGANS) for name in "ab"]
    rows = [case.write() for case in cases]
    assert rows[0] == rows[1]
    for name in cases[0].files():
        assert (cases[0].target / name).read_bytes() == (cases[1].target / name).read_bytes()


def test_a_map_without_kinds_is_refused(tmp_path: Path) -> None:
    """A label that nobody told of is no tumor."""
    case = Case(tmp_path, ALL, ORGANS)
    case.maps["liver"][0, 0, 0] = 3
    with pytest.raises(ReleaseError, match="CASE_INSTANCES"):
        case.write()


def test_confirmed_empty_has_empty_files(tmp_path: Path) -> None:
    """Somebody looked: a file without voxels, and no cyst file."""
    case = Case(tmp_path, ALL, ORGANS)
    case.maps["liver"][:] = 0
    case.kinds = {}
    for labels in case.maps.values():
        labels[:] = 0
    row = case.write()
    assert case.read("segmentations/liver_lesion.nii.gz").max() == 0
    assert case.read("instances/liver.nii.gz").dtype == np.uint16
    assert "segmentations/liver_cyst.nii.gz" not in case.files()
    assert row["organs"] == sorted(ORGANS)
    assert case.read("tumor_labels.nii.gz").max() == 0


@pytest.mark.parametrize(
    ("names", "whole"),
    [
        (("kidney_left", "kidney_right"), ("kidney_left", "kidney_right")),
        (("kidney_left",), ()),
        (("kidney",), ("kidney",)),
        (("kidney_right", "kidney"), ("kidney_right", "kidney")),
        (("liver",), ()),
    ],
)
def test_one_kidney_is_not_all_of_them(names: tuple[str, ...], whole: tuple[str, ...]) -> None:
    """A tumor may be in the other one."""
    assert whole_organ("kidney", names) == whole


def test_the_class_map_names_every_value() -> None:
    """Six tumors and what is to be ignored."""
    assert list(tumor_class_map()) == [1, 2, 3, 4, 5, 6, 7]
    assert tumor_class_map()[5] == "esophagus_tumor" and tumor_class_map()[IGNORE] == "ignore"
