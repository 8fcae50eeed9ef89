"""Read the labels of a scan onto its canonical grid, whatever format and header they have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import InputError, TumorAtlasError
from tumoratlas.core.files import sha256_file
from tumoratlas.images.checks import Repair
from tumoratlas.images.dicom import read_mask_series, read_png_stack
from tumoratlas.images.grid import to_canonical
from tumoratlas.images.nifti import read_nifti
from tumoratlas.ingest.fitting import PAIRS, SPLEEN_LIVER, Masks, centroid_x
from tumoratlas.ingest.placing import HeaderContradictionError, MaskPlacer
from tumoratlas.ingest.readers import ScanVolume
from tumoratlas.ingest.sources import known_label_names

_RULE = "harmonize_scans"
_OUTSIDE_RELEASE = "other_"


@dataclass(frozen=True)
class LabelMask:
    """The voxels of one structure on its scan's canonical grid.

    Attributes
    ----------
    name
        A structure, ``<organ>_tumor``, ``<organ>_cyst`` or ``pooled_tumor``.
    voxels
        bool (z, y, x).
    licence
        Of the label file.
    repairs
        What was put right in the file's place.
    """

    name: str
    voxels: NDArray[np.bool_]
    licence: str
    repairs: tuple[Repair, ...] = ()


def read_labels(
    scan: Mapping[str, Any], volume: ScanVolume, *, max_voxels: int
) -> tuple[list[LabelMask], list[dict[str, str]]]:
    """Read every label file of a scan onto the scan's canonical grid.

    Returns
    -------
    The masks, one per structure and file, and an ``excluded`` row for each label file or mask
    that cannot be used: the scan stays, its structure stays unknown. Their codes are those of
    files, headers and series in `tumoratlas.images.checks`, and

    * LABEL_GRID: the mask does not lie on the scan;
    * LABEL_AMBIGUOUS: header and voxels contradict each other, and the image does not tell;
    * LABEL_VALUE, STRUCTURE_UNKNOWN: a value or file without a meaning;
    * SIDES_SWAPPED: a left organ lies to the patient's right of its partner;
    * LIVER_LEFT: the liver lies to the patient's left of the spleen, so that no mask of these
      files is believed before somebody has looked.
    """
    masks: list[LabelMask] = []
    excluded: list[dict[str, str]] = []
    for label in scan["labels"]:
        found, rows = _read_files(scan, label, volume, max_voxels)
        kept, swapped = _check_sides(scan["scan_id"], found)
        masks += kept
        excluded += [*rows, *swapped]
    return masks, excluded


def label_hashes(scan: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each label file of a scan, by path; a missing file gives ``""``."""
    paths = [Path(path) for label in scan["labels"] for path in label["paths"]]
    return {str(path): sha256_file(path) if path.is_file() else "" for path in paths}


def _read_files(
    scan: Mapping[str, Any], label: Mapping[str, Any], volume: ScanVolume, max_voxels: int
) -> tuple[list[LabelMask], list[dict[str, str]]]:
    """Read the files of one layout; those with a contradicting header wait for the others."""
    groups = _groups(label)
    found: dict[int, list[LabelMask]] = {}
    rows: dict[int, dict[str, str]] = {}
    others: Masks | None = {} if len(groups) == 1 else None
    while len(found) + len(rows) < len(groups):
        for number, paths in enumerate(groups):
            if number in found or number in rows:
                continue
            try:
                found[number] = _read_group(scan, label, paths, volume, max_voxels, others)
            except HeaderContradictionError:
                continue
            except TumorAtlasError as error:
                name = paths[0].parent.name if _is_folders(label) else paths[0].name
                rows[number] = error.excluded_row(f"{scan['scan_id']}/{name}", _RULE)
        others = {mask.name: mask.voxels for number in sorted(found) for mask in found[number]}
    masks = [mask for number in sorted(found) for mask in found[number]]
    if _is_folders(label):
        lost = {
            n
            for number in rows
            for names in _meaning(label, groups[number]).values()
            for n in names
        }
        masks = _united(mask for mask in masks if mask.name not in lost)
    return masks, [rows[number] for number in sorted(rows)]


def _united(masks: Iterable[LabelMask]) -> list[LabelMask]:
    """Return one mask per name: a folder for each tumor, for instance."""
    united: dict[str, LabelMask] = {}
    for mask in masks:
        first = united.get(mask.name)
        voxels = mask.voxels if first is None else first.voxels | mask.voxels
        united[mask.name] = LabelMask(mask.name, voxels, mask.licence, mask.repairs)
    return list(united.values())


def _is_folders(label: Mapping[str, Any]) -> bool:
    return label["format"] == "dicom_masks"


def _groups(label: Mapping[str, Any]) -> list[list[Path]]:
    """Return the files that make up one label volume each."""
    paths = [Path(path) for path in label["paths"]]
    if label["format"] == "png_stack":
        return [paths]
    if not _is_folders(label):
        return [[path] for path in paths]
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    return list(folders.values())


def _read_group(
    scan: Mapping[str, Any],
    label: Mapping[str, Any],
    paths: Sequence[Path],
    volume: ScanVolume,
    max_voxels: int,
    others: Masks | None,
) -> list[LabelMask]:
    split = partial(
        split_values,
        meaning=_meaning(label, paths),
        path=paths[0],
        is_partial=label["partial"],
    )
    repairs: tuple[Repair, ...] = ()
    if label["format"] in ("png_stack", "dicom_masks"):
        read = read_mask_series if _is_folders(label) else read_png_stack
        stored = read(paths, volume.series)
        if len(values_present(stored)) > 2:
            raise _value_error(paths[0], values_present(stored), {0.0})
        # One structure, whatever its value: pictures hold 255 or 1, as their depth goes.
        values, _ = to_canonical((stored != 0).astype(np.uint8), volume.stored_grid)
        masks = split(values)
    else:
        file = read_nifti(paths[0], max_voxels=max_voxels)
        placer = MaskPlacer(volume, scan["repairs"], label["header"])
        masks, repairs = placer.place(file, split, others)
    return [
        LabelMask(name, voxels, label["licence"], repairs)
        for name, voxels in masks.items()
        if not name.startswith(_OUTSIDE_RELEASE)
    ]


def _meaning(label: Mapping[str, Any], paths: Sequence[Path]) -> Mapping[str, list[str]]:
    """Return the structures that each value of a label volume stands for."""
    if label["format"] == "nifti_masks":
        name = paths[0].name.removesuffix(".gz").removesuffix(".nii")
        if name not in known_label_names():
            raise InputError(
                "STRUCTURE_UNKNOWN",
                paths[0],
                f"no structure is named {name}",
                remedy="Rename the file after a row of resources/structures.csv or remove it",
            )
        return {"1": [name]}
    if _is_folders(label):
        named = [n for v, n in label["values"].items() if re.fullmatch(v, paths[0].parent.name)]
        return {"1": [name for names in named for name in names]}
    if label["format"] == "png_stack":
        return {"1": [name for names in label["values"].values() for name in names]}
    return label["values"]


def values_present(values: NDArray[Any]) -> set[float]:
    """Return the distinct values of a volume; small integers are looked up, not sorted."""
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        unsigned = values.view(f"u{values.dtype.itemsize}")
        seen = np.zeros(1 << (8 * values.dtype.itemsize), bool)
        for part in unsigned:
            seen[part] = True
        stored = np.flatnonzero(seen).astype(unsigned.dtype).view(values.dtype)
        return {float(value) for value in stored}
    return {float(value) for value in np.unique(values)}


def split_values(
    values: NDArray[Any], meaning: Mapping[str, list[str]], path: Path, *, is_partial: bool
) -> dict[str, NDArray[np.bool_]]:
    """Return one mask per structure of a label map; values without a meaning are refused.

    Parameters
    ----------
    values
        Label volume (z, y, x).
    meaning
        Value to the structures that such a voxel belongs to.
    path
        The file to name.
    is_partial
        A value that does not occur gives no mask, instead of an empty one.

    Raises
    ------
    InputError
        LABEL_VALUE.
    """
    present = values_present(values)
    known = {float(value) for value in meaning} | {0.0}
    if present - known:
        raise _value_error(path, present, known)
    voxels: dict[str, NDArray[np.bool_]] = {}
    for value, names in meaning.items():
        if is_partial and float(value) not in present:
            continue
        chosen = values == float(value)
        for name in names:
            voxels[name] = voxels[name] | chosen if name in voxels else chosen
    return voxels


def _value_error(path: Path, found: set[float], known: set[float]) -> InputError:
    return InputError(
        "LABEL_VALUE",
        path,
        "the label map holds values without a meaning",
        evidence=f"values {sorted(found - known)[:5]}, known {sorted(known)}",
        remedy="Correct the file, or the value's meaning in resources/sources",
    )


def _check_sides(
    scan_id: str, masks: Sequence[LabelMask]
) -> tuple[list[LabelMask], list[dict[str, str]]]:
    """Give up masks of one layout whose sides of the patient contradict each other."""
    pairs = (*PAIRS, SPLEEN_LIVER)
    sided = {name for pair in pairs for name in pair}
    places = {m.name: centroid_x(m.voxels) for m in masks if m.name in sided and m.voxels.any()}
    swapped = [
        (left, right)
        for left, right in pairs
        if left in places and right in places and places[left] > places[right]
    ]
    if SPLEEN_LIVER in swapped:
        reason = "the liver lies to the patient's left of the spleen"
        evidence = f"liver at x {places['liver']:.0f}, spleen at x {places['spleen']:.0f}"
        remedy = "Look at the scan: situs inversus, or masks or scan with swapped sides"
        rows = [_side_row(scan_id, m.name, "LIVER_LEFT", reason, evidence, remedy) for m in masks]
        return [], rows
    rows = []
    for left, right in swapped:
        reason = f"{left} lies to the patient's right of {right}"
        evidence = f"at x {places[left]:.0f} and {places[right]:.0f}"
        remedy = "Look at both masks and swap their names where they are wrong"
        for name in (left, right):
            rows.append(_side_row(scan_id, name, "SIDES_SWAPPED", reason, evidence, remedy))
    lost = {name for pair in swapped for name in pair}
    return [mask for mask in masks if mask.name not in lost], rows


def _side_row(
    scan_id: str, name: str, code: str, reason: str, evidence: str, remedy: str
) -> dict[str, str]:
    row = {"id": f"{scan_id}/{name}", "rule": _RULE, "code": code, "reason": reason}
    return row | {"evidence": evidence, "remedy": remedy}
