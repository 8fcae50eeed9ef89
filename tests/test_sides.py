"""Which kidney a tumor belongs to, where label maps leave holes or name no side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_pooled import finish
from tumoratlas.core.runner import Step, Task, finished_folders, read_record
from tumoratlas.core.structures import organ_mask, structure_bit
from tumoratlas.images.arrays import write_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import write_nifti
from tumoratlas.measure.sides import kidney_side, with_sides
from tumoratlas.measure.steps import measure_tumors

SHAPE = (12, 30, 60)
SPACING_MM = np.array([5.0, 2.0, 2.0])
# x grows toward the patient's right; the kidneys' centers lie 80 mm apart.
LEFT, RIGHT = np.s_[2:10, 8:22, 5:15], np.s_[2:10, 8:22, 45:55]
TUMOR_LEFT, TUMOR_RIGHT = np.s_[4:7, 12:16, 8:12], np.s_[4:7, 12:16, 48:52]
Region = tuple[slice, ...]


def planes_of(*parts: tuple[str, Region]) -> np.ndarray:
    planes = np.zeros(SHAPE, np.uint32)
    for name, region in parts:
        planes[region] |= np.uint32(structure_bit(name))
    return planes


def mask_of(*regions: Region) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for region in regions:
        mask[region] = True
    return mask


def side_of(tumor: Region, planes: np.ndarray) -> str:
    return kidney_side(mask_of(tumor)[tumor], tumor, planes, SPACING_MM)


def sides(planes: np.ndarray) -> dict[str, int]:
    """Return the voxels of each side."""
    bits = {side: np.uint32(structure_bit(f"kidney_{side}")) for side in ("left", "right")}
    return {side: int(np.count_nonzero(planes & bit)) for side, bit in bits.items()}


@pytest.mark.parametrize(("tumor", "side"), [(TUMOR_LEFT, "left"), (TUMOR_RIGHT, "right")])
@pytest.mark.parametrize("is_hole", [False, True])
def test_a_tumor_belongs_to_the_kidney_around_it(tumor: Region, side: str, is_hole: bool) -> None:
    """Label maps with one value a voxel have no kidney where its tumor is."""
    planes = planes_of(("kidney_left", LEFT), ("kidney_right", RIGHT))
    if is_hole:
        planes[tumor] = 0
    assert side_of(tumor, planes) == side


def test_the_nearer_kidney_within_20_mm_is_that_of_a_tumor_outside() -> None:
    planes = planes_of(("kidney_left", LEFT), ("kidney_right", RIGHT))
    assert side_of(np.s_[4:5, 12:13, 24:25], planes) == "left"  # 20 mm away
    assert side_of(np.s_[4:5, 12:13, 25:26], planes) == ""
    assert side_of(np.s_[4:5, 12:13, 36:37], planes) == "right"
    assert side_of(np.s_[4:5, 12:13, 24:25], planes_of()) == ""


def test_more_voxels_come_before_distance_and_as_many_give_no_side() -> None:
    left, right = np.s_[2:10, 8:22, 5:30], np.s_[2:10, 8:22, 30:55]
    planes = planes_of(("kidney_left", left), ("kidney_right", right))
    assert side_of(np.s_[4:7, 12:16, 26:33], planes) == "left"
    assert side_of(np.s_[4:7, 12:16, 27:34], planes) == "right"
    assert side_of(np.s_[4:7, 12:16, 27:33], planes) == ""


def test_kidneys_of_one_name_get_their_sides() -> None:
    """KiTS labels both as one: the part toward greater x is the right one; tumors are holes."""
    planes = planes_of(("kidney", LEFT), ("kidney", RIGHT))
    tumors = mask_of(TUMOR_LEFT, TUMOR_RIGHT)
    planes[tumors] = 0
    before = planes.copy()
    known = with_sides(planes, tumors, SPACING_MM)
    np.testing.assert_array_equal(planes, before)
    size = int(np.prod([part.stop - part.start for part in LEFT]))
    assert sides(known) == {"left": size, "right": size}
    np.testing.assert_array_equal(organ_mask(known, "kidney"), mask_of(LEFT, RIGHT))
    assert (side_of(TUMOR_LEFT, known), side_of(TUMOR_RIGHT, known)) == ("left", "right")


def test_small_parts_belong_to_the_kidney_nearer_from_left_to_right() -> None:
    """A crumb, and a tumor of its own beside the kidney."""
    crumb, tumor = np.s_[11:12, 0:2, 20:22], np.s_[4:6, 24:28, 44:47]
    planes = planes_of(("kidney", LEFT), ("kidney", RIGHT), ("kidney", crumb))
    known = with_sides(planes, mask_of(tumor), SPACING_MM)
    assert side_of(crumb, known) == "left" and side_of(tumor, known) == "right"


def test_a_tumor_larger_than_its_kidney_is_a_part_of_it() -> None:
    left, tumor = np.s_[2:10, 8:10, 5:8], np.s_[2:10, 10:22, 5:15]
    planes = planes_of(("kidney", left), ("kidney", RIGHT))
    assert side_of(tumor, with_sides(planes, mask_of(tumor), SPACING_MM)) == "left"


@pytest.mark.parametrize(
    "kidneys",
    [
        [LEFT],  # the other one was taken out, or lies outside the scan
        [LEFT, np.s_[4:5, 12:13, 50:53]],  # beside a crumb
        [LEFT, RIGHT, np.s_[3:4, 10:12, 5:55]],  # a horseshoe
        [np.s_[0:3, 8:22, 5:15], np.s_[8:11, 8:22, 5:15]],  # one above the other
        [LEFT, np.s_[2:10, 8:22, 25:35]],  # 40 mm apart
        [],
    ],
)
def test_what_is_not_clearly_two_kidneys_has_no_side(kidneys: list[Region]) -> None:
    planes = planes_of(*(("kidney", region) for region in kidneys))
    known = with_sides(planes, mask_of(TUMOR_LEFT), SPACING_MM)
    assert known is planes and side_of(TUMOR_LEFT, known) == ""


@pytest.mark.parametrize("name", ["kidney_left", "kidney_right"])
def test_known_sides_stay(name: str) -> None:
    planes = planes_of((name, LEFT), ("kidney", LEFT), ("kidney", RIGHT))
    known = with_sides(planes, mask_of(), SPACING_MM)
    assert known is planes and side_of(TUMOR_LEFT, known) == name.removeprefix("kidney_")


@pytest.mark.parametrize("names", [("kidney", "kidney"), ("kidney_left", "kidney_right")])
def test_rows_of_tumors_tell_the_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]
) -> None:
    """Of both kinds of sources, where the tumors are holes."""
    monkeypatch.chdir(tmp_path)
    grid = Grid.of(SHAPE, np.diag([*SPACING_MM[::-1], 1.0]))
    instances = np.zeros(SHAPE, np.uint16)
    instances[TUMOR_LEFT], instances[TUMOR_RIGHT] = 1, 2
    planes = planes_of((names[0], LEFT), (names[1], RIGHT))
    planes[instances > 0] = 0
    origin = {"kind": "tumor", "origin": "source", "reviewers": [], "event_ids": []}

    def harmonize(_task: Task, folder: Path) -> dict[str, Any]:
        write_nifti(folder / "ct.nii.gz", np.zeros(SHAPE, np.int16), grid)
        write_array(folder / "structures.b2nd", planes)
        return {"grid": grid.to_json()}

    def merge(_task: Task, folder: Path) -> dict[str, Any]:
        write_nifti(folder / "kidney.nii.gz", instances, grid)
        lineage = {n: origin | {"tumor_id": n * 16} for n in "12"}
        return {"instances": {"kidney": lineage}}

    step = Step("measure_tumors", "s0000", tmp_path / "c", {}, code="1")
    manifest = step.folder / "s0000.tsv"
    measure_tumors(
        step,
        manifest,
        harmonized=finish(tmp_path, "a", harmonize),
        merged=finish(tmp_path, "b", merge),
        connectivity=26,
        size_edges_mm=(5, 10, 20),
        early_diameter_mm=20,
        minimum_volume_mm3=14,
    )
    rows = read_record(finished_folders([manifest])["BDMAP_1"])["row"]["tumors"]
    assert [(row["number"], row["side"]) for row in rows] == [(1, "left"), (2, "right")]
