"""nnU-Net's sliding window over a part of a scan.

The tiles lie where nnU-Net's would for the whole scan and are weighted and added as there, in
the same order and half precision, so that inside the region the logits are the same to the bit
wherever every tile is run. Tiles that hardly weigh anywhere in the region are not run.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tumoratlas.candidates.region import Box

if TYPE_CHECKING:
    import torch
    from torch import nn

# nnU-Net's weights: a Gaussian of an eighth of the patch, with 10 at its center.
_SIGMA = 1 / 8
_PEAK = 10
# A tile is left out where all others together weigh 99 times as much, everywhere in the region.
MINIMUM_SHARE = 0.01


@dataclass(frozen=True)
class Tiles:
    """The tiles to run on a scan.

    Attributes
    ----------
    starts
        First voxel (z, y, x) of each tile on the padded scan, in nnU-Net's order.
    whole
        Number of tiles of the whole scan.
    patch
        Shape of a tile.
    """

    starts: tuple[tuple[int, int, int], ...]
    whole: int
    patch: tuple[int, int, int]


def choose_tiles(
    region: NDArray[np.bool_],
    patch: Sequence[int],
    step: float,
    minimum_share: float = MINIMUM_SHARE,
) -> Tiles:
    """Choose the tiles whose weight counts somewhere in a region.

    Parameters
    ----------
    region
        bool (z, y, x) on the padded scan: at least as large as the patch.
    patch
        Shape of a tile.
    step
        Step between tiles as a fraction of the patch.
    minimum_share
        Tiles with a smaller share of the summed weights everywhere in the region are left out;
        0 takes every tile that touches the region.
    """
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    steps = compute_steps_for_sliding_window(region.shape, tuple(patch), step)
    shares = [_shares(*facts) for facts in zip(region.shape, patch, steps, strict=True)]
    chosen = []
    for tile in itertools.product(*(range(len(s)) for s in steps)):
        start = tuple(steps[axis][number] for axis, number in enumerate(tile))
        inside = region[tuple(slice(a, a + n) for a, n in zip(start, patch, strict=True))]
        if not inside.any():
            continue
        most = inside.astype(np.float32)
        for axis in (2, 1, 0):
            most = (most * shares[axis][tile[axis]]).max(axis=-1)
        if most >= minimum_share:
            chosen.append(start)
    return Tiles(tuple(chosen), int(np.prod([len(s) for s in steps])), tuple(patch))


def _shares(length: int, patch: int, starts: Sequence[int]) -> NDArray[np.float32]:
    """Return each tile's share of the weights along one axis, (tiles, patch).

    Tiles lie on a grid and a Gaussian is a product, so that shares multiply over the axes.
    """
    weight = np.exp(-0.5 * ((np.arange(patch) - patch // 2) / (_SIGMA * patch)) ** 2)
    total = np.zeros(length)
    for start in starts:
        total[start : start + patch] += weight
    return np.stack([weight / total[start : start + patch] for start in starts], dtype=np.float32)


def tile_logits(
    network: nn.Module,
    data: torch.Tensor,
    box: Box,
    tiles: Tiles,
    *,
    heads: int,
    mirror_axes: Sequence[int],
    at_once: int,
    accumulate_on: torch.device,
) -> torch.Tensor:
    """Return the weighted mean logits of a box, as nnU-Net's predictor for one fold.

    Parameters
    ----------
    network
        In evaluation mode, on the device that computes.
    data
        float32 (channel, z, y, x), the padded scan, anywhere.
    box
        What is returned of it.
    tiles
        From `choose_tiles`.
    heads
        Output channels of the network.
    mirror_axes
        Axes (of z, y, x) over whose mirrored inputs the logits are averaged; empty for none.
    at_once
        Mirrored inputs per batch. With 1 the sums are nnU-Net's to the bit.
    accumulate_on
        Where the sums are kept.

    Returns
    -------
    float16 (head, z, y, x) of the box on ``accumulate_on``; 0 where no tile was run.
    """
    import torch
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    device = next(network.parameters()).device
    gaussian = compute_gaussian(tiles.patch, _SIGMA, _PEAK, device=accumulate_on)
    shape = [side.stop - side.start for side in box]
    with torch.inference_mode():
        data = data.to(accumulate_on)
        logits = torch.zeros((heads, *shape), dtype=torch.half, device=accumulate_on)
        weights = torch.zeros(shape, dtype=torch.half, device=accumulate_on)
        for start in tiles.starts:
            tile = tuple(slice(a, a + n) for a, n in zip(start, tiles.patch, strict=True))
            patch = data[(slice(None), *tile)][None].contiguous().to(device)
            found = _mirrored(network, patch, mirror_axes, at_once)[0].to(accumulate_on)
            found *= gaussian
            inner, outer = _overlap(tile, box)
            logits[(slice(None), *outer)] += found[(slice(None), *inner)]
            weights[outer] += gaussian[inner]
        weights[weights == 0] = 1
        return logits.div_(weights)


def _mirrored(
    network: nn.Module, patch: torch.Tensor, mirror_axes: Sequence[int], at_once: int
) -> torch.Tensor:
    """Return the mean logits (1, head, z, y, x) over all mirrored inputs, in nnU-Net's order."""
    import torch

    flips = [
        tuple(axis + 2 for axis in chosen)
        for count in range(len(mirror_axes) + 1)
        for chosen in itertools.combinations(mirror_axes, count)
    ]
    total = None
    for first in range(0, len(flips), at_once):
        group = flips[first : first + at_once]
        found = network(torch.cat([torch.flip(patch, axes) for axes in group]))
        for number, axes in enumerate(group):
            part = torch.flip(found[number : number + 1], axes)
            total = part if total is None else total.add_(part)
    return total.div_(len(flips)) if len(flips) > 1 else total


def _overlap(tile: Box, box: Box) -> tuple[Box, Box]:
    """Return where a tile and a box overlap: counted in the tile, and in the box."""
    inner, outer = [], []
    for a, b in zip(tile, box, strict=True):
        low = max(a.start, b.start)
        high = max(low, min(a.stop, b.stop))
        inner.append(slice(low - a.start, high - a.start))
        outer.append(slice(low - b.start, high - b.start))
    return tuple(inner), tuple(outer)


def padded_scan(data: torch.Tensor, patch: Sequence[int]) -> tuple[torch.Tensor, Box]:
    """Pad a scan (channel, z, y, x) with 0 to at least the patch; say where it lies in that."""
    from acvl_utils.cropping_and_padding.padding import pad_nd_image

    padded, inside = pad_nd_image(data, tuple(patch), "constant", {"value": 0}, True, None)
    return padded, tuple(inside[1:])
