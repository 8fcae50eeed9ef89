"""The structure that a lesion belongs to: by overlap, then by distance."""

from collections.abc import Mapping

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

# A lesion farther than this from all six organs belongs to none of them, such as one in a lymph
# node or in the lung.
FARTHEST_MM = 20.0


def nearest_structure(
    lesion: NDArray[np.bool_],
    masks: Mapping[str, NDArray[np.bool_]],
    spacing_mm: NDArray[np.float64],
) -> str:
    """Return the structure that a lesion belongs to, empty if none is within `FARTHEST_MM`.

    The one that shares most voxels with it; if none shares any, the one whose nearest voxel
    center is nearest to one of the lesion's. Label maps with one value a voxel leave a hole in
    the organ where its tumor is, so that a tumor at its edge touches the neighbour, too:
    structures whose distances differ by less than the diagonal of a voxel are equally near, and
    the one that most of the lesion's voxels are nearest to is taken. The order of ``masks``
    settles ties.

    Parameters
    ----------
    lesion
        bool (z, y, x), with a margin of `FARTHEST_MM` or up to the border of the scan.
    masks
        Structures by name, bool (z, y, x).
    spacing_mm
        Along (z, y, x), which are at right angles.
    """
    shared = {name: int(np.count_nonzero(lesion & mask)) for name, mask in masks.items()}
    if any(shared.values()):
        return max(shared, key=shared.__getitem__)
    distances_mm = {
        name: ndi.distance_transform_edt(~mask, sampling=spacing_mm)[lesion]
        for name, mask in masks.items()
        if mask.any()
    }
    least = {name: float(values.min()) for name, values in distances_mm.items()}
    limit = min(FARTHEST_MM, min(least.values(), default=0.0) + float(np.linalg.norm(spacing_mm)))
    near = [name for name, value in least.items() if value <= limit]
    if not near:
        return ""
    far_mm = np.array([distances_mm[name] for name in near])
    # Voxels that are far from all have no vote: what is near to them may lie beyond the margin.
    votes = np.bincount(np.argmin(far_mm[:, far_mm.min(axis=0) <= FARTHEST_MM], axis=0))
    return near[int(np.argmax(votes))]
