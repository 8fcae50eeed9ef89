"""The leakage audit of the lists that a release ships for training.

The table ``splits`` may be right and a list made of it wrong. So the lists are read as the tools
that train on them read them, path by path, and held against the table.
"""

import json
import posixpath
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tumoratlas.core.structures import tumor_structures
from tumoratlas.release.cases import CT, TUMOR_LABELS, tumor_class_map, tumor_files
from tumoratlas.release.splits.schemes import TEST, TRAIN, VALIDATION

_NNUNET, _MONAI = "layouts/nnunet", "layouts/monai"
_DATALIST = "datalist_"
# Lists of a MONAI datalist, and the place in its scheme that their cases need.
_SECTIONS = {"training": TRAIN, "validation": VALIDATION, "test": TEST}


def emitted_problems(
    folder: Path, splits_rows: Iterable[Mapping[str, str]], case_ids: Collection[str]
) -> list[str]:
    """Return every leak in the lists of a release, one line each, sorted.

    Parameters
    ----------
    folder
        Any copy of a release. A layout that it does not have is no problem.
    splits_rows
        Rows of its table ``splits``.
    case_ids
        Its cases.

    Returns
    -------
    Lines ``LEAK: place: reason``: a case where its place in the scheme forbids it, a group on
    two sides, a case that is listed twice or not released, folds that overlap or leave out
    cases, a path that leads to another file than its labels say, or nowhere.
    """
    audit = _Audit(folder, splits_rows, case_ids)
    audit.check_nnunet()
    audit.check_monai()
    return sorted(audit.problems)


class _Audit:
    def __init__(
        self, folder: Path, splits_rows: Iterable[Mapping[str, str]], case_ids: Collection[str]
    ) -> None:
        self.folder = folder
        self.case_ids = set(case_ids)
        self.problems: set[str] = set()
        self.places: dict[str, dict[str, str]] = defaultdict(dict)
        self.groups: dict[str, str] = {}
        for row in splits_rows:
            self.places[row["scheme"]][row["case_id"]] = row["split"]
            self.groups[row["case_id"]] = row["group"]

    def leak(self, place: str, reason: str) -> None:
        self.problems.add(f"LEAK: {place}: {reason}")

    def check_nnunet(self) -> None:
        """Check every dataset that nnU-Net trains on, and its folds."""
        for folder in sorted(p for p in self.folder.glob(f"{_NNUNET}/*") if p.is_dir()):
            place = folder.relative_to(self.folder).as_posix()
            listed = self._check_dataset(f"{place}/dataset.json")
            self._check_folds(f"{place}/splits_final.json", listed)

    def _check_dataset(self, place: str) -> list[str]:
        try:
            content = self._read(place)
            dataset = content["dataset"]
            file = _labelled(content["labels"])
            for case_id, row in dataset.items():
                self._check_paths(place, case_id, list(row["images"]), row["label"], file)
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            self.leak(place, "cannot be read as a dataset of nnU-Net")
            return []
        self._check_list(place, list(dataset), "iid", (TRAIN, VALIDATION))
        return list(dataset)

    def _check_folds(self, place: str, listed: Sequence[str]) -> None:
        try:
            folds = [(_texts(fold["train"]), _texts(fold["val"])) for fold in self._read(place)]
        except (KeyError, OSError, TypeError, ValueError):
            self.leak(place, "cannot be read as splits of nnU-Net")
            return
        for number, (train, val) in enumerate(folds):
            name = f"{place} fold {number}"
            self._check_list(name, train + val, "iid", (TRAIN, VALIDATION))
            self._check_list(f"{name} val", val, "fold", (f"fold_{number}",))
            self._check_sides(name, {"train": train, "val": val})
            for case_id in sorted(set(listed) ^ {*train, *val}):
                self.leak(name, f"{case_id} is in dataset.json or here, and not in both")
        held_out = Counter(case_id for _, val in folds for case_id in val)
        for case_id in sorted({*listed, *held_out}):
            if held_out[case_id] != 1:
                self.leak(place, f"{held_out[case_id]} folds validate on {case_id}")

    def check_monai(self) -> None:
        """Check every MONAI datalist."""
        for path in sorted(self.folder.glob(f"{_MONAI}/*.json")):
            place = path.relative_to(self.folder).as_posix()
            scheme = path.stem.removeprefix(_DATALIST)
            if scheme not in self.places:
                self.leak(place, "belongs to no scheme of the splits")
                continue
            try:
                content = self._read(place)
                values = {name: int(value) for value, name in content["labels"].items()}
                if _labelled(values) != TUMOR_LABELS:
                    self.leak(place, f"its labels are not those of {TUMOR_LABELS}")
                # Whatever holds images can be trained on, by any name.
                sections = {}
                for key, rows in content.items():
                    if not isinstance(rows, list) or not rows:
                        continue
                    if all(isinstance(row, dict) and "image" in row for row in rows):
                        sections[key] = rows
                        self._check_section(place, scheme, key, rows)
                    else:
                        self.leak(place, f"holds something without a case in {key}")
                sides = {key: [r["case_id"] for r in rows] for key, rows in sections.items()}
            except (AttributeError, KeyError, OSError, TypeError, ValueError):
                self.leak(place, "cannot be read as a datalist of MONAI")
                continue
            self._check_sides(place, sides)

    def _check_section(self, place: str, scheme: str, key: str, rows: list[dict[str, Any]]) -> None:
        if key not in _SECTIONS:
            self.leak(place, f"holds images in the unknown list {key}")
            return
        for row in rows:
            self._check_paths(place, row["case_id"], [row["image"]], row["label"], TUMOR_LABELS)
            fold = self.places["fold"].get(row["case_id"])
            if key == "training" and f"fold_{row['fold']}" != fold:
                self.leak(
                    place, f"{row['case_id']} is in fold {row['fold']}, and in the table {fold}"
                )
        cases = [row["case_id"] for row in rows]
        self._check_list(f"{place} {key}", cases, scheme, (_SECTIONS[key],))

    def _read(self, place: str) -> Any:  # noqa: ANN401 - any JSON value
        return json.loads((self.folder / place).read_text(encoding="utf-8"))

    def _check_list(
        self, name: str, cases: Sequence[str], scheme: str, allowed: Collection[str]
    ) -> None:
        for case_id, count in Counter(cases).items():
            if count > 1:
                self.leak(name, f"{case_id} stands there {count} times")
            if case_id not in self.case_ids:
                self.leak(name, f"{case_id} is not in the release")
            split = self.places[scheme].get(case_id, "no place")
            if split not in allowed:
                self.leak(name, f"{case_id} is listed, and {split} in the scheme {scheme}")

    def _check_sides(self, name: str, sides: Mapping[str, Iterable[str]]) -> None:
        found: dict[str, set[str]] = defaultdict(set)
        for side, cases in sides.items():
            for case_id in cases:
                found[self.groups.get(case_id, case_id)].add(side)
        for group, own in sorted(found.items()):
            if len(own) > 1:
                self.leak(name, f"the group {group} is in {' and '.join(sorted(own))}")

    def _check_paths(
        self, place: str, case_id: str, images: Iterable[str], label: str, file: str
    ) -> None:
        wanted = [(image, f"ct/{case_id}/{CT}") for image in images]
        for path, own in [*wanted, (label, f"label/{case_id}/{file}")]:
            # As the tools do: from the folder of the list.
            target = posixpath.normpath(posixpath.join(posixpath.dirname(place), path))
            if target != own:
                self.leak(place, f"{case_id} leads to {path}, not to {own}")
            elif not (self.folder / target).is_file():
                self.leak(place, f"{case_id} leads to {path}, which is not there")


def _labelled(values: Mapping[str, int]) -> str:
    """Return the file of a case that labels with these values belong to, empty for none."""
    if values == {name: value for value, name in {0: "background", **tumor_class_map()}.items()}:
        return TUMOR_LABELS
    for organ, structure in tumor_structures().items():
        if values == {"background": 0, structure.name: 1}:
            return tumor_files(organ)[0]
    return ""


def _texts(values: object) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"not a list of texts: {values!r:.80}")
    return values
