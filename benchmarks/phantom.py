"""An abdomen of ellipsoids with noise and tumors: the size and file size of a CT, no patient."""

from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

# 512 x 0.796875 mm = 272 x 1.5 mm and 150 x 2.5 mm = 250 x 1.5 mm: every method's 1.5 mm grid
# is the same grid, and no weight is one half.
SPACING_MM = (0.796875, 0.796875, 2.5)
# Value, center as a share of the volume (z, y, x), half axes in mm (z, y, x), HU.
ORGANS = {
    "liver": (1, (0.62, 0.45, 0.34), (75, 85, 75), 105),
    "spleen": (2, (0.66, 0.42, 0.70), (45, 45, 35), 115),
    "kidney": (3, (0.40, 0.62, 0.38), (55, 30, 28), 150),
    "pancreas": (4, (0.48, 0.46, 0.54), (14, 16, 60), 95),
    "colon": (5, (0.22, 0.34, 0.46), (40, 35, 70), 40),
}
TUMORS = {"liver": 6, "kidney": 7, "pancreas": 8, "colon": 9}


@dataclass(frozen=True)
class Phantom:
    """The files of a phantom, and what lies in them.

    Attributes
    ----------
    image, labels
        ``.nii.gz`` files, indices growing toward left and posterior (LPS) as scanners write.
    hu, values
        Their voxels: int16 HU and uint8 `ORGANS` and `TUMORS` (z, y, x).
    """

    image: Path
    labels: Path
    hu: NDArray[np.int16]
    values: NDArray[np.uint8]


def write_phantom(folder: Path, shape: tuple[int, int, int], tumors: int, seed: int) -> Phantom:
    """Write a phantom of this (z, y, x) shape; equal arguments give equal voxels."""
    rng = np.random.default_rng(seed)
    # In a smaller volume the organs shrink with it.
    extent = np.array(shape) * SPACING_MM[::-1]
    scale = extent / (np.array((150, 512, 512)) * SPACING_MM[::-1])
    places = np.ogrid[tuple(slice(n) for n in shape)]
    z, y, x = (p.astype(np.float32) * s for p, s in zip(places, SPACING_MM[::-1], strict=True))
    warp = _smooth(rng, shape, (24, 64, 64))
    body = ((y / extent[1] - 0.5) / 0.34) ** 2 + ((x / extent[2] - 0.5) / 0.43) ** 2
    body = body + 0.05 * warp < 1
    hu = np.where(body, np.float32(30), np.float32(-1000))
    hu += np.where(body, 25 * _smooth(rng, shape, (4, 10, 10)), 0)
    values = np.zeros(shape, np.uint8)
    for value, center, half, level in ORGANS.values():
        middle, axes = np.array(center) * extent, np.array(half) * scale
        terms = (((p - c) / a) ** 2 for p, c, a in zip((z, y, x), middle, axes, strict=True))
        inside = (sum(terms) + 0.2 * warp < 1) & (values == 0)
        values[inside] = value
        hu[inside] = level
    grown = 0
    while grown < tumors:
        organ = list(TUMORS)[rng.integers(len(TUMORS))]
        value, center, half, level = ORGANS[organ]
        radius = float(np.clip(rng.lognormal(np.log(6.5), 0.6), 2, 30) * scale.min())
        middle = np.array(center) * extent + rng.uniform(-0.7, 0.7, 3) * half * scale
        low = np.maximum((middle - radius) / SPACING_MM[::-1] - 1, 0).astype(int)
        high = ((middle + radius) / SPACING_MM[::-1] + 2).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        near = (z[box[0]], y[:, box[1]], x[:, :, box[2]])
        ball = sum((p - c) ** 2 for p, c in zip(near, middle, strict=True)) < radius**2
        ball &= values[box] == value
        if ball.any():
            values[box][ball] = TUMORS[organ]
            hu[box][ball] = level - 45
            grown += 1
    hu = ndi.gaussian_filter(hu, (0.3, 0.7, 0.7))
    for part in hu:
        noise = ndi.gaussian_filter(rng.standard_normal(part.shape, np.float32), 0.6)
        part += noise * np.float32(14 / noise.std())
    outside = ((y - extent[1] / 2) ** 2 + (x - extent[2] / 2) ** 2) > (extent[1] / 2) ** 2
    hu[np.broadcast_to(outside, shape)] = -1024
    voxels = np.rint(np.clip(hu, -1024, 3071)).astype(np.int16)
    # As sources are packed: an ordinary header, gzip level 6.
    image, labels = folder / "phantom_ct.nii.gz", folder / "phantom_labels.nii.gz"
    for path, array in ((image, voxels), (labels, values)):
        affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1])
        nifti = nib.Nifti1Image(array.transpose(2, 1, 0), affine)
        nifti.header.set_xyzt_units("mm")
        path.write_bytes(imagecodecs.gzip_encode(nifti.to_bytes(), 6))
    return Phantom(image, labels, voxels, values)


def _smooth(
    rng: np.random.Generator, shape: tuple[int, ...], cell: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return a smooth random field with features of about ``cell`` voxels."""
    coarse = [max(2, -(-n // c) + 2) for n, c in zip(shape, cell, strict=True)]
    field = rng.standard_normal(coarse, np.float32)
    return ndi.zoom(field, [n / c for n, c in zip(shape, coarse, strict=True)], order=1)
