"""Between the model grid and a network's own grid: nnU-Net's preprocessing, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.candidates.region import Box, box_of

if TYPE_CHECKING:
    import torch
    from nnunetv2.utilities.plans_handling.plans_handler import (
        ConfigurationManager,
        PlansManager,
    )


@dataclass(frozen=True)
class PlanGrid:
    """How an image lies in a network's input.

    Attributes
    ----------
    turn
        Order of the image's axes in the input (nnU-Net's ``transpose_forward``).
    crop
        The box of nonzero voxels, in that order of axes.
    shape
        Shape of the input: that of the crop, or what it is resampled to.
    """

    turn: tuple[int, int, int]
    crop: Box
    shape: tuple[int, int, int]

    def needed(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the input's voxels whose logits decide a mask (z, y, x) of the image."""
        needed = mask.transpose(self.turn)[self.crop]
        for axis, length in enumerate(self.shape):
            if needed.shape[axis] != length:
                low, high, _ = _between(needed.shape[axis], length)
                spread = np.zeros((length, *np.moveaxis(needed, axis, 0).shape[1:]), bool)
                for index in (low, high):
                    np.logical_or.at(spread, index, np.moveaxis(needed, axis, 0))
                needed = np.moveaxis(spread, 0, axis)
        return needed

    def bring_back(
        self,
        logits: torch.Tensor,
        box: Box,
        mask: NDArray[np.bool_],
        probability: NDArray[np.float32],
        nonlinearity: Callable[[torch.Tensor], torch.Tensor],
        channels: tuple[int, ...],
    ) -> None:
        """Fill in the probability of a mask's voxels from the logits of a box.

        Where the input was resampled, logits are interpolated linearly along all three axes,
        as nnU-Net does unless a plan is so anisotropic that it takes the nearest slice.

        Parameters
        ----------
        logits
            (head, ...) of the box, finite.
        box
            Where they lie in the input; holds all that is `needed`.
        mask
            bool (z, y, x) of the image.
        probability
            float32 (z, y, x) of the image, changed in place.
        nonlinearity, channels
            The model's softmax, and the heads whose probabilities are summed.
        """
        import torch

        turned = mask.transpose(self.turn)[self.crop]
        target = box_of(turned)
        wide = logits.float()
        for axis, (side, wanted) in enumerate(zip(box, target, strict=True)):
            count = turned.shape[axis]
            if count == self.shape[axis]:
                take = slice(wanted.start - side.start, wanted.stop - side.start)
                wide = wide[(slice(None), *(slice(None),) * axis, take)]
            else:
                low, high, weight = _between(count, self.shape[axis])
                low, high = (torch.from_numpy(i[wanted] - side.start) for i in (low, high))
                share = torch.from_numpy(weight[wanted]).view(-1, *[1] * (2 - axis))
                first, second = (wide.index_select(axis + 1, i) for i in (low, high))
                wide = torch.lerp(first, second, share)
        # nnU-Net keeps logits in half precision after resampling too.
        found = nonlinearity(wide.half())[list(channels)]
        found = (found[0] if len(channels) == 1 else found.sum(0)).numpy()
        inside = turned[target]
        probability.transpose(self.turn)[self.crop][target][inside] = found[inside]


def preprocess(
    image: NDArray[np.int16],
    spacing_mm: tuple[float, ...],
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset: dict[str, Any],
) -> tuple[NDArray[np.float32], PlanGrid]:
    """Turn, crop, normalize and resample an image as nnU-Net's ``DefaultPreprocessor``.

    The same values, without what only a segmentation needs: filling the holes of the nonzero
    mask, and resampling it, take most of nnU-Net's time.

    Parameters
    ----------
    image
        int16 HU (z, y, x) with a voxel that is not 0.
    spacing_mm
        Voxel spacing (z, y, x).
    plans, configuration, dataset
        The model's.

    Returns
    -------
    float32 (1, ...) and how the image lies in it.
    """
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    turn = tuple(plans.transpose_forward)
    spacing = [spacing_mm[axis] for axis in turn]
    preprocessor = configuration.preprocessor_class(verbose=False)
    if any(configuration.use_mask_for_norm):
        data, _, facts = preprocessor.run_case_npy(
            image[None], None, {"spacing": list(spacing_mm)}, plans, configuration, dataset
        )
        crop = tuple(slice(*side) for side in facts["bbox_used_for_cropping"])
        return data, PlanGrid(turn, crop, data.shape[1:])
    turned = image.transpose(turn)
    crop = box_of(turned != 0)
    data = turned[crop][None].astype(np.float32)
    # The normalizations look at the mask only where the plan says so.
    data = preprocessor._normalize(
        data, [None], configuration, plans.foreground_intensity_properties_per_channel
    )
    shape = compute_new_shape(data.shape[1:], spacing, configuration.spacing)
    data = configuration.resampling_fn_data(data, shape, spacing, configuration.spacing)
    return data, PlanGrid(turn, crop, data.shape[1:])


def _between(
    count: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return, for ``count`` voxels, their two neighbours among ``length`` and the upper's weight.

    Both rows of voxels fill the same extent; beyond the outer centers the values continue.
    """
    place = np.clip((np.arange(count) + 0.5) * (length / count) - 0.5, 0, length - 1)
    low = np.minimum(np.floor(place).astype(np.int64), max(0, length - 2))
    return low, np.minimum(low + 1, length - 1), (place - low).astype(np.float32)
