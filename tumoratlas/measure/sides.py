"""Left or right: which kidney a tumor belongs to."""

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from tumoratlas.core.structures import structure_bit
from tumoratlas.images.components import find_components
from tumoratlas.measure.nearest import FARTHEST_MM, nearest_structure

SIDES = ("left", "right")
# Two kidneys: the smaller has at least this share of the larger one's voxels, and their centers
# lie this far apart from left to right. A horseshoe kidney or a single one has no sides here.
_LEAST_SHARE, _LEAST_APART_MM = 0.1, 50.0


def kidney_side(
    lesion: NDArray[np.bool_],
    box: tuple[slice, ...],
    planes: NDArray[np.uint32],
    spacing_mm: NDArray[np.float64],
) -> str:
    """Return the side of a tumor: of the kidney that holds more of its voxels, or is nearest.

    A label map with one value a voxel leaves a hole in the kidney where its tumor is.

    Parameters
    ----------
    lesion
        The tumor's voxels, bool (z, y, x), in the box.
    box
        Its place in the scan.
    planes
        Bit planes of the organs, uint32 (z, y, x); see `with_sides`.
    spacing_mm
        Along (z, y, x), which are at right angles.

    Returns
    -------
    ``left`` or ``right``; empty where both hold as much, or none is within `FARTHEST_MM`.
    """
    bits = {side: np.uint32(structure_bit(f"kidney_{side}")) for side in SIDES}
    counts = [int(np.count_nonzero(planes[box][lesion] & bit)) for bit in bits.values()]
    if any(counts):
        return "" if counts[0] == counts[1] else SIDES[int(np.argmax(counts))]
    margin = np.ceil(FARTHEST_MM / spacing_mm).astype(int)
    grown = tuple(slice(max(0, p.start - m), p.stop + m) for p, m in zip(box, margin, strict=True))
    around = planes[grown]
    inside = np.zeros(around.shape, bool)
    start = [p.start - g.start for p, g in zip(box, grown, strict=True)]
    inside[tuple(slice(s, s + n) for s, n in zip(start, lesion.shape, strict=True))] = lesion
    masks = {side: (around & bit) != 0 for side, bit in bits.items()}
    return nearest_structure(inside, masks, spacing_mm)


def with_sides(
    planes: NDArray[np.uint32], tumors: NDArray[np.bool_], spacing_mm: NDArray[np.float64]
) -> NDArray[np.uint32]:
    """Return the bit planes with both kidneys, where a source labels them as one (KiTS).

    The two largest connected parts of kidneys and tumors are the kidneys; smaller parts belong
    to the one whose center is nearer from left to right. Planes that know a side, or whose
    parts are not clearly two kidneys, are returned as they are.

    Parameters
    ----------
    planes
        uint32 (z, y, x) on an RAS+ grid: x grows toward the patient's right.
    tumors
        Tumors and cysts of the kidneys, bool (z, y, x), which may be holes in them.
    spacing_mm
        Along (z, y, x).
    """
    left, right, both = (
        np.uint32(structure_bit(name)) for name in ("kidney_left", "kidney_right", "kidney")
    )
    if (planes & (left | right)).any() or not (planes & both).any():
        return planes
    parts = find_components(((planes & both) != 0) | tumors, connectivity=26)
    if len(parts.voxels) < 2 or parts.voxels[1] < _LEAST_SHARE * parts.voxels[0]:
        return planes
    numbers = np.arange(1, len(parts.voxels) + 1)
    centers = np.array(ndi.center_of_mass(parts.labels > 0, parts.labels, numbers))[:, 2]
    if abs(centers[0] - centers[1]) * spacing_mm[2] < _LEAST_APART_MM:
        return planes
    middle = (centers[0] + centers[1]) / 2
    bits = np.zeros(len(numbers) + 1, np.uint32)
    bits[1:] = np.where(centers > middle, right, left)
    known = planes.copy()
    known[parts.box] |= bits[parts.labels]
    return known
