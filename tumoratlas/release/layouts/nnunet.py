"""nnU-Net v2 raw datasets: maps of paths into the release."""

from collections.abc import Mapping, Sequence

from tumoratlas.core.structures import tumor_structures
from tumoratlas.release.cases import CT, TUMOR_LABELS, tumor_files
from tumoratlas.release.facts import ReleaseFacts
from tumoratlas.release.layouts.listed import (
    NAME,
    fold_numbers,
    from_below,
    indented,
    labels,
    listed_cases,
    places,
    tumor_organs,
    with_scans,
)
from tumoratlas.review.packets.labels import ORGANS

FOLDER = "layouts/nnunet"
_FIRST = 620


def nnunet_files(facts: ReleaseFacts) -> dict[str, str]:
    """Return ``dataset.json`` and ``splits_final.json`` of every dataset that has a tumor.

    One dataset holds the tumors of all organs with the ignore label (`listed_cases`), six hold
    those of one organ, of all cases in which they are known and without anything to ignore.
    Listed are cases that are ``train`` or ``validation`` in ``iid``; entry k of the splits
    validates on fold k. nnU-Net resolves the paths against the folder of ``dataset.json``
    (``nnunetv2.utilities.utils``), and cannot plan where no case has foreground.
    """
    iid, tumors = places(facts, "iid"), tumor_organs(facts)
    known = {
        organ: sorted(c["case_id"] for c in with_scans(facts) if organ in c["organs"])
        for organ in ORGANS
    }
    wanted = [(NAME, TUMOR_LABELS, labels(), listed_cases(facts), set(ORGANS))] + [
        (
            f"{NAME}{organ.capitalize()}",
            tumor_files(organ)[0],
            {0: "background", 1: tumor_structures()[organ].name},
            known[organ],
            {organ},
        )
        for organ in ORGANS
    ]
    files = {}
    for number, (name, file, values, cases, organs) in enumerate(wanted, start=_FIRST):
        kept = [case for case in cases if iid.get(case) in ("train", "validation")]
        if any(tumors[case] & organs for case in kept):
            folder = f"{FOLDER}/{dataset_name(number, name)}"
            files[f"{folder}/dataset.json"] = _dataset(facts.version, name, kept, file, values)
            files[f"{folder}/splits_final.json"] = _splits(kept, fold_numbers(facts))
    return files


def dataset_name(number: int = _FIRST, name: str = NAME) -> str:
    """Return the folder of a dataset; by default that of all organs."""
    return f"Dataset{number}_{name}"


def _dataset(
    version: str, name: str, cases: Sequence[str], file: str, values: Mapping[int, str]
) -> str:
    return indented(
        {
            "name": name,
            "description": "Tumors of abdominal organs in CT; see README.md of the release",
            "release": version,
            "licence": "by file: licences.csv",
            "channel_names": {"0": "CT"},
            "labels": {label: value for value, label in values.items()},
            "numTraining": len(cases),
            "file_ending": ".nii.gz",
            # As the converters of AbdomenAtlas have it.
            "overwrite_image_reader_writer": "NibabelIOWithReorient",
            "dataset": {
                case: {
                    "images": [from_below(case, CT, depth=3)],
                    "label": from_below(case, file, depth=3),
                }
                for case in cases
            },
        }
    )


def _splits(cases: Sequence[str], folds: Mapping[str, int]) -> str:
    return indented(
        [
            {
                "train": [case for case in cases if folds[case] != fold],
                "val": [case for case in cases if folds[case] == fold],
            }
            for fold in range(max(folds.values()) + 1)
        ]
    )
