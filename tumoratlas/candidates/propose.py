"""Tumor candidates: components of a level map above the chosen threshold (paper, Stage 3).

A candidate is never clipped to the organ mask: exophytic kidney tumors and pancreatic cancers
reach beyond it. It only has to lie within a margin of it.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from tumoratlas.candidates.thresholds import check_thresholds
from tumoratlas.core.errors import ConfigError, GeometryError, InputError
from tumoratlas.core.files import sha256_bytes, to_json
from tumoratlas.images.components import (
    Components,
    equal_volume_radius_mm,
    find_components,
    label_statistics,
    minimum_voxels,
)
from tumoratlas.images.grid import Grid
from tumoratlas.images.resample import resample_labels

LOG = logging.getLogger(__name__)
ID_DIGITS = 16


@dataclass(frozen=True)
class Candidate:
    """A row of the `candidates` table.

    Attributes
    ----------
    candidate_id
        First 16 hexadecimal digits of the hash of case, organ and native voxels.
    number
        Its value in the case's candidate map: 1 .. n by descending ``max_p``, ties by first
        native voxel. For display only.
    case_id, organ, model_id, threshold
        What it was proposed for, by which model, at which probability.
    bbox
        Half-open box of native voxels ``z0, y0, x0, z1, y1, x1``.
    voxels, volume_mm3, radius_mm
        Size on the native grid; the radius is that of the sphere of equal volume.
    max_p
        The largest threshold that any of its voxels on the model grid reaches.
    mean_p
        Mean over those voxels of the largest threshold that each reaches.
    organ_overlap
        Share of its native voxels inside the organ mask; None without an organ mask.
    distance_to_organ_mm
        Distance from its nearest voxel center to the nearest of the organ, 0 when they
        overlap; None without an organ mask or with an empty one.
    is_restored
        Resampling to the native grid had left no voxel; it is kept as the nearest one.
    """

    candidate_id: str
    number: int
    case_id: str
    organ: str
    bbox: tuple[int, int, int, int, int, int]
    voxels: int
    volume_mm3: float
    radius_mm: float
    max_p: float
    mean_p: float
    organ_overlap: float | None
    distance_to_organ_mm: float | None
    is_restored: bool
    threshold: float
    model_id: str


def propose_candidates(
    levels: NDArray[np.uint8],
    level_grid: Grid,
    thresholds: Sequence[float],
    threshold: float,
    native_grid: Grid,
    *,
    case_id: str,
    organ: str,
    model_id: str,
    minimum_volume_mm3: float,
    organ_mask_native: NDArray[np.bool_] | None,
    margin_mm: float,
    connectivity: int,
) -> tuple[NDArray[np.uint16], list[dict[str, Any]]]:
    """Propose the tumor candidates of one case and organ.

    Parameters
    ----------
    levels
        Level map on the model grid, uint8 (z, y, x): how many thresholds a voxel reaches.
    level_grid, native_grid
        The model grid and the scan's own; parallel axes that point the same way.
    thresholds
        Ascending probabilities of the levels.
    threshold
        The chosen one of them.
    case_id, organ, model_id
        Written into the rows; case and organ into the ids, too.
    minimum_volume_mm3
        Smaller components on the model grid are left out.
    organ_mask_native
        The organ, bool (z, y, x) on the native grid; None where it is unknown.
    margin_mm
        Candidates farther than this from the organ are left out. Where the organ mask is None
        or empty, all are kept.
    connectivity
        6, 18 or 26 neighbours.

    Returns
    -------
    The candidate map, uint16 (z, y, x) on the native grid, with the candidates' numbers; and
    one row per candidate in order of number, with the fields of `Candidate`.

    Raises
    ------
    ConfigError
        The threshold is none of the thresholds, or these do not fit the map.
    GeometryError
        An array does not have its grid's shape.
    InputError
        There are more candidates than uint16 can number.
    """
    check_thresholds(thresholds, levels)
    if threshold not in thresholds:
        raise ConfigError(
            "THRESHOLDS",
            f"threshold {threshold:g}",
            "is none of the level map's thresholds",
            remedy="Choose the threshold on the curve of this model.",
        )
    shapes = [(levels, level_grid), (organ_mask_native, native_grid)]
    if any(array is not None and array.shape != grid.shape for array, grid in shapes):
        raise GeometryError(
            "SHAPE_MISMATCH",
            case_id,
            f"level map or {organ} mask does not have its grid's shape",
            remedy="Rebuild both for this case.",
        )
    components = find_components(
        levels > list(thresholds).index(threshold),
        connectivity=connectivity,
        minimum_count=minimum_voxels(minimum_volume_mm3, level_grid.voxel_volume_mm3),
    )
    found = len(components.voxels)
    native, restored = _to_native(components, level_grid, native_grid, case_id)
    statistics = label_statistics(native, found)
    top, mean = _probabilities(components, levels[components.box], thresholds)
    has_organ = organ_mask_native is not None and bool(organ_mask_native.any())
    order = np.lexsort((statistics.first_voxel, -top))
    numbers = np.zeros(found + 1, np.uint16)
    rows = []
    for index in order:
        low, high = statistics.box[index, :3], statistics.box[index, 3:]
        inside = native[tuple(map(slice, low, high))] == index + 1
        voxels = np.argwhere(inside) + low
        overlap, distance = (None if organ_mask_native is None else 0.0), None
        if has_organ:
            overlap = float(organ_mask_native[tuple(voxels.T)].mean())
            distance = _distance_mm(voxels, organ_mask_native, native_grid, margin_mm)
            if distance > margin_mm:
                continue
        numbers[index + 1] = len(rows) + 1
        volume_mm3 = len(voxels) * native_grid.voxel_volume_mm3
        candidate = Candidate(
            candidate_id=_candidate_id(voxels, native.shape, case_id, organ),
            number=len(rows) + 1,
            case_id=case_id,
            organ=organ,
            bbox=tuple(map(int, (*low, *high))),
            voxels=len(voxels),
            volume_mm3=volume_mm3,
            radius_mm=equal_volume_radius_mm(volume_mm3),
            max_p=float(top[index]),
            mean_p=float(mean[index]),
            organ_overlap=overlap,
            distance_to_organ_mm=distance,
            is_restored=index + 1 in restored,
            threshold=float(threshold),
            model_id=model_id,
        )
        rows.append(asdict(candidate))
    LOG.info("%s %s: %d candidates of %d components", case_id, organ, len(rows), found)
    return numbers[native], rows


def _to_native(
    components: Components, level_grid: Grid, native_grid: Grid, case_id: str
) -> tuple[NDArray[np.uint16], set[int]]:
    """Bring the components onto the native grid; say which needed a voxel of their own."""
    found = len(components.voxels)
    if found > np.iinfo(np.uint16).max:
        raise InputError(
            "TOO_MANY_CANDIDATES",
            case_id,
            f"has {found} components above the threshold, more than 65,535",
            remedy="Choose a higher threshold or train the model further.",
        )
    labels = np.zeros(level_grid.shape, np.uint16)
    labels[components.box] = components.labels
    native = resample_labels(labels, level_grid, native_grid)
    vanished = np.flatnonzero(label_statistics(native, found).voxels == 0) + 1
    for label in vanished:
        native[_nearest_free_voxel(labels == label, native, level_grid, native_grid)] = label
        LOG.warning("%s: a component is lost by resampling, kept as one voxel", case_id)
    return native, {int(label) for label in vanished}


def _nearest_free_voxel(
    component: NDArray[np.bool_], native: NDArray[np.uint16], level_grid: Grid, native_grid: Grid
) -> tuple[int, int, int]:
    """Return the native background voxel whose center is nearest to a component's middle.

    The middle is the component's voxel nearest to its centroid. Ties go to the first voxel.
    """
    voxels = np.argwhere(component)
    middle = voxels[np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))]
    point_mm = level_grid.affine @ np.append(middle[::-1], 1.0)
    index = (np.linalg.inv(native_grid.affine) @ point_mm)[2::-1]
    reach = 2
    while True:
        shape = np.array(native.shape)
        low = np.clip(np.round(index).astype(int) - reach, 0, shape - 1)
        high = np.clip(np.round(index).astype(int) + reach + 1, 1, shape)
        free = np.argwhere(native[tuple(map(slice, low, high))] == 0) + low
        if len(free):
            steps_mm = (free - index) @ native_grid.affine[:3, 2::-1].T
            return tuple(int(i) for i in free[np.argmin((steps_mm**2).sum(axis=1))])
        reach *= 2


def _probabilities(
    components: Components, levels: NDArray[np.uint8], thresholds: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the largest threshold reached in each component, and the mean over its voxels."""
    inside = components.labels > 0
    steps = len(thresholds) + 1
    cells = components.labels[inside].astype(np.int64) * steps + levels[inside]
    table = np.bincount(cells, minlength=(len(components.voxels) + 1) * steps)
    table = table.reshape(-1, steps)[1:, 1:]
    reached = np.asarray(thresholds, np.float64)
    top = np.where(table > 0, reached, 0.0).max(axis=1, initial=0.0)
    return top, table @ reached / components.voxels


def _distance_mm(
    voxels: NDArray[np.int64], organ: NDArray[np.bool_], grid: Grid, limit_mm: float
) -> float:
    """Return the smallest distance between centers of voxels and organ; inf above the limit."""
    if organ[tuple(voxels.T)].any():
        return 0.0
    # How many voxels along each index a ball of the limit spans, on any affine.
    steps = np.linalg.norm(np.linalg.inv(grid.affine[:3, :3]), axis=1)[::-1]
    reach = np.ceil(limit_mm * steps).astype(int)
    low = np.maximum(voxels.min(axis=0) - reach, 0)
    near = np.argwhere(organ[tuple(map(slice, low, voxels.max(axis=0) + reach + 1))]) + low
    if len(near) == 0:
        return float("inf")
    columns_mm = grid.affine[:3, 2::-1].T
    distances, _ = KDTree(near @ columns_mm).query(voxels @ columns_mm)
    return float(distances.min())


def _candidate_id(
    voxels: NDArray[np.int64], shape: tuple[int, ...], case_id: str, organ: str
) -> str:
    """Hash what a candidate is: case, organ, grid shape and runs of native voxels.

    Not the model: people decide on voxels, and the same voxels of another model are the same.
    """
    flat = np.ravel_multi_index(tuple(voxels.T), shape)
    starts = np.flatnonzero(np.diff(flat, prepend=-2) != 1)
    lengths = np.diff(starts, append=len(flat))
    runs = np.column_stack([flat[starts], lengths]).astype("<i8").tobytes()
    head = to_json([case_id, organ, list(shape)])
    return sha256_bytes(head.encode() + b"\n" + runs)[:ID_DIGITS]
