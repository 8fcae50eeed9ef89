"""Volumes packed into the text of a page: cut out, as NIfTI, gzipped, in base64."""

from __future__ import annotations

import base64
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.files import sha256_bytes
from tumoratlas.images.components import Box
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import nifti_bytes

_LEVEL = 9


class PackedVolumes:
    """Packed volumes, each once however often it is shown."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._new: list[dict[str, str]] = []

    def add(self, array: NDArray[Any], grid: Grid) -> str:
        """Pack a volume unless its like is there, and return its id."""
        data = nifti_bytes(array, grid)
        name = f"volume-{sha256_bytes(data)[:20]}"
        if name not in self._known:
            self._known.add(name)
            packed = imagecodecs.gzip_encode(data, _LEVEL)
            self._new.append({"id": name, "text": base64.b64encode(packed).decode("ascii")})
        return name

    def take(self) -> list[dict[str, str]]:
        """Return what was added since the last time."""
        new, self._new = self._new, []
        return new


def widened(box: Box, grid: Grid, margin_mm: tuple[float, float, float]) -> Box:
    """Return a (z, y, x) box with a margin along the patient's (x, y, z), clipped to the grid."""
    # The voxel axes may be permuted against the patient's: each gets its own axis' margin.
    axes = np.abs(grid.affine[:3, :3]).argmax(axis=0)
    margins = np.ceil(np.array(margin_mm)[axes] / grid.spacing_mm).astype(int)[::-1]
    out = [
        slice(max(0, part.start - int(margin)), min(size, part.stop + int(margin)))
        for part, margin, size in zip(box, margins, grid.shape, strict=True)
    ]
    return out[0], out[1], out[2]


def cropped(grid: Grid, box: Box) -> Grid:
    """Return the grid of the voxels in a (z, y, x) box, each where it was."""
    affine = grid.affine
    affine[:3, 3] = (affine @ [*(part.start for part in box[::-1]), 1.0])[:3]
    return Grid.of(tuple(part.stop - part.start for part in box), affine)
