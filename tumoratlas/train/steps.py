"""From harmonized cases to the cases of a training."""

from collections.abc import Iterable
from pathlib import Path

from tumoratlas.core.files import read_json
from tumoratlas.core.runner import finished_folders
from tumoratlas.train.dataset import TrainingCase


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
