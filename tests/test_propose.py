"""Candidates: which components are kept, their numbers on the native grid, their ids."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from tumoratlas.candidates.propose import propose_candidates
from tumoratlas.core.errors import ConfigError, GeometryError
from tumoratlas.core.tables import SCHEMAS
from tumoratlas.images.grid import Grid

THRESHOLDS = [0.1, 0.3, 0.5, 0.9]


def diagonal_grid(shape: tuple[int, ...], x: float, y: float, z: float) -> Grid:
    return Grid.of(shape, np.diag([x, y, z, 1.0]))


def propose(
    levels: np.ndarray, level_grid: Grid, native_grid: Grid, **changes: object
) -> tuple[np.ndarray, list[dict]]:
    options = {
        "thresholds": THRESHOLDS,
        "threshold": 0.3,
        "case_id": "BDMAP_00000001",
        "organ": "liver",
        "model_id": "m",
        "minimum_volume_mm3": 0.0,
        "organ_mask_native": None,
        "margin_mm": 5.0,
        "connectivity": 26,
    } | changes
    return propose_candidates(levels, level_grid, native_grid=native_grid, **options)


def same_grid_case() -> tuple[np.ndarray, Grid]:
    levels = np.zeros((10, 20, 40), np.uint8)
    levels[2:5, 2:5, 2:5] = 2  # inside the organ
    levels[3, 3, 3] = 3
    levels[4:6, 15, 12:17] = 4  # near it
    levels[8, 18, 38:40] = 3  # far from it
    levels[8, 2:9, 20] = 1  # below the threshold
    return levels, diagonal_grid(levels.shape, 1.5, 1.5, 1.5)


def test_inside_near_and_far() -> None:
    levels, grid = same_grid_case()
    organ = np.zeros(levels.shape, bool)
    organ[:, :14, :10] = organ[:, :13, :16] = True
    found, rows = propose(levels, grid, grid, organ_mask_native=organ)
    assert found.dtype == np.uint16
    assert [(r["number"], r["voxels"], r["max_p"], r["bbox"]) for r in rows] == [
        (1, 10, 0.9, (4, 15, 12, 6, 16, 17)),
        (2, 27, 0.5, (2, 2, 2, 5, 5, 5)),
    ]
    near, inside = rows
    assert near["organ_overlap"] == 0 and near["distance_to_organ_mm"] == pytest.approx(4.5)
    assert inside["organ_overlap"] == 1 and inside["distance_to_organ_mm"] == 0
    assert inside["mean_p"] == pytest.approx((26 * 0.3 + 0.5) / 27)
    assert inside["volume_mm3"] == pytest.approx(27 * 1.5**3)
    assert inside["radius_mm"] == pytest.approx((3 * 27 * 1.5**3 / (4 * np.pi)) ** (1 / 3))
    # Whole candidates, never cut at the organ.
    assert ((found == 1) == (levels == 4)).all()
    assert ((found == 2) == np.isin(levels, (2, 3)) & (np.indices(levels.shape)[2] < 10)).all()
    assert propose(levels, grid, grid, organ_mask_native=organ, margin_mm=4.4)[1][0]["voxels"] == 27
    json.dumps(rows)
    assert set(near) == set(SCHEMAS["candidates"].names)


def test_unknown_and_empty_organs_keep_all() -> None:
    levels, grid = same_grid_case()
    _, unknown = propose(levels, grid, grid)
    _, empty = propose(levels, grid, grid, organ_mask_native=np.zeros(levels.shape, bool))
    assert len(unknown) == len(empty) == 3
    assert {(r["organ_overlap"], r["distance_to_organ_mm"]) for r in unknown} == {(None, None)}
    assert {(r["organ_overlap"], r["distance_to_organ_mm"]) for r in empty} == {(0.0, None)}


def test_numbers_follow_probability_then_place() -> None:
    levels = np.zeros((4, 4, 12), np.uint8)
    levels[0, 0, 0], levels[0, 0, 4], levels[2, 0, 0], levels[2, 2, 6] = 2, 4, 4, 3
    grid = diagonal_grid(levels.shape, 1, 1, 1)
    found, rows = propose(levels, grid, grid)
    assert [found[0, 0, 4], found[2, 0, 0], found[2, 2, 6], found[0, 0, 0]] == [1, 2, 3, 4]
    assert [row["number"] for row in rows] == [1, 2, 3, 4]


def test_minimum_volume_counts_on_the_model_grid() -> None:
    levels, grid = same_grid_case()
    for minimum, count in ((0, 3), (2 * 3.375, 3), (27, 2), (34, 1), (92, 0)):
        found, rows = propose(levels, grid, grid, minimum_volume_mm3=minimum)
        assert len(rows) == found.max() == count


def test_ids_are_content_hashes() -> None:
    levels, grid = same_grid_case()
    found, rows = propose(levels, grid, grid)
    again, same = propose(levels.copy(), grid, grid)
    assert rows == same and (found == again).all()
    ids = {row["candidate_id"] for row in rows}
    assert len(ids) == 3 and all(len(i) == 16 for i in ids)
    # One more candidate changes the numbers, not the ids of the others.
    levels[0, 19, 0] = 4
    _, more = propose(levels, grid, grid)
    assert more[0]["bbox"] == (0, 19, 0, 1, 20, 1)
    assert ids < {row["candidate_id"] for row in more}
    for change in ({"case_id": "BDMAP_00000002"}, {"organ": "colon"}):
        _, other = propose(levels, grid, grid, **change)
        assert not ids & {row["candidate_id"] for row in other}
    # The same voxels of another model are the same: what people said of them still holds.
    _, other = propose(levels, grid, grid, model_id="n")
    assert [row["candidate_id"] for row in other] == [row["candidate_id"] for row in more]
    # The recipe, spelled out: it may never change, reviews refer to these ids.
    row = next(row for row in rows if row["voxels"] == 2)
    runs = np.array([[(8 * 20 + 18) * 40 + 38, 2]], "<i8").tobytes()
    text = '["BDMAP_00000001", "liver", [10, 20, 40]]\n'
    assert row["candidate_id"] == hashlib.sha256(text.encode() + runs).hexdigest()[:16]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(0.7, 0.7, 5.0), (0.9, 0.8, 1.0), (1.5, 1.5, 1.5), (3.0, 3.0, 7.0)]),
)
def test_no_candidate_is_lost_between_the_grids(seed: int, spacing: tuple) -> None:
    rng = np.random.default_rng(seed)
    native_grid = diagonal_grid((8, 22, 25), *spacing)
    level_grid = native_grid.with_spacing(1.5)
    levels = np.zeros(level_grid.shape, np.uint8)
    for _ in range(12):
        center = rng.integers(0, levels.shape)
        size = rng.integers(1, 4, 3)
        part = tuple(slice(c, c + n) for c, n in zip(center, size, strict=True))
        levels[part] = rng.integers(1, 5)
    organ = np.zeros(native_grid.shape, bool)
    organ[2:6, 5:15, 5:15] = rng.random((4, 10, 10)) < 0.5
    found, rows = propose(levels, level_grid, native_grid, organ_mask_native=organ, margin_mm=1e6)
    components = propose(levels, level_grid, level_grid)[1]
    assert len(rows) == len(components)
    assert sorted(r["max_p"] for r in rows) == sorted(r["max_p"] for r in components)
    assert np.bincount(found.ravel(), minlength=len(rows) + 1)[1:].tolist() == [
        row["voxels"] for row in rows
    ]
    distance = distance_transform_edt(~organ, native_grid.spacing_mm[::-1])
    for row in rows:
        inside = found == row["number"]
        z0, y0, x0, z1, y1, x1 = row["bbox"]
        assert inside[z0:z1, y0:y1, x0:x1].sum() == inside.sum()
        assert row["distance_to_organ_mm"] == pytest.approx(distance[inside].min())
        assert row["organ_overlap"] == pytest.approx(organ[inside].mean())


def test_a_vanished_candidate_keeps_its_nearest_voxel(caplog: pytest.LogCaptureFixture) -> None:
    native_grid = diagonal_grid((4, 10, 10), 6, 6, 6)
    level_grid = native_grid.with_spacing(1.5)
    levels = np.zeros(level_grid.shape, np.uint8)
    levels[0, 0, 0] = levels[4, 4, 4] = levels[4, 4, 6] = 3
    levels[8:16, 20:28, 20:28] = 2
    found, rows = propose(levels, level_grid, native_grid)
    assert [(r["voxels"], r["is_restored"]) for r in rows] == [(1, True)] * 3 + [(8, False)]
    # Two model voxels share the nearest native voxel (1, 1, 1): the first takes it, the other
    # the next nearest.
    assert found[0, 0, 0] == 1 and found[0, 1, 1] == 2 and found[1, 1, 1] == 3
    assert caplog.text.count("lost by resampling") == 3


def test_distances_on_an_oblique_grid() -> None:
    affine = np.array([[0.8, 0.3, 0.2, 5], [-0.3, 0.8, 0.4, 1], [0.1, -0.3, 1.6, 0], [0, 0, 0, 1]])
    levels = np.zeros((12, 14, 16), np.uint8)
    levels[10, 3, 12] = levels[10, 4, 12] = 4
    organ = np.zeros(levels.shape, bool)
    organ[:5, 6:, :9] = True
    grid = Grid.of(levels.shape, affine)
    columns = affine[:3, 2::-1].T
    points = np.argwhere(organ) @ columns
    exact = min(
        np.linalg.norm(points - np.array(v) @ columns, axis=1).min()
        for v in ((10, 3, 12), (10, 4, 12))
    )
    for margin, count in ((exact + 1e-6, 1), (exact - 1e-6, 0)):
        _, rows = propose(levels, grid, grid, organ_mask_native=organ, margin_mm=margin)
        assert len(rows) == count
        assert all(r["distance_to_organ_mm"] == pytest.approx(exact) for r in rows)


def test_empty_map_and_wrong_input() -> None:
    levels = np.zeros((3, 4, 5), np.uint8)
    grid = diagonal_grid(levels.shape, 1, 1, 1)
    found, rows = propose(levels, grid, grid)
    assert rows == [] and found.shape == levels.shape and not found.any()
    with pytest.raises(ConfigError, match="none of the level map's thresholds"):
        propose(levels, grid, grid, threshold=0.31)
    with pytest.raises(ConfigError, match="THRESHOLDS"):
        propose(levels + 5, grid, grid)
    with pytest.raises(GeometryError, match="SHAPE_MISMATCH"):
        propose(levels[1:], grid, grid)
    with pytest.raises(GeometryError, match="SHAPE_MISMATCH"):
        propose(levels, grid, grid, organ_mask_native=np.zeros((3, 4, 6), bool))
