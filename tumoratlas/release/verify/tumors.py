"""The check of a case's instance maps against its masks and its rows of ``tumors``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.structures import tumor_structures
from tumoratlas.images.components import Box
from tumoratlas.images.grid import Grid
from tumoratlas.measure.instances import Instance, is_below, measure_instances, size_class
from tumoratlas.release.cases import POOLED, segmentation, tumor_files
from tumoratlas.release.verify.problems import Problems
from tumoratlas.release.verify.rows import LESION
from tumoratlas.release.verify.voxels import Part

# Headers hold the affine in 32 bits: 1e-4 mm at a metre from the origin.
_RELATIVE, _ABSOLUTE = 1e-5, 1e-2
_EXACT = ("voxels", "bbox", "touches_border", "is_fragment")
_SIZES = ("volume_mm3", "radius_mm", "longest_axial_mm", "perpendicular_mm", "max_3d_mm")
_CLOSE = (*_SIZES, "centroid_lps_mm")
_OF_SCAN = ("mean_hu", "sd_hu")
_MOST_LABELS = int(np.iinfo(np.uint16).max) + 1


@dataclass(frozen=True)
class ReleasedCase:
    """What the release says of one case; None where that could not be read.

    Attributes
    ----------
    case_id
        Its id.
    sums
        Listed SHA-256 of its volumes, by path below the release.
    voxels
        Listed hash of their voxels, by path below the release.
    masks
        Its rows of the table ``masks``.
    tumors
        Its rows of the table ``tumors``.
    definitions
        Content of ``definitions.json``.
    hides_tumors
        Some tumors of it are known and withheld.
    """

    case_id: str
    sums: Mapping[str, str]
    voxels: Mapping[str, str]
    masks: Sequence[Mapping[str, Any]] | None
    tumors: Sequence[Mapping[str, Any]] | None
    definitions: Mapping[str, Any] | None
    hides_tumors: bool


def check_organ(
    part: Part,
    drawn: Mapping[str, Part],
    organ: str,
    state: str,
    ct: NDArray[np.int16] | None,
    grid: Grid,
    case: ReleasedCase,
    problems: Problems,
) -> None:
    """Check an organ's instance map against its state, its masks and its tumors.

    Parameters
    ----------
    part
        The instance map.
    drawn
        Masks of tumors and cysts by name; one without a file is not in it.
    organ, state
        The organ, and its state in the table ``masks``.
    ct
        The scan, int16 HU (z, y, x); None where the release or the copy has none.
    grid
        Grid of the case.
    case
        What the release says of it.
    problems
        What is found wrong goes here.
    """
    subject = f"{case.case_id}/{tumor_files(organ)[2]}"
    if (part.array.size > 0) != (state == "present"):
        problems.add("STATE", subject, f"its organ is {state}, the instance map says otherwise")
    if case.tumors is None:
        return
    rows = [row for row in case.tumors if (row["organ"], row["lesion_kind"] == LESION)
            == (organ, False)]  # fmt: skip
    is_cyst = np.zeros(_MOST_LABELS, bool)
    is_cyst[[row["number"] for row in rows if row["lesion_kind"] == "cyst"]] = True
    in_cyst = is_cyst[part.array]
    expected = {
        tumor_structures()[organ].name: (part.array > 0) & ~in_cyst,
        f"{organ}_cyst": in_cyst,
    }
    for name, inside in expected.items():
        is_unread = f"label/{case.case_id}/{segmentation(name)}" in case.sums and name not in drawn
        if is_unread:  # told where it was read
            continue
        different = _differences(drawn.get(name), Part(part.box, inside))
        if different:
            told = f"{different} voxels differ from {name}"
            problems.add("INSTANCES", subject, told)
    _check_rows(part, rows, subject, ct, grid, case.definitions, problems)


def check_pooled(
    part: Part | None,
    drawn: Mapping[str, Part],
    ct: NDArray[np.int16] | None,
    grid: Grid,
    case: ReleasedCase,
    problems: Problems,
) -> None:
    """Check the map of pooled lesions against their rows, and that no instance shows one again.

    ``part`` is None where there is no map; the others are those of `check_organ`, and ``drawn``
    holds the instance maps by the name of their file, too.
    """
    subject = f"{case.case_id}/{POOLED}"
    if case.tumors is not None:
        rows = [row for row in case.tumors if row["lesion_kind"] == LESION]
        empty = Part((slice(0, 0),) * 3, np.zeros((0, 0, 0), np.uint16))
        is_missing = part is None and f"label/{subject}" in case.sums  # told where it was read
        if not is_missing:
            _check_rows(part or empty, rows, subject, ct, grid, case.definitions, problems)
    for organ in tumor_structures():
        settled = drawn.get(tumor_files(organ)[2])
        if part is not None and settled is not None and (shared := _shared(part, settled)):
            told = f"{shared} voxels belong to instances of {organ}, too"
            problems.add("INSTANCES", subject, told)


def _check_rows(
    part: Part,
    rows: Sequence[Mapping[str, Any]],
    subject: str,
    ct: NDArray[np.int16] | None,
    grid: Grid,
    definitions: Mapping[str, Any] | None,
    problems: Problems,
) -> None:
    """Measure every instance again."""
    by_number = {row["number"]: row for row in rows}
    labels = {int(n) for n in np.flatnonzero(np.bincount(part.array.ravel(), minlength=1)) if n}
    if labels != set(by_number):
        told = f"tumors has the numbers {sorted(by_number)}, the map {sorted(labels)}"
        problems.add("TUMORS", subject, told)
    if definitions is None or not labels & set(by_number):
        return
    for found in _measure(part, ct, grid, definitions):
        if row := by_number.get(found.label):
            checked = (*_EXACT, *_CLOSE, *(() if ct is None else _OF_SCAN))
            for name, value in _wrong(row, found, checked, definitions).items():
                told = f"{name} of {found.label} is {row[name]}, not {value}"
                problems.add("TUMORS", subject, told)


def _measure(
    part: Part, ct: NDArray[np.int16] | None, grid: Grid, definitions: Mapping[str, Any]
) -> list[Instance]:
    """Measure the instances on the part of the grid that holds any."""
    start = np.array([side.start for side in part.box])
    affine = grid.affine
    affine[:3, 3] += affine[:3, :3] @ start[::-1]
    found = measure_instances(
        part.array,
        None if ct is None else ct[part.box],
        Grid.of(part.array.shape, affine),
        size_edges_mm=definitions["size_edges_mm"],
        early_diameter_mm=definitions["early_diameter_mm"],
        minimum_volume_mm3=definitions["minimum_volume_mm3"],
    )
    moved = []
    for instance in found:
        low, high = np.array(instance.bbox[:3]) + start, np.array(instance.bbox[3:]) + start
        touches = bool((low == 0).any() or (high == grid.shape).any())
        bbox = tuple(map(int, (*low, *high)))
        moved.append(replace(instance, bbox=bbox, touches_border=touches))
    return moved


def _wrong(
    row: Mapping[str, Any],
    found: Instance,
    names: Sequence[str],
    definitions: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what should stand in the row's wrong columns."""
    wrong = {
        name: getattr(found, name)
        for name in names
        if not _is_close(row[name], getattr(found, name), 0 if name in _EXACT else _ABSOLUTE)
    }
    # Classes follow from the row's own numbers, which hold more digits than a header does.
    early_mm = definitions["early_diameter_mm"]
    classes = {
        "size_class": size_class(row["radius_mm"], definitions["size_edges_mm"]),
        "is_early": is_below(2 * row["radius_mm"], early_mm),
        "is_early_recist": is_below(row["longest_axial_mm"], early_mm),
    }
    return wrong | {name: value for name, value in classes.items() if row[name] != value}


def _is_close(stated: object, found: object, tolerance: float) -> bool:
    if isinstance(found, tuple):
        return len(stated or ()) == len(found) and all(
            _is_close(a, b, tolerance) for a, b in zip(stated, found, strict=True)
        )
    if stated is None or found is None or not tolerance:
        return stated == found
    return math.isclose(stated, found, rel_tol=_RELATIVE, abs_tol=tolerance)


def _overlap(a: Box, b: Box) -> Box:
    pairs = zip(a, b, strict=True)
    return tuple(slice(max(p.start, q.start), min(p.stop, q.stop)) for p, q in pairs)


def _inside(part: Part, box: Box) -> NDArray[np.bool_]:
    """Return what is non-zero of a part in a box within its own."""
    moved = (
        slice(p.start - own.start, max(p.start, p.stop) - own.start)
        for p, own in zip(box, part.box, strict=True)
    )
    return part.array[tuple(moved)] != 0


def _shared(a: Part, b: Part) -> int:
    """Return in how many voxels two parts both hold something."""
    box = _overlap(a.box, b.box)
    if any(side.stop <= side.start for side in box):
        return 0
    return int(np.count_nonzero(_inside(a, box) & _inside(b, box)))


def _differences(a: Part | None, b: Part) -> int:
    """Return in how many voxels just one of two parts holds something."""
    filled = int(np.count_nonzero(b.array))
    return filled if a is None else filled + int(np.count_nonzero(a.array)) - 2 * _shared(a, b)
