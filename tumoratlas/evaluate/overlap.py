"""Overlap of two masks by volume."""

import math

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import GeometryError
from tumoratlas.images.components import Box, foreground_box


def dice(truth: NDArray[np.generic], prediction: NDArray[np.generic]) -> float:
    """Return the Dice similarity coefficient, 2 |A and B| / (|A| + |B|) (Dice 1945).

    Parameters
    ----------
    truth, prediction
        Bool or integer (z, y, x); any non-zero voxel counts.

    Returns
    -------
    0 to 1; NaN where both are empty, 0 where one is.

    Raises
    ------
    GeometryError
        The masks differ in shape.

    Examples
    --------
    >>> dice(np.array([[[1, 1, 0]]]), np.array([[[0, 1, 0]]]))
    0.6666666666666666
    """
    box = union_box(truth, prediction)
    a, b = truth[box] != 0, prediction[box] != 0
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / total) if total else math.nan


def union_box(truth: NDArray[np.generic], prediction: NDArray[np.generic]) -> Box:
    """Return the smallest box of the non-zero voxels of either mask; empty if there is none.

    Raises
    ------
    GeometryError
        The masks differ in shape.
    """
    if truth.shape != prediction.shape:
        raise GeometryError(
            "SHAPE_MISMATCH",
            "prediction",
            f"has shape {prediction.shape}, the truth {truth.shape}",
            remedy="Bring the prediction onto the native grid of the case.",
        )
    boxes = [box for box in map(foreground_box, (truth, prediction)) if box[0].stop]
    if not boxes:
        return (slice(0, 0),) * 3
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in zip(*boxes, strict=True)
    )
