"""Read a listed scan and its labels, whatever format its source uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import GeometryError, InputError, TumorAtlasError
from tumoratlas.core.files import sha256_file, sha256_json
from tumoratlas.images.checks import Finding
from tumoratlas.images.ct import check_ct, to_hu
from tumoratlas.images.dicom import DicomSeries, read_png_stack, read_series
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti
from tumoratlas.ingest.sources import known_label_names

SAME_GRID_VOXELS = 0.1
OLDEST_YEARS = 90


@dataclass(frozen=True)
class ScanVolume:
    """A scan in canonical orientation.

    Attributes
    ----------
    hu
        int16 (z, y, x), axes growing toward RAS+, Hounsfield units as stored.
    grid
        Its grid.
    stored_orientation
        Axis codes before turning.
    sha256
        Hash of the image file, or of a series' files in slice order.
    facts
        Header facts (``sex, age, manufacturer, phase``), empty text where unknown; age in years,
        ``90+`` from 90 on.
    findings
        What the checks of level ``warn`` found.
    series
        The DICOM series, for label files that are paired with its files.
    """

    hu: NDArray[np.int16]
    grid: Grid
    stored_orientation: str
    sha256: str
    facts: Mapping[str, str]
    findings: tuple[Finding, ...]
    series: DicomSeries | None = None


@dataclass(frozen=True)
class LabelMask:
    """The voxels of one structure on its scan's canonical grid, bool (z, y, x)."""

    name: str
    voxels: NDArray[np.bool_]


def read_scan(scan: Mapping[str, Any], *, max_voxels: int, min_slices: int) -> ScanVolume:
    """Read a scan found by `list_scans`, checked and turned to RAS+.

    Raises
    ------
    InputError, GeometryError
        Any refusal of `read_nifti`, `read_series` or `check_ct`.
    """
    path = Path(scan["image_path"])
    if scan["format"] == "dicom":
        series = read_series(sorted(path.glob(scan["pattern"])), max_voxels=max_voxels)
        array, grid, findings, facts = series.array, series.grid, series.findings, series.facts
        digest = sha256_json([sha256_file(file) for file in series.files])
    else:
        series, facts = None, {}
        volume = read_nifti(path, max_voxels=max_voxels)
        array, grid, findings, digest = volume.array, volume.grid, volume.findings, volume.sha256
    findings = (*findings, *check_ct(array, grid, path, min_slices=min_slices))
    hu, canonical = to_canonical(to_hu(array, path), grid)
    wanted = {name: str(facts.get(name) or "") for name in ("sex", "manufacturer", "phase")}
    wanted["age"] = _age(facts.get("age_years"))
    return ScanVolume(hu, canonical, grid.orientation, digest, wanted, findings, series)


def _age(years: float | None) -> str:
    """Return an age in years; 90 and above, which would single a patient out, as one class."""
    if years is None:
        return ""
    return f"{years:g}" if years < OLDEST_YEARS else f"{OLDEST_YEARS}+"


def read_labels(
    scan: Mapping[str, Any], volume: ScanVolume, *, max_voxels: int
) -> tuple[list[LabelMask], list[dict[str, str]]]:
    """Read every label file of a scan onto the scan's canonical grid.

    Returns
    -------
    The masks, one per structure and file, and an ``excluded`` row for each label file that
    cannot be used: the scan stays, its structure stays unknown.
    """
    masks: list[LabelMask] = []
    excluded: list[dict[str, str]] = []
    for label in scan["labels"]:
        paths = [Path(path) for path in label["paths"]]
        for group in [paths] if label["format"] == "png_stack" else [[path] for path in paths]:
            try:
                masks += _read_label(label, group, volume, max_voxels)
            except TumorAtlasError as error:
                label_id = f"{scan['scan_id']}/{group[0].name}"
                excluded.append(error.excluded_row(label_id, "harmonize_scans"))
    return masks, excluded


def _read_label(
    label: Mapping[str, Any], paths: list[Path], volume: ScanVolume, max_voxels: int
) -> list[LabelMask]:
    path = paths[0]
    if label["format"] == "png_stack":
        stack = read_png_stack(paths, volume.series)
        values, _ = to_canonical(stack, volume.series.grid)
    else:
        values = _on_grid_of(volume, path, max_voxels)
    if label["format"] == "nifti_masks":
        name = path.name.removesuffix(".gz").removesuffix(".nii")
        if name not in known_label_names():
            raise InputError(
                "STRUCTURE_UNKNOWN",
                path,
                f"no structure is named {name}",
                remedy="Rename the file after a row of resources/structures.csv or remove it",
            )
        meaning = {"1": [name]}
    else:
        meaning = label["values"]
    return _split(values, meaning, path, is_binary=label["format"] == "png_stack")


def _on_grid_of(volume: ScanVolume, path: Path, max_voxels: int) -> NDArray[Any]:
    """Return a label file's voxels turned to RAS+, refused unless they lie on the scan's."""
    file = read_nifti(path, max_voxels=max_voxels)
    values, grid = to_canonical(file.array, file.grid)
    distance_mm = grid.corner_distance_mm(volume.grid)
    if distance_mm > SAME_GRID_VOXELS * min(volume.grid.spacing_mm):
        raise GeometryError(
            "LABEL_GRID",
            path,
            "the mask does not lie on its scan's grid",
            evidence=f"shape {grid.shape} against {volume.grid.shape}, "
            f"corners apart by {distance_mm:.2f} mm",
            remedy="Export the mask again on the grid of its scan",
        )
    return values


def _split(
    values: NDArray[Any], meaning: Mapping[str, list[str]], path: Path, *, is_binary: bool
) -> list[LabelMask]:
    """Return one mask per structure of a label map; values without a meaning are refused.

    The pictures of a binary stack hold 255 or 1, as their depth goes: any one value is it.
    """
    present = np.unique(values)
    known = {float(value) for value in meaning} | {0.0}
    stray = [float(v) for v in present if float(v) not in known]
    if stray and not (is_binary and len(present) <= 2):
        raise InputError(
            "LABEL_VALUE",
            path,
            "the label map holds values without a meaning",
            evidence=f"values {stray[:5]}, known {sorted(known)}",
            remedy="Correct the file, or the value's meaning in resources/sources",
        )
    voxels: dict[str, NDArray[np.bool_]] = {}
    for value, names in meaning.items():
        chosen = values != 0 if is_binary else values == float(value)
        for name in names:
            voxels[name] = voxels[name] | chosen if name in voxels else chosen
    return [LabelMask(name, mask) for name, mask in voxels.items()]


def label_hashes(scan: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each label file of a scan, by path; a missing file gives ``""``."""
    paths = [Path(path) for label in scan["labels"] for path in label["paths"]]
    return {str(path): sha256_file(path) if path.is_file() else "" for path in paths}
