"""Lesions of an unnamed organ: what they stand for, whose they are, and their rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tumoratlas.core.errors import GeometryError
from tumoratlas.core.runner import Step, Task, finished_folders, read_record, run_shard
from tumoratlas.core.structures import organ_mask, structure_bit, tumor_structures
from tumoratlas.core.tables import SCHEMAS
from tumoratlas.harmonize.cases import POOLED_FILE
from tumoratlas.images.arrays import write_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import write_nifti
from tumoratlas.measure.instances import measure_instances
from tumoratlas.measure.pooled import (
    FARTHEST_MM,
    UNASSIGNED,
    Contradiction,
    PooledLesions,
    nearest_structure,
    pooled_map,
)
from tumoratlas.measure.steps import measure_tumors

SHAPE = (12, 40, 60)
# A gantry turned by 20 degrees about the patient's left-right axis: oblique, at right angles.
TURN = np.array([[1, 0, 0], [0, np.cos(0.35), -np.sin(0.35)], [0, np.sin(0.35), np.cos(0.35)]])
SPACING = {"x": 1.0, "y": 1.0, "z": 5.0}
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ np.diag(list(SPACING.values()))
GRID = Grid.of(SHAPE, AFFINE)
LIMITS = {"size_edges_mm": (5, 10, 20), "early_diameter_mm": 20, "minimum_volume_mm3": 14}
Region = tuple[slice, ...]


def planes_of(**regions: Region) -> np.ndarray:
    planes = np.zeros(SHAPE, np.uint32)
    for name, region in regions.items():
        planes[region] |= np.uint32(structure_bit(name))
    return planes


def pooled_of(*regions: Region) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    for region in regions:
        mask[region] = 1
    return mask


def found(
    pooled: np.ndarray,
    planes: np.ndarray,
    settled: np.ndarray | None = None,
    known: tuple[str, ...] = (),
    connectivity: int = 26,
) -> PooledLesions:
    settled = np.zeros(SHAPE, bool) if settled is None else settled
    return pooled_map(pooled, planes, settled, known, GRID, connectivity=connectivity)


LIVER, PANCREAS = np.s_[2:10, 5:30, 5:20], np.s_[2:10, 5:30, 40:50]


def test_overlap_comes_before_distance() -> None:
    """Four voxels in the pancreas, one in the liver, most in neither."""
    lesion = np.s_[5:6, 10:11, 19:44]
    result = found(pooled_of(lesion), planes_of(liver=LIVER, pancreas=PANCREAS))
    assert result.organs == {1: "pancreas"}
    np.testing.assert_array_equal(result.instances, pooled_of(lesion))
    # A tie goes to the first organ, whatever the order of names.
    both = np.s_[5:6, 10:11, 18:42]
    assert found(pooled_of(both), planes_of(pancreas=PANCREAS, liver=LIVER)).organs == {1: "liver"}


@pytest.mark.parametrize(
    ("lesion", "organ"),
    [
        (np.s_[5:6, 10:11, 35:36], "pancreas"),  # 5 mm to it, 16 mm to the liver
        (np.s_[5:6, 10:11, 25:26], "liver"),
        (np.s_[5:6, 10:11, 0:1], "liver"),
        (np.s_[5:6, 10:11, 52:53], "pancreas"),
    ],
)
def test_the_nearest_organ_in_mm_takes_a_lesion_outside(lesion: Region, organ: str) -> None:
    assert found(pooled_of(lesion), planes_of(liver=LIVER, pancreas=PANCREAS)).organs == {1: organ}


def test_a_slice_counts_its_thickness() -> None:
    """Three slices away in one organ's direction are farther than 14 voxels in another's."""
    planes = planes_of(liver=np.s_[0:3, 10:20, 10:20], colon=np.s_[5:6, 10:20, 29:40])
    assert found(pooled_of(np.s_[5:6, 15:16, 15:16]), planes).organs == {1: "colon"}
    assert found(pooled_of(np.s_[4:5, 15:16, 15:16]), planes).organs == {1: "liver"}


def test_farther_than_20_mm_is_unassigned() -> None:
    colon = np.s_[0:2, 0:10, 0:10]
    at = {20: np.s_[5:6, 5:6, 5:6], 25: np.s_[6:7, 5:6, 5:6]}  # 4 and 5 slices of 5 mm
    assert found(pooled_of(at[20]), planes_of(colon=colon)).organs == {1: "colon"}
    assert found(pooled_of(at[25]), planes_of(colon=colon)).organs == {1: UNASSIGNED}
    # Along x the same distances are 20 and 21 voxels.
    for x, organ in ((29, "colon"), (30, UNASSIGNED)):
        lesion = np.s_[0:1, 5:6, x : x + 1]
        assert found(pooled_of(lesion), planes_of(colon=colon)).organs == {1: organ}
    assert found(pooled_of(at[20]), planes_of()).organs == {1: UNASSIGNED}


def test_a_hole_at_the_edge_of_an_organ_belongs_to_that_organ() -> None:
    """A label map of one value a voxel: the kidney's tumor touches the liver on one side."""
    planes = planes_of(liver=np.s_[2:10, 0:30, 0:20], kidney_right=np.s_[2:10, 5:25, 20:45])
    lesion = np.s_[4:7, 10:18, 20:28]
    planes[lesion] = 0
    result = found(pooled_of(lesion), planes)
    assert (result.organs, result.sides) == ({1: "kidney"}, {1: "right"})
    mirrored = planes_of(liver=np.s_[2:10, 0:30, 0:20], kidney_right=np.s_[2:10, 5:25, 20:45])
    lesion = np.s_[4:7, 10:18, 12:20]
    mirrored[lesion] = 0
    assert found(pooled_of(lesion), mirrored).organs == {1: "liver"}


def test_a_kidney_of_unknown_side_gives_no_side() -> None:
    planes = planes_of(kidney=np.s_[2:10, 5:25, 20:45])
    result = found(pooled_of(np.s_[4:7, 10:18, 20:28]), planes)
    assert (result.organs, result.sides) == ({1: "kidney"}, {1: ""})


def test_what_overlaps_a_settled_tumor_is_that_tumor() -> None:
    settled = np.zeros(SHAPE, bool)
    settled[5, 10, 10] = True
    pooled = pooled_of(np.s_[4:6, 8:11, 8:11], np.s_[8:9, 20:22, 10:12])
    result = found(pooled, planes_of(liver=LIVER), settled, ("pancreas",))
    assert (result.represented, result.organs, result.contradicted) == (1, {1: "liver"}, ())
    np.testing.assert_array_equal(result.instances, pooled_of(np.s_[8:9, 20:22, 10:12]))


def test_a_settled_organ_has_the_last_word() -> None:
    pooled = pooled_of(np.s_[4:6, 8:11, 8:11], np.s_[8:9, 20:22, 10:12], np.s_[5:6, 10:11, 45:48])
    planes = planes_of(liver=LIVER, pancreas=PANCREAS)
    result = found(pooled, planes, known=("liver",))
    assert result.contradicted == (
        Contradiction("liver", 18, (4, 8, 8)),
        Contradiction("liver", 4, (8, 20, 10)),
    )
    assert (result.organs, result.represented) == ({1: "pancreas"}, 0)
    np.testing.assert_array_equal(result.instances > 0, pooled_of(np.s_[5:6, 10:11, 45:48]))


def test_labels_go_by_size_then_first_voxel() -> None:
    small, large, equal = np.s_[3:4, 8:9, 8:9], np.s_[5:6, 8:12, 8:9], np.s_[9:10, 8:9, 8:9]
    instances = found(pooled_of(small, large, equal), planes_of(liver=LIVER)).instances
    assert instances.dtype == np.uint16
    assert [int(instances[part].max()) for part in (large, small, equal)] == [1, 2, 3]


@pytest.mark.parametrize(("connectivity", "lesions"), [(6, 3), (18, 2), (26, 1)])
def test_connectivity_makes_lesions(connectivity: int, lesions: int) -> None:
    pooled = np.zeros(SHAPE, np.uint8)
    pooled[3, 8, 8] = pooled[3, 9, 9] = pooled[4, 10, 10] = 1
    assert len(found(pooled, planes_of(), connectivity=connectivity).organs) == lesions


@settings(max_examples=40, deadline=None)
@given(
    arrays(bool, (3, 5, 6)),
    arrays(np.uint8, (3, 5, 6), elements=st.sampled_from([0, 0, 0, 0, 1, 2, 3])),
    st.tuples(*[st.sampled_from([0.7, 1.0, 3.0, 13.0])] * 3),
)
def test_distances_are_those_between_all_voxels(
    lesion: np.ndarray, values: np.ndarray, spacing_mm: tuple[float, ...]
) -> None:
    """The one rule against brute force: shared voxels, nearest, most voxels, order."""
    lesion = lesion & (np.indices(lesion.shape)[2] < 3)
    if not lesion.any():
        return
    masks = {name: values == value for value, name in enumerate("abc", 1)}
    spacing = np.array(spacing_mm)
    ours = nearest_structure(lesion, masks, spacing)
    shared = [int((lesion & mask).sum()) for mask in masks.values()]
    if max(shared):
        assert ours == "abc"[shared.index(max(shared))]
        return
    own = np.argwhere(lesion) * spacing
    away = {
        name: np.linalg.norm(own[:, None] - (np.argwhere(mask) * spacing)[None], axis=2).min(axis=1)
        for name, mask in masks.items()
        if mask.any()
    }
    within = {name: row for name, row in away.items() if row.min() <= FARTHEST_MM}
    if not within:
        assert ours == ""
        return
    limit = min(row.min() for row in within.values()) + np.linalg.norm(spacing)
    near = {name: row for name, row in within.items() if row.min() <= limit}
    far = np.array(list(near.values()))
    votes = far[:, far.min(axis=0) <= FARTHEST_MM].argmin(axis=0)
    assert ours == list(near)[int(np.bincount(votes).argmax())]


def test_voxels_far_from_all_have_no_vote() -> None:
    """Within 20 mm, 20 voxels are nearest to the first organ and 19 to the second."""
    lesion, masks = np.zeros((1, 40, 80), bool), np.zeros((2, 1, 40, 80), bool)
    lesion[0, 0, 10:71] = True
    masks[0, 0, 0, 5:10] = True
    masks[1, 0, 0, 72:] = True
    masks[1, 0, 25, 30:51] = True  # nearest to most of the other voxels, 25 mm away
    named = {"first": masks[0], "second": masks[1]}
    assert nearest_structure(lesion, named, np.ones(3)) == "first"


# Of the later seeds each is one in which the far end of a lesion would decide.
@pytest.mark.parametrize("seed", [*range(60), 657, 718, 1068, 1318, 1995, 2001, 2692, 2826])
def test_the_part_of_a_scan_around_a_lesion_tells_what_the_whole_tells(seed: int) -> None:
    """Long lesions between long organs, so that far ends are nearest to what a part cuts off."""
    rng = np.random.default_rng(seed)
    shape, spacing_mm = (3, 20, 40), 5.0
    start, end, row = rng.integers(5, 20), rng.integers(20, 39), rng.integers(5, 15)
    pooled, planes = np.zeros(shape, np.uint8), np.zeros(shape, np.uint32)
    pooled[1, row, start:end] = 1
    for organ in ("liver", "pancreas"):
        for _ in range(rng.integers(1, 3)):
            first = rng.integers(0, 38)
            place = np.s_[:, rng.integers(0, 20), first : rng.integers(first + 1, 40)]
            planes[place] |= np.uint32(structure_bit(organ))
    planes[pooled > 0] = 0
    grid = Grid.of(shape, np.diag([spacing_mm] * 3 + [1]))
    nothing = np.zeros(shape, bool)
    ours = pooled_map(pooled, planes, nothing, (), grid, connectivity=26)
    masks = {organ: organ_mask(planes, organ) for organ in tumor_structures()}
    whole = nearest_structure(pooled > 0, masks, np.full(3, spacing_mm)) or UNASSIGNED
    assert ours.organs == {1: whole}


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sets(st.sampled_from(["liver", "pancreas", "colon"])),
    st.sampled_from((6, 18, 26)),
)
def test_every_lesion_is_accounted_for(seed: int, known: set[str], connectivity: int) -> None:
    """Components are rows, settled tumors or contradictions; voxels of rows are the mask's."""
    rng = np.random.default_rng(seed)
    pooled = (ndi.uniform_filter(rng.random(SHAPE), 3) > 0.62).astype(np.uint8)
    settled = ndi.uniform_filter(rng.random(SHAPE), 5) > 0.6
    planes = planes_of(liver=LIVER, pancreas=PANCREAS, colon=np.s_[0:1, 30:40, :])
    result = found(pooled, planes, settled, tuple(known), connectivity)
    order = {6: 1, 18: 2, 26: 3}[connectivity]
    components, count = ndi.label(pooled, ndi.generate_binary_structure(3, order))
    accounted = len(result.organs) + result.represented + len(result.contradicted)
    assert accounted == count
    assert set(result.organs) == set(range(1, len(result.organs) + 1)) == set(result.sides)
    assert not set(result.organs.values()) & known
    assert {one.organ for one in result.contradicted} <= known
    for label in result.organs:
        inside = result.instances == label
        assert len(np.unique(components[inside])) == 1 and not settled[inside].any()
        assert inside.sum() == (components == components[inside][0]).sum()
    lost = sum(one.voxels for one in result.contradicted)
    touched = np.isin(components, np.unique(components[settled & (components > 0)]))
    assert (result.instances > 0).sum() + lost + (touched & (components > 0)).sum() == pooled.sum()


def test_arrays_of_another_grid_are_refused() -> None:
    with pytest.raises(GeometryError, match="SHAPE_MISMATCH"):
        found(pooled_of(), planes_of()[1:])
    with pytest.raises(GeometryError, match="SHAPE_MISMATCH"):
        found(pooled_of()[:, 1:], planes_of())


# The step

LINEAGE = {
    "kind": "tumor",
    "tumor_id": "ab" * 8,
    "origin": "accept",
    "candidate_ids": ["c1"],
    "event_ids": ["e1", "e2"],
    "reviewers": ["R01", "R03"],
}


def finish(folder: Path, rule: str, work: Any) -> Path:  # noqa: ANN401
    step = Step(rule, "s0000", folder / rule, {}, code="1")
    run_shard(step, [Task("BDMAP_1", {}, {})], work, step.folder / "s0000.tsv")
    return step.folder / "s0000.tsv"


@pytest.fixture
def row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the row of a case: liver reviewed, pancreas unknown, four pooled lesions."""
    monkeypatch.chdir(tmp_path)
    ct = np.random.default_rng(1).integers(-100, 200, SHAPE, np.int16)
    liver = np.zeros(SHAPE, np.uint16)
    liver[4:6, 8:11, 8:11] = 1

    def harmonize(_task: Task, folder: Path) -> dict[str, Any]:
        write_nifti(folder / "ct.nii.gz", ct, GRID)
        write_array(folder / "structures.b2nd", planes_of(liver=LIVER, pancreas=PANCREAS))
        pooled = pooled_of(
            np.s_[5:7, 9:12, 9:12],  # the liver's tumor
            np.s_[8:9, 20:22, 10:12],  # nothing, says the review of the liver
            np.s_[5:7, 10:14, 42:46],  # in the pancreas
            np.s_[1:2, 39:40, 59:60],  # 15 mm from it, and a fragment
        )
        write_array(folder / POOLED_FILE, pooled)
        return {"grid": GRID.to_json()}

    def merge(_task: Task, folder: Path) -> dict[str, Any]:
        write_nifti(folder / "liver.nii.gz", liver, GRID)
        return {"instances": {"liver": {"1": LINEAGE}}}

    manifests = {
        "harmonized": finish(tmp_path, "a", harmonize),
        "merged": finish(tmp_path, "b", merge),
    }
    step = Step("measure_tumors", "s0000", tmp_path / "c", {}, code="1")
    manifest = step.folder / "s0000.tsv"
    measure_tumors(step, manifest, **manifests, connectivity=26, **LIMITS)
    return read_record(finished_folders([manifest])["BDMAP_1"])["row"]


def test_rows_of_a_case_hold_events_and_pooled_lesions(row: dict[str, Any]) -> None:
    reviewed, pancreas, fragment = row["tumors"]
    assert (reviewed["events"], reviewed["reviewers"]) == (["e1", "e2"], ["R01", "R03"])
    assert (reviewed["organ"], reviewed["voxels"]) == ("liver", 18)
    for number, lesion in enumerate((pancreas, fragment), 1):
        assert (lesion["organ"], lesion["number"], lesion["side"]) == ("pancreas", number, "")
        assert (lesion["lesion_kind"], lesion["origin"]) == ("lesion", "pooled")
        assert lesion["events"] == lesion["reviewers"] == []
        assert len(lesion["tumor_id"]) == 16
    assert pancreas["voxels"] == 32 and not pancreas["is_fragment"] and fragment["is_fragment"]
    assert len({lesion["tumor_id"] for lesion in row["tumors"]}) == 3
    for lesion in row["tumors"]:
        assert set(lesion) == set(SCHEMAS["tumors"].names)


def test_a_contradicted_lesion_is_told(row: dict[str, Any]) -> None:
    (told,) = row["excluded_masks"]
    assert set(told) == set(SCHEMAS["excluded"].names)
    assert (told["id"], told["code"]) == ("BDMAP_1/liver", "POOLED_CONTRADICTED")
    assert (
        told["rule"] == "measure_tumors" and told["evidence"] == "4 voxels from voxel (8, 20, 10)"
    )


def test_pooled_lesions_are_measured_like_any_other(row: dict[str, Any]) -> None:
    mask = pooled_of(np.s_[5:7, 10:14, 42:46]).astype(np.uint16)
    [alone] = measure_instances(mask, None, GRID, **LIMITS)
    lesion = row["tumors"][1]
    assert (lesion["volume_mm3"], tuple(lesion["bbox"])) == (alone.volume_mm3, alone.bbox)
    assert lesion["volume_mm3"] == pytest.approx(32 * 5.0)
    assert lesion["max_3d_mm"] == pytest.approx(np.sqrt(3**2 + 3**2 + 5**2))
