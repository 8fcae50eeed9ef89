"""Read a listed scan, whatever format its source uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import InputError, PutOffError
from tumoratlas.images.checks import Finding, Repair, warning
from tumoratlas.images.ct import check_ct, to_hu
from tumoratlas.images.dicom import DicomSeries, read_series
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti
from tumoratlas.images.statistics import VolumeStatistics, measure_volume, slice_axis
from tumoratlas.ingest.pseudonyms import pseudonym
from tumoratlas.ingest.repairs import repair_scan
from tumoratlas.ingest.tree import glob_regex

OLDEST_YEARS = 90


@dataclass(frozen=True)
class StoredScan:
    """A scan in the voxel order of its file, checked and repaired.

    Attributes
    ----------
    hu
        int16 (z, y, x), Hounsfield units.
    grid
        Its grid.
    sha256
        Hash of the image file, or over those of a series' slices in the order of z.
    facts
        Header facts (``sex, age, manufacturer, phase``), empty text where unknown; age in years,
        ``90+`` from 90 on.
    findings
        What the checks of level ``warn`` found.
    repairs
        What was put right, in the order in which it was done.
    series
        The DICOM series, for label files that are paired with its files.
    links
        Pseudonyms of patient, study and frame of reference, which series of one patient share;
        only with a key.
    statistics
        Of the repaired voxels.
    """

    hu: NDArray[np.int16]
    grid: Grid
    sha256: str
    facts: Mapping[str, str]
    findings: tuple[Finding, ...]
    repairs: tuple[Repair, ...]
    series: DicomSeries | None
    links: tuple[str, ...]
    statistics: VolumeStatistics


@dataclass(frozen=True)
class ScanVolume:
    """A scan in canonical orientation.

    Attributes
    ----------
    hu
        int16 (z, y, x), axes growing toward RAS+, Hounsfield units.
    grid
        Its grid.
    stored_grid
        The grid in the voxel order of the file.
    sha256, facts, findings, series, repairs
        As in `StoredScan`.
    """

    hu: NDArray[np.int16]
    grid: Grid
    stored_grid: Grid
    sha256: str
    facts: Mapping[str, str]
    findings: tuple[Finding, ...]
    series: DicomSeries | None = None
    repairs: tuple[Repair, ...] = ()

    @property
    def stored_orientation(self) -> str:
        """Axis codes before turning."""
        return self.stored_grid.orientation


def read_stored(
    scan: Mapping[str, Any], *, max_voxels: int, min_slices: int, key: bytes | None = None
) -> StoredScan:
    """Read a scan found by `list_scans`, repaired as listed and checked; its axes stay.

    Parameters
    ----------
    scan
        The listed scan.
    max_voxels
        Largest volume to take in.
    min_slices
        Fewer axial slices are recorded.
    key
        Key of the pseudonyms in `StoredScan.links`; None for sources that are not internal.

    Raises
    ------
    InputError, GeometryError
        Any refusal of `read_nifti`, `read_series`, `repair_scan` or `check_ct`.
    """
    path = Path(scan["image_path"])
    facts: Mapping[str, Any] = {}
    series, links = None, ()
    if scan["format"] == "dicom":
        series = read_series(_series_files(scan, path), max_voxels=max_voxels)
        volume, facts = series, series.facts
        if key is not None:
            links = tuple(sorted({pseudonym(key, text) for text in series.links.values() if text}))
    else:
        volume = read_nifti(path, max_voxels=max_voxels)
    hu, grid, repairs, unneeded = repair_scan(
        scan["repairs"], to_hu(volume.array, path), volume.grid, path
    )
    statistics = measure_volume(hu, slice_axis(grid))
    dtype = volume.array.dtype
    suspects = tuple(warning("NAMED_SUSPECT", code) for code in scan["suspects"])
    wanted = {name: str(facts.get(name) or "") for name in ("sex", "manufacturer", "phase")}
    wanted["age"] = _age(facts.get("age_years"))
    return StoredScan(
        hu,
        grid,
        volume.sha256,
        wanted,
        (
            *volume.findings,
            *unneeded,
            *check_ct(statistics, path, stored_dtype=dtype, min_slices=min_slices),
            *suspects,
        ),
        (*volume.repairs, *repairs),
        series,
        links,
        statistics,
    )


def read_scan(scan: Mapping[str, Any], *, max_voxels: int, min_slices: int) -> ScanVolume:
    """Read a scan found by `list_scans`, repaired as listed, checked and turned to RAS+.

    Raises
    ------
    InputError, GeometryError
        As `read_stored`.
    """
    stored = read_stored(scan, max_voxels=max_voxels, min_slices=min_slices)
    hu, grid = to_canonical(stored.hu, stored.grid)
    return ScanVolume(
        hu,
        grid,
        stored.grid,
        stored.sha256,
        stored.facts,
        stored.findings,
        stored.series,
        stored.repairs,
    )


def read_unchanged(
    scan: Mapping[str, Any], file_sha256: str, *, max_voxels: int, min_slices: int
) -> ScanVolume:
    """Read a scan as `read_scan`, of which the file must be the one that was fingerprinted.

    Raises
    ------
    PutOffError
        ``SCAN_CHANGED``; also where the file cannot be read, since it could be then.
    """
    try:
        volume = read_scan(scan, max_voxels=max_voxels, min_slices=min_slices)
    except InputError as error:
        raise scan_changed(scan, f"its file ({error.code})") from error
    if volume.sha256 != file_sha256:
        raise scan_changed(scan, "its file")
    return volume


def scan_changed(scan: Mapping[str, Any], what: str) -> PutOffError:
    """Return what tells that ``what`` of a scan is not what it was when it was fingerprinted."""
    return PutOffError(
        "SCAN_CHANGED",
        scan["image_path"],
        f"{what} changed since the scan was fingerprinted",
        remedy="Put the file back, or run again with `--forcerun list_scans`",
    )


def _series_files(scan: Mapping[str, Any], folder: Path) -> list[Path]:
    if scan["files"]:
        return [folder / name for name in scan["files"]]
    pattern = re.compile(glob_regex(scan["pattern"]))
    paths = (path for path in folder.iterdir() if pattern.fullmatch(path.name))
    return sorted(path for path in paths if not path.name.startswith("._"))


def _age(years: float | None) -> str:
    """Return an age in years; 90 and above, which would single a patient out, as one class."""
    if years is None:
        return ""
    return f"{years:g}" if years < OLDEST_YEARS else f"{OLDEST_YEARS}+"
