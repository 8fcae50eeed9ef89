"""MONAI datalists in the manner of the Medical Segmentation Decathlon."""

from typing import Any

from tumoratlas.release.cases import CT, TUMOR_LABELS
from tumoratlas.release.facts import ReleaseFacts
from tumoratlas.release.layouts.listed import (
    NAME,
    fold_numbers,
    from_below,
    indented,
    labels,
    listed_cases,
    places,
)

FOLDER = "layouts/monai"
_LISTS = {"training": "train", "validation": "validation", "test": "test"}


def monai_files(facts: ReleaseFacts) -> dict[str, str]:
    """Return a datalist of the scheme ``iid`` and one of ``ood``, each where it lists a case.

    Keys ``training`` (with ``fold``), ``validation`` and ``test``, all with labels. A list
    without a case is left out: ``load_decathlon_datalist`` reads the first entry of ``test``.
    """
    cases, folds = listed_cases(facts), fold_numbers(facts)
    files = {}
    for scheme in ("iid", "ood"):
        split_of = places(facts, scheme)
        lists = {
            key: [_entry(case, folds, key) for case in cases if split_of.get(case) == split]
            for key, split in _LISTS.items()
        }
        if any(lists.values()):
            files[f"{FOLDER}/datalist_{scheme}.json"] = indented(
                {
                    "name": NAME,
                    "description": f"Tumors of six abdominal organs in CT; split {scheme!r}",
                    "release": facts.version,
                    "licence": "by file: licences.csv",
                    "tensorImageSize": "3D",
                    "modality": {"0": "CT"},
                    "labels": {str(value): name for value, name in labels().items()},
                    **{f"num{key.capitalize()}": len(rows) for key, rows in lists.items()},
                    **{key: rows for key, rows in lists.items() if rows},
                }
            )
    return files


def _entry(case_id: str, folds: dict[str, int], key: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "case_id": case_id,
        "image": from_below(case_id, CT, depth=2),
        "label": from_below(case_id, TUMOR_LABELS, depth=2),
    }
    return entry | {"fold": folds[case_id]} if key == "training" else entry
