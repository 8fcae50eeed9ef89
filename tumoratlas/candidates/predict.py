"""Tumor probabilities on the model grid, with nnU-Net's sliding window (paper, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import InputError
from tumoratlas.core.files import read_json
from tumoratlas.train.nnunet import CONFIGURATION, nnunet_session
from tumoratlas.train.registry import Model
from tumoratlas.train.trainer import read_weights

if TYPE_CHECKING:
    import torch

TUMOR_CHANNEL = 1


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

    Raises
    ------
    InputError
        ``MODEL_WEIGHTS``: weights that do not fit the plan.
    """

    def __init__(
        self, model: Model, device: torch.device, tile_step: float, mirroring: bool
    ) -> None:
        with nnunet_session(device):
            import torch
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
            from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
            from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

            self.model = model
            self._device = device
            self._dataset = read_json(model.dataset)
            self._plans = PlansManager(read_json(model.plans))
            self._configuration = self._plans.get_configuration(CONFIGURATION)
            self._labels = self._plans.get_label_manager(self._dataset)
            network = get_network_from_plans(
                self._configuration.network_arch_class_name,
                self._configuration.network_arch_init_kwargs,
                self._configuration.network_arch_init_kwargs_req_import,
                1,
                self._labels.num_segmentation_heads,
                allow_init=False,
                deep_supervision=False,
            )
            self._weights = {fold.fold: read_weights(fold.weights, network) for fold in model.folds}
            self._predictor = nnUNetPredictor(
                tile_step_size=tile_step,
                use_gaussian=True,
                use_mirroring=mirroring,
                perform_everything_on_device=device.type == "cuda",
                device=device,
                allow_tqdm=False,
            )
            # nnU-Net turns on cuDNN's timing contest, whose winner changes from run to run.
            torch.backends.cudnn.benchmark = False
            self._predictor.manual_initialization(
                network,
                self._plans,
                self._configuration,
                None,
                self._dataset,
                "TumorTrainer",
                (0, 1, 2),
            )

    def predict(self, image: NDArray[np.int16], folds: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the tumor probability of every voxel.

        nnU-Net's steps: crop to nonzero, clip and scale, tile, average the logits of the
        folds, softmax, put the crop back (0 outside it).

        Parameters
        ----------
        image
            int16 HU (z, y, x) on the model grid.
        folds
            Folds to average, from `folds_for`.

        Returns
        -------
        float32 in [0, 1], (z, y, x).

        Raises
        ------
        InputError
            ``EMPTY_IMAGE``: every voxel is 0 HU. ``NAN_LOGITS``: the network's output is not
            finite, the trace of a training that diverged.
        """
        if not image.any():
            raise InputError(
                "EMPTY_IMAGE",
                "image",
                "every voxel is 0 HU",
                remedy="Exclude the scan or import it again",
            )
        import torch

        with nnunet_session(self._device):
            preprocessor = self._configuration.preprocessor_class(verbose=False)
            data, _, properties = preprocessor.run_case_npy(
                image[None],
                None,
                {"spacing": list(self._configuration.spacing)},
                self._plans,
                self._configuration,
                self._dataset,
            )
            self._predictor.list_of_parameters = [self._weights[fold] for fold in folds]
            logits = self._logits(torch.from_numpy(data), folds)
            probability = self._labels.revert_cropping_on_probabilities(
                self._labels.apply_inference_nonlin(logits),
                properties["bbox_used_for_cropping"],
                properties["shape_before_cropping"],
            )
        return probability[TUMOR_CHANNEL].numpy()

    def _logits(self, data: torch.Tensor, folds: tuple[int, ...]) -> torch.Tensor:
        """Return the folds' mean logits (class, z, y, x), all finite, on the CPU."""
        self._predictor.list_of_parameters = [self._weights[fold] for fold in folds]
        reason = "NaN"
        try:
            logits = self._predictor.predict_logits_from_preprocessed_data(data)
            if not logits.isnan().any():
                return logits
        except RuntimeError as error:
            # nnU-Net's own check for values beyond float16.
            if "Encountered inf" not in str(error):
                raise
            reason = "infinite values"
        raise InputError(
            "NAN_LOGITS",
            f"{self.model.organ} model {self.model.model_id}",
            f"the network's output holds {reason}",
            remedy="Train the model again at a lower learning rate and register it",
            evidence=f"folds {folds}",
        )
