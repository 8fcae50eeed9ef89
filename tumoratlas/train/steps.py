"""From harmonized cases and configuration to the arguments of training."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumoratlas.core.errors import ConfigError
from tumoratlas.core.files import read_json
from tumoratlas.core.runner import finished_folders
from tumoratlas.train.dataset import TrainingCase
from tumoratlas.train.plan import TrainSettings

if TYPE_CHECKING:
    import torch


def training_cases(organ: str, harmonized: Iterable[Path], cases: Path) -> list[TrainingCase]:
    """Return the cases in which a source annotated the organ's tumors.

    Parameters
    ----------
    organ
        One of the six.
    harmonized
        Manifests of harmonize_scans.
    cases
        ``cases.json`` of assign_cases, for the groups.
    """
    groups = {case_id: case["group"] for case_id, case in read_json(cases).items()}
    found = []
    for case_id, folder in finished_folders(harmonized).items():
        label = folder / f"model_lesions_{organ}.b2nd"
        if label.is_file():
            found.append(TrainingCase(case_id, groups[case_id], folder / "model.b2nd", label))
    return found


def train_settings(values: Mapping[str, Any]) -> TrainSettings:
    """Return the settings that the configuration gives."""
    return TrainSettings(
        **{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    )


def torch_device(name: str) -> "torch.device":
    """Return the configured device.

    Raises
    ------
    ConfigError
        ``NO_GPU``: cuda is wanted and there is none.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "NO_GPU",
            "device: cuda",
            "this machine offers torch no GPU",
            remedy="Set `train.device` and `candidates.device` to cpu, or run on a GPU machine",
        )
    return torch.device(name)
