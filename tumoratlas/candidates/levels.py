"""Level maps: probabilities stored as the number of grid thresholds they reach.

One byte per voxel that compresses to a hundredth of the probabilities, yet gives the exact
mask at every threshold of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tumoratlas.images.arrays import read_array, write_array
from tumoratlas.images.grid import Grid


@dataclass(frozen=True)
class LevelMap:
    """A stored level map.

    Attributes
    ----------
    levels
        uint8 (z, y, x): ``levels > k`` is the mask of ``probability >= thresholds[k]``.
    thresholds
        Increasing probabilities.
    grid
        Grid of the levels.
    model_id
        Registered model that gave the probabilities.
    """

    levels: NDArray[np.uint8]
    thresholds: tuple[float, ...]
    grid: Grid
    model_id: str


def level_map(probability: NDArray[np.float32], thresholds: Sequence[float]) -> NDArray[np.uint8]:
    """Count, per voxel, the thresholds that the probability reaches.

    ``level > k`` holds exactly where ``float(probability) >= thresholds[k]``, the comparison
    of real numbers: float32 widens without loss.

    Parameters
    ----------
    probability
        float32, any shape, no NaN.
    thresholds
        At most 255 strictly increasing values.

    Returns
    -------
    uint8 levels of the same shape.
    """
    exact = np.asarray(thresholds, dtype=np.float64)
    if not 1 <= len(exact) <= 255 or not (np.diff(exact) > 0).all():
        raise ValueError(f"thresholds must be 1 to 255 increasing values, got {exact.tolist()}")
    # The smallest float32 that is not below a threshold separates the same float32 values,
    # and lets the search run without widening the volume.
    bounds = exact.astype(np.float32)
    low = bounds.astype(np.float64) < exact
    bounds[low] = np.nextafter(bounds[low], np.float32(np.inf))
    levels = np.zeros(probability.shape, dtype=np.uint8)
    reached = probability >= bounds[0]
    levels[reached] = np.searchsorted(bounds, probability[reached], side="right")
    return levels


def write_levels(
    path: Path,
    levels: NDArray[np.uint8],
    thresholds: Sequence[float],
    grid: Grid,
    model_id: str,
) -> None:
    """Write a level map (uint8, z, y, x) with its thresholds, grid and model, as ``.b2nd``."""
    write_array(
        path,
        levels,
        thresholds=[float(value) for value in thresholds],
        grid=grid.to_json(),
        model_id=model_id,
    )


def read_levels(path: Path) -> LevelMap:
    """Read `write_levels` output; `InputError` ``ARRAY_DAMAGED`` if it is damaged."""
    levels, meta = read_array(path)
    return LevelMap(
        levels, tuple(meta["thresholds"]), Grid.from_json(meta["grid"]), meta["model_id"]
    )
