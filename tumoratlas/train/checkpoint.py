"""nnU-Net plans and checkpoints from elsewhere, read without running code that they name.

A checkpoint is a pickle and a plan names classes to import; both could run anything. Here a
checkpoint may hold tensors, plain values and NumPy's float numbers, and a plan may name only
what stands in the sets below.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tumoratlas.core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
    from torch import nn

ARCHITECTURES = frozenset(
    f"dynamic_network_architectures.architectures.unet.{name}"
    for name in ("PlainConvUNet", "ResidualEncoderUNet")
)
# What nnU-Net's planners write; each of these names is imported when the network is built.
OPERATIONS: Mapping[str, frozenset[str | None]] = {
    "conv_op": frozenset({"torch.nn.modules.conv.Conv3d"}),
    "norm_op": frozenset({"torch.nn.modules.instancenorm.InstanceNorm3d"}),
    "dropout_op": frozenset({None}),
    "nonlin": frozenset({"torch.nn.LeakyReLU"}),
}
RESAMPLING = frozenset({"resample_data_or_seg_to_shape", "resample_torch_fornnunet"})
ALL_AXES = (0, 1, 2)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read an nnU-Net checkpoint as data.

    Raises
    ------
    InputError
        ``MODEL_UNSAFE``: the file asks for more than tensors, plain values and NumPy's float
        numbers, or is no checkpoint at all.
    """
    import torch

    try:
        with torch.serialization.safe_globals(_allowed_globals()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError) as error:
        raise _unsafe(path, str(error)) from error
    if not isinstance(checkpoint, dict):
        raise _unsafe(path, f"holds a {type(checkpoint).__name__}")
    return checkpoint


def check_plan(
    path: Path, plans: Mapping[str, Any], dataset: Mapping[str, Any], configuration: str
) -> ConfigurationManager:
    """Return a configuration of a plan whose every name is known and whose kind is supported.

    Parameters
    ----------
    path
        ``plans.json``, named in the error.
    plans, dataset
        Content of ``plans.json`` and ``dataset.json``.
    configuration
        Name of the configuration, such as ``3d_fullres``.

    Raises
    ------
    InputError
        ``MODEL_PLAN``: a 2d or cascade configuration, region-based labels, more than one
        image channel, another normalization, or a class that is not nnU-Net's.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    try:
        if configuration not in plans["configurations"]:
            known = ", ".join(plans["configurations"])
            raise _unsupported(path, f"has no configuration {configuration}", f"it has {known}")
        manager = PlansManager(dict(plans)).get_configuration(configuration)
        values = manager.configuration
        reason = _kind_refused(values, dataset) or _names_refused(values, plans)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"is not a plan of nnU-Net v2: {type(error).__name__} {error}"
    if reason:
        raise _unsupported(path, reason, configuration)
    return manager


def check_tumor_labels(dataset: Mapping[str, Any], tumor_labels: Sequence[int]) -> None:
    """Raise ConfigError (``MODEL_LABELS``) unless every tumor label is one of the model's."""
    labels = {value: name for name, value in dataset["labels"].items() if name != "ignore"}
    if not tumor_labels or not set(tumor_labels) <= set(labels) - {0}:
        raise ConfigError(
            "MODEL_LABELS",
            "train.external.tumor_labels",
            f"{list(tumor_labels)} are not labels of the model",
            remedy="Name the values of its tumor labels",
            evidence=", ".join(f"{value} {name}" for value, name in sorted(labels.items())),
        )


def load_network(
    path: Path,
    checkpoint: Mapping[str, Any],
    manager: ConfigurationManager,
    *,
    configuration: str,
    labels: int,
) -> nn.Module:
    """Return the plan's network with a checkpoint's weights.

    Parameters
    ----------
    path
        The checkpoint, named in errors.
    checkpoint
        From `read_checkpoint`.
    manager
        From `check_plan`.
    configuration
        Name that the checkpoint must have been trained under.
    labels
        Number of labels, background included.

    Raises
    ------
    InputError
        ``MODEL_PLAN``: trained under another configuration, or without mirroring: scans are
        given in one orientation here (RAS), and only a mirrored training is sure to know it.
        ``MODEL_WEIGHTS``: the weights are not those of the plan's network.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    trained = checkpoint.get("init_args", {}).get("configuration")
    if trained != configuration:
        raise _unsupported(path, "was trained under another configuration", str(trained))
    axes = checkpoint.get("inference_allowed_mirroring_axes")
    if tuple(axes or ()) != ALL_AXES:
        raise _unsupported(path, "was not trained with mirroring along all axes", str(axes))
    try:
        network = get_network_from_plans(
            manager.network_arch_class_name,
            manager.network_arch_init_kwargs,
            manager.network_arch_init_kwargs_req_import,
            1,
            labels,
            allow_init=False,
            deep_supervision=False,
        )
        network.load_state_dict(_plain_names(checkpoint["network_weights"]))
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(
            "MODEL_WEIGHTS",
            path,
            "these weights do not fit the network of the model's plan",
            remedy="Give the plans.json and dataset.json that the checkpoint was trained with",
            evidence=" ".join(str(error).split())[:200],
        ) from error
    return network


def _allowed_globals() -> list[Callable | tuple[Callable, str]]:
    """Return what a checkpoint may name beside torch's own safe list: NumPy's float numbers.

    nnU-Net's log holds float32 or float64 scalars; NumPy 1 wrote another module's name.
    """
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
    kinds = (np.dtypes.Float32DType, np.dtypes.Float64DType)
    return [np.dtype, *kinds, *((scalar, name) for name in names)]


def _plain_names(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the prefixes that data-parallel and compiled trainings add."""
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", name): w for name, w in weights.items()}


def _kind_refused(values: Mapping[str, Any], dataset: Mapping[str, Any]) -> str:
    """Say why a kind of model is not supported, or return an empty text."""
    channels = dataset.get("channel_names") or dataset["modality"]
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    if values.get("previous_stage"):
        return "is the second stage of a cascade, which needs another model's result"
    if len(values["patch_size"]) != 3:
        return "is a 2d configuration; only 3d ones are supported"
    if len(channels) != 1:
        return f"wants {len(channels)} images; a CT scan is one"
    if any(not isinstance(value, int) for value in labels.values()):
        return "is region-based (overlapping labels, sigmoid); only single labels are supported"
    if sorted(labels.values()) != list(range(len(labels))):
        return f"has labels that are not consecutive from 0: {sorted(labels.values())}"
    return ""


def _names_refused(values: Mapping[str, Any], plans: Mapping[str, Any]) -> str:
    """Say which name of a plan is not one of nnU-Net's that are allowed, or return ''."""
    architecture = values["architecture"]
    arguments = architecture["arch_kwargs"]
    if architecture["network_class_name"] not in ARCHITECTURES:
        return f"names the network class {architecture['network_class_name']}"
    for name in architecture["_kw_requires_import"]:
        if name not in OPERATIONS or arguments.get(name) not in OPERATIONS[name]:
            return f"imports {arguments.get(name)!r} as {name}"
    expected = {
        "preprocessor_name": (values, ("DefaultPreprocessor",)),
        "normalization_schemes": (values, (["CTNormalization"],)),
        "resampling_fn_data": (values, RESAMPLING),
        "resampling_fn_seg": (values, RESAMPLING),
        "resampling_fn_probabilities": (values, RESAMPLING),
        "label_manager": (plans, (None, "LabelManager")),
        "transpose_forward": (plans, [list(order) for order in permutations(ALL_AXES)]),
    }
    for name, (place, allowed) in expected.items():
        if place.get(name) not in allowed:
            return f"has {name} {place.get(name)!r}"
    return ""


def _unsupported(path: Path, reason: str, evidence: str) -> InputError:
    return InputError(
        "MODEL_PLAN",
        path,
        f"the model {reason}",
        remedy="Give a stock 3d nnU-Net v2 model (see docs/train.md), or train one here",
        evidence=evidence,
    )


def _unsafe(path: Path, message: str) -> InputError:
    named = re.search(r"GLOBAL (\S+)", message)
    return InputError(
        "MODEL_UNSAFE",
        path,
        "the checkpoint holds more than tensors, plain values and numbers, or is damaged; "
        "nothing of it was run",
        remedy="Use a checkpoint as stock nnU-Net v2 writes it, from whom you trust",
        evidence=f"it names {named[1]}" if named else message.partition("\n")[0][:200],
    )
