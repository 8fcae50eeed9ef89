"""Tumor probabilities of a region, with nnU-Net's sliding window (paper, section 3.1)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tumoratlas.candidates.device import Way, memory_fault, ways_to_compute
from tumoratlas.candidates.plan_grid import preprocess
from tumoratlas.candidates.region import Box, Region, box_of, cut_off, whole_scan
from tumoratlas.candidates.tiles import Tiles, choose_tiles, padded_scan, tile_logits
from tumoratlas.core.errors import InputError, TumorAtlasError
from tumoratlas.core.files import read_json
from tumoratlas.train.nnunet import nnunet_session
from tumoratlas.train.registry import Model
from tumoratlas.train.trainer import read_weights

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger(__name__)
MIRROR_AXES = (0, 1, 2)
# What is at least so probable and reaches the region's border is followed beyond it, so that a
# tumor that grows out of its organ is whole.
FOLLOWED_PROBABILITY = 0.1
FOLLOW_STEP_MM = 20.0


@dataclass(frozen=True)
class Prediction:
    """The probabilities of a region.

    Attributes
    ----------
    probability
        float32 in [0, 1] (z, y, x) on the image's grid; 0 where nothing was predicted.
    box
        The box that holds all that was predicted.
    tiles, tiles_whole
        Tiles that each fold ran, those run again to follow a tumor counted again: at most twice
        the tiles of the whole scan, which are the second number.
    device
        Where the last of them ran: ``cpu`` also when the GPU's memory did not suffice.
    """

    probability: NDArray[np.float32]
    box: Box
    tiles: int
    tiles_whole: int
    device: str


def folds_for(model: Model, group: str) -> tuple[int, ...]:
    """Return the folds that may predict a group without having been trained on it.

    All folds for a group the model never saw; otherwise the fold that held it out.
    """
    return tuple(fold.fold for fold in model.folds if group not in fold.training_groups)


class Predictor:
    """One organ's model, loaded once for many scans.

    Parameters
    ----------
    model
        Registered model.
    device
        Where to predict; on the CPU one thread is used and results are repeatable to the bit.
    tile_step
        Step between tiles as a fraction of the patch (the paper: 0.5).
    mirroring
        Whether to average over the eight mirrored inputs (nnU-Net's default).
    precision
        ``float32``, or ``half``: the network runs in half precision on a GPU, as nnU-Net's
        does. The CPU always computes in float32, as nnU-Net does.
    turn
        Gives the context in which the device is used: one process at a time.

    Raises
    ------
    InputError
        ``MODEL_WEIGHTS``: weights that do not fit the plan.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        tile_step: float,
        mirroring: bool,
        precision: str = "half",
        turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        with nnunet_session(device):
            import torch
            from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
            from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

            self.model = model
            self._device = device
            self._step = tile_step
            self._mirror_axes = MIRROR_AXES if mirroring else ()
            self._precision = precision
            self._turn = turn
            self._ways = ways_to_compute(device)
            self._dataset = read_json(model.dataset)
            self._plans = PlansManager(read_json(model.plans))
            self._configuration = self._plans.get_configuration(model.configuration)
            self._labels = self._plans.get_label_manager(self._dataset)
            self._network = get_network_from_plans(
                self._configuration.network_arch_class_name,
                self._configuration.network_arch_init_kwargs,
                self._configuration.network_arch_init_kwargs_req_import,
                1,
                self._labels.num_segmentation_heads,
                allow_init=False,
                deep_supervision=False,
            ).eval()
            self._weights = {
                fold.fold: read_weights(fold.weights, self._network) for fold in model.folds
            }
            # A timing contest between cuDNN's kernels has another winner in every run.
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.allow_tf32 = precision != "float32"

    def predict(self, image: NDArray[np.int16], folds: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the tumor probability of every voxel of an image on the plan's own grid."""
        spacing_mm = dict(
            zip(self._plans.transpose_forward, self._configuration.spacing, strict=True)
        )
        region = whole_scan(image.shape)
        found = self.predict_region(image, tuple(spacing_mm[a] for a in range(3)), folds, region)
        return found.probability

    def predict_region(
        self,
        image: NDArray[np.int16],
        spacing_mm: tuple[float, ...],
        folds: tuple[int, ...],
        region: Region,
    ) -> Prediction:
        """Return the tumor probabilities of a region, and of what is found across its border.

        nnU-Net's steps: crop to nonzero, clip and scale, resample if the plan's spacing is not
        the image's, tile, average the logits of the folds, bring them back, softmax.

        Parameters
        ----------
        image
            int16 HU (z, y, x) on the model grid.
        spacing_mm
            Its voxel spacing (z, y, x).
        folds
            Folds to average, from `folds_for`.
        region
            Where to predict.

        Raises
        ------
        InputError
            ``EMPTY_IMAGE``: every voxel is 0 HU. ``NAN_LOGITS``: the network's output is not
            finite, the trace of a training that diverged.
        TumorAtlasError
            ``OUT_OF_MEMORY``: neither the device nor the CPU has the memory for this scan.
        MachineError
            ``GPU_LOST``: the GPU failed; nothing more can be computed in this process.
        """
        if not image.any():
            raise InputError(
                "EMPTY_IMAGE",
                "image",
                "every voxel is 0 HU",
                remedy="Exclude the scan or import it again",
            )
        with nnunet_session(self._device):
            return self._predict(image, spacing_mm, folds, region.mask)

    def _predict(
        self,
        image: NDArray[np.int16],
        spacing_mm: tuple[float, ...],
        folds: tuple[int, ...],
        wanted: NDArray[np.bool_],
    ) -> Prediction:
        import torch

        values, place = preprocess(
            image, spacing_mm, self._plans, self._configuration, self._dataset
        )
        data, inside = padded_scan(torch.from_numpy(values), self._configuration.patch_size)
        probability = np.zeros(image.shape, np.float32)
        done = np.zeros(image.shape, bool)
        ways, tiles, step_mm = self._ways, 0, FOLLOW_STEP_MM
        while wanted.any():
            needed = np.zeros(data.shape[1:], bool)
            needed[inside] = place.needed(wanted)
            chosen = choose_tiles(needed, self._configuration.patch_size, self._step)
            if tiles and tiles + len(chosen.starts) > chosen.whole:
                # Found everywhere: the rest of the scan, and no third time.
                wanted = ~done
                needed[inside] = place.needed(wanted)
                chosen = choose_tiles(needed, self._configuration.patch_size, self._step)
            if chosen.starts:  # none where all that is wanted lies outside nnU-Net's crop
                box = box_of(needed)
                logits, ways = self._logits(data, box, chosen, folds, ways)
                place.bring_back(
                    logits,
                    tuple(
                        slice(b.start - i.start, b.stop - i.start)
                        for b, i in zip(box, inside, strict=True)
                    ),
                    wanted,
                    probability,
                    self._labels.apply_inference_nonlin,
                    self.model.tumor_channels,
                )
            tiles += len(chosen.starts)
            done |= wanted
            wanted = cut_off(probability >= FOLLOWED_PROBABILITY, done, spacing_mm, step_mm)
            step_mm *= 2
        return Prediction(probability, box_of(done), tiles, chosen.whole, ways[0].device.type)

    def _logits(
        self,
        data: torch.Tensor,
        box: Box,
        tiles: Tiles,
        folds: tuple[int, ...],
        ways: tuple[Way, ...],
    ) -> tuple[torch.Tensor, tuple[Way, ...]]:
        """Return the folds' mean logits of a box, on the CPU, and the ways still open."""
        import torch

        for number, way in enumerate(ways):
            with self._turn():
                try:
                    logits = self._run(data, box, tiles, folds, way)
                    self._check(logits, folds)
                    return logits, ways[number:]
                except (RuntimeError, MemoryError) as error:
                    reason = memory_fault(error, way.device)
                    if not reason:
                        raise
                # Outside the handler, whose traceback holds what filled the memory.
                if way.device.type == "cuda":
                    torch.cuda.empty_cache()
            LOG.warning("%s: too little memory on %s: %s", self.model.organ, way.device, reason)
        raise TumorAtlasError(
            "OUT_OF_MEMORY",
            f"{self.model.organ} model {self.model.model_id}",
            "there is too little memory for this scan",
            remedy="Give the job more memory or a larger tile_step, and run it again",
            evidence=f"{tuple(data.shape[1:])} voxels, {len(tiles.starts)} tiles: {reason}",
        )

    def _run(
        self, data: torch.Tensor, box: Box, tiles: Tiles, folds: tuple[int, ...], way: Way
    ) -> torch.Tensor:
        import torch

        total = None
        is_half = self._precision == "half" and way.device.type == "cuda"
        network = self._network.to(way.device)
        with torch.inference_mode(), torch.autocast("cuda") if is_half else nullcontext():
            for fold in folds:
                network.load_state_dict(self._weights[fold])
                found = tile_logits(
                    network,
                    data,
                    box,
                    tiles,
                    heads=self._labels.num_segmentation_heads,
                    mirror_axes=self._mirror_axes,
                    at_once=way.at_once,
                    accumulate_on=way.accumulate_on,
                ).cpu()
                total = found if total is None else total.add_(found)
            return total.div_(len(folds)) if len(folds) > 1 else total

    def _check(self, logits: torch.Tensor, folds: tuple[int, ...]) -> None:
        """Refuse logits that are not finite."""
        if logits.isfinite().all():
            return
        raise InputError(
            "NAN_LOGITS",
            f"{self.model.organ} model {self.model.model_id}",
            f"the network's output holds {'infinite values' if logits.isinf().any() else 'NaN'}",
            remedy="Train the model again at a lower learning rate and register it",
            evidence=f"folds {folds}",
        )
