"""Tumors that a source labels without naming their organ (FLARE), and the organ of each.

Such a lesion counts only where nothing better is known: one that overlaps a settled tumor or
cyst is that tumor, and where an organ's tumors are settled, nothing is added to them.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from tumoratlas.core.errors import GeometryError
from tumoratlas.core.structures import organ_mask, tumor_structures
from tumoratlas.images.grid import Grid
from tumoratlas.measure.instances import label_instances
from tumoratlas.measure.nearest import FARTHEST_MM, nearest_structure
from tumoratlas.measure.sides import kidney_side

UNASSIGNED = "unassigned"


@dataclass(frozen=True)
class Contradiction:
    """A pooled lesion in an organ whose settled tumors do not have it.

    Attributes
    ----------
    organ
        The organ it would belong to.
    voxels
        Its voxel count.
    first_voxel
        Its first voxel (z, y, x) in raster order.
    """

    organ: str
    voxels: int
    first_voxel: tuple[int, int, int]


@dataclass(frozen=True)
class PooledLesions:
    """What became of the connected components of a pooled mask.

    Attributes
    ----------
    instances
        uint16 (z, y, x): 0 background, 1 .. n the lesions that count, by descending size, ties
        by first voxel in raster order.
    organs, sides
        By label: one of the six organs or `UNASSIGNED`; ``left`` or ``right`` for a kidney
        whose side is known, else empty.
    contradicted
        Lesions that do not count, by descending size.
    represented
        Number of components that overlap a settled tumor or cyst.
    """

    instances: NDArray[np.uint16]
    organs: dict[int, str]
    sides: dict[int, str]
    contradicted: tuple[Contradiction, ...]
    represented: int


def pooled_map(
    pooled: NDArray[np.uint8],
    planes: NDArray[np.uint32],
    settled: NDArray[np.bool_],
    known: Collection[str],
    grid: Grid,
    *,
    connectivity: int,
) -> PooledLesions:
    """Split a pooled mask into lesions and find the organ of each (`nearest_structure`).

    Parameters
    ----------
    pooled
        uint8 (z, y, x), non-zero where a tumor of an unnamed organ is labelled.
    planes
        Bit planes of the organs, uint32 (z, y, x).
    settled
        bool (z, y, x): every tumor and cyst of the organs whose state is known.
    known
        Those organs, also the ones confirmed empty.
    grid
        Grid of all three; its axes are at right angles.
    connectivity
        6, 18 or 26 neighbours.

    Raises
    ------
    GeometryError
        An array does not have the grid's shape.
    InputError
        ``TOO_MANY_INSTANCES``, see `label_instances`.
    """
    for name, array in (("pooled mask", pooled), ("organs", planes), ("tumors", settled)):
        if array.shape != grid.shape:
            raise GeometryError(
                "SHAPE_MISMATCH",
                name,
                f"has shape {array.shape}, its grid {grid.shape}",
                remedy="Harmonize the case and merge its masks again.",
            )
    components = label_instances(pooled, connectivity)
    instances = np.zeros(grid.shape, np.uint16)
    organs: dict[int, str] = {}
    sides: dict[int, str] = {}
    contradicted = []
    represented = 0
    spacing_mm = np.array(grid.spacing_mm[::-1])
    reach = np.ceil(FARTHEST_MM / spacing_mm).astype(int)
    for label, box in enumerate(ndi.find_objects(components), start=1):
        lesion = components[box] == label
        if (settled[box] & lesion).any():
            represented += 1
            continue
        # Whatever is near enough lies in this box.
        near = tuple(
            slice(max(0, p.start - r), p.stop + r) for p, r in zip(box, reach, strict=True)
        )
        inside, around = components[near] == label, planes[near]
        masks = {organ: organ_mask(around, organ) for organ in tumor_structures()}
        organ = nearest_structure(inside, masks, spacing_mm) or UNASSIGNED
        if organ in known:
            first = np.argwhere(lesion)[0] + [part.start for part in box]
            count = int(np.count_nonzero(lesion))
            contradicted.append(Contradiction(organ, count, tuple(map(int, first))))
            continue
        number = len(organs) + 1
        organs[number] = organ
        sides[number] = kidney_side(lesion, box, planes, spacing_mm) if organ == "kidney" else ""
        instances[box][lesion] = number
    return PooledLesions(instances, organs, sides, tuple(contradicted), represented)
