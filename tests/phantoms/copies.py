"""What a source makes of a patient's scan: crops, resampled copies, other voxel values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tests.phantoms.anatomy import Box, Phantom, box_of, crop
from tests.phantoms.cast import Scan

RESAMPLED_MM = 2.0
MINI_HU = (-100, 100)
PADDING_HU = -3024


def stored(phantom: Phantom, scan: Scan) -> tuple[Phantom, Box | None]:
    """Return what a scan shows of its patient.

    Returns
    -------
    The phantom, changed as ``scan.copy`` says, on its true grid; and its box on the patient's
    grid, first voxel and the one past the last (z, y, x), None where it was resampled.
    """
    if scan.copy == "resample":
        return _resampled(phantom), None
    box = ((0, 0, 0), phantom.grid.shape)
    if scan.copy == "mini":
        box = _body_box(phantom.image)
    elif scan.copy == "crop":
        first = tuple(low for low, _ in scan.margins[::-1])
        last = tuple(n - high for n, (_, high) in zip(box[1], scan.margins[::-1], strict=True))
        box = (first, last)
    return crop(phantom, box), box


def padded(image: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return an image (z, y, x) with the scanner's padding outside its round field of view."""
    _, height, width = image.shape
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.where(x**2 + y**2 > 1.15, np.int16(PADDING_HU), image)


def cut_masks(masks: dict[str, NDArray[np.bool_]], box: Box) -> list[str]:
    """Return the names of the masks (z, y, x) that a box cuts off the grid, or might.

    A mask that ends in the box's outermost plane, beyond which the grid goes on, cannot be told
    from one that was cut.
    """
    first, end = box
    names = []
    for name, mask in masks.items():
        inside = mask[tuple(slice(a, b) for a, b in zip(first, end, strict=True))]
        for axis, count in enumerate(mask.shape):
            plane = np.moveaxis(inside, axis, 0)
            low, high = first[axis] > 0, end[axis] < count
            if (low and plane[0].any()) or (high and plane[-1].any()):
                names.append(name)
                break
    return names


def _body_box(image: NDArray[np.int16]) -> Box:
    """Return the box of the largest connected part of soft tissue, the parent's way to crop."""
    low, high = MINI_HU
    labels, count = ndimage.label((image > low) & (image < high))
    return box_of(labels == 1 + np.argmax(np.bincount(labels.ravel())[1 : count + 1]))


def _resampled(phantom: Phantom) -> Phantom:
    grid = phantom.grid.with_spacing(RESAMPLED_MM)
    to_native = np.linalg.inv(phantom.grid.affine) @ grid.affine
    axes = [
        np.arange(n) * to_native[2 - axis, 2 - axis] + to_native[2 - axis, 3]
        for axis, n in enumerate(grid.shape)
    ]
    places = np.meshgrid(*axes, indexing="ij")

    def at(volume: NDArray[np.floating]) -> NDArray[np.float32]:
        return ndimage.map_coordinates(volume, places, order=1, mode="nearest", prefilter=False)

    def half(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return at(mask.astype(np.float32)) >= 0.5

    instances = np.zeros(grid.shape, np.uint16)
    for number in range(1, len(phantom.lesions) + 1):
        instances[half(phantom.instances == number)] = number
    image = np.rint(at(phantom.image.astype(np.float32))).astype(np.int16)
    masks = {name: half(mask) for name, mask in phantom.masks.items()}
    return replace(phantom, grid=grid, image=image, masks=masks, instances=instances)
