"""Which cases a list for training names, and how its lines are written."""

import json
from collections.abc import Mapping
from typing import Any

from tumoratlas.release.cases import CT, TUMOR_LABELS, tumor_class_map, whole_organ
from tumoratlas.release.documents import place_of
from tumoratlas.release.facts import ReleaseFacts
from tumoratlas.release.licences.targets import hiding_cases
from tumoratlas.review.packets.labels import ORGANS

NAME = "TumorAtlas"
_FOLD = "fold_"


def tumor_organs(facts: ReleaseFacts) -> dict[str, set[str]]:
    """Return the organs of each case that have a tumor in the masks; cysts are none."""
    organs: dict[str, set[str]] = {case["case_id"]: set() for case in facts.cases}
    for row in facts.tables["tumors"]:
        if row["lesion_kind"] != "cyst" and row["origin"] != "pooled":
            organs[row["case_id"]].add(row["organ"])
    return organs


def listed_cases(facts: ReleaseFacts) -> list[str]:
    """Return the cases whose ``tumor_labels`` teach something, sorted.

    Their scan and labels are in the release, some organ's tumors are known, and the labels are
    not ``ignore`` alone: there is a tumor, or masks bound the organs that are not known and
    nothing is withheld.
    """
    with_tumors = tumor_organs(facts)
    hiding = hiding_cases(facts.tables["masks"], facts.tables["licences"], facts.target)

    def teaches(case: Mapping[str, Any]) -> bool:
        if place_of(case["case_id"], TUMOR_LABELS) not in facts.sums:
            return False
        unknown = [organ for organ in ORGANS if organ not in case["organs"]]
        is_bounded = all(whole_organ(organ, case["structures"]) for organ in unknown)
        is_bounded &= case["case_id"] not in hiding
        return bool(case["organs"]) and (is_bounded or bool(with_tumors[case["case_id"]]))

    return sorted(case["case_id"] for case in with_scans(facts) if teaches(case))


def with_scans(facts: ReleaseFacts) -> list[Mapping[str, Any]]:
    """Return the cases whose scan is in the release."""
    return [case for case in facts.cases if place_of(case["case_id"], CT) in facts.sums]


def places(facts: ReleaseFacts, scheme: str) -> dict[str, str]:
    """Return the place of each case in a scheme of the table ``splits``."""
    return {
        row["case_id"]: row["split"] for row in facts.tables["splits"] if row["scheme"] == scheme
    }


def fold_numbers(facts: ReleaseFacts) -> dict[str, int]:
    """Return the fold of each case that has one."""
    folds = places(facts, "fold")
    return {
        case_id: int(split.removeprefix(_FOLD))
        for case_id, split in folds.items()
        if split.startswith(_FOLD)
    }


def labels() -> dict[int, str]:
    """Return what each value of ``tumor_labels`` means, from 0."""
    return {0: "background"} | tumor_class_map()


def from_below(case_id: str, name: str, depth: int) -> str:
    """Return the path of a case's file, as seen from a folder ``depth`` below the release."""
    return "../" * depth + place_of(case_id, name)


def indented(value: object) -> str:
    """Return JSON for people; keys keep their order."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
