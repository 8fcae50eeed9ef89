"""CT series in DICOM: slices in order of position, in HU, on their grid; masks beside them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tumoratlas.images.checks import Finding, Repair, refusal, warning
from tumoratlas.images.dicom_facts import series_facts, series_links
from tumoratlas.images.dicom_files import (
    kind_of,
    name_order,
    name_pattern,
    number_of,
    parse_file,
    slices_of,
    text_of,
)
from tumoratlas.images.dicom_geometry import drop_copies, place_slices
from tumoratlas.images.dicom_pixels import (
    decode_frames,
    fit_stored_bits,
    is_lossy,
    to_hounsfield,
)
from tumoratlas.images.grid import Grid
from tumoratlas.images.inflate import read_bytes

_MAX_FILE_BYTES = 1 << 28
# A mask slice lies on a CT slice if it is this close, as a share of the slice spacing.
_SAME_PLACE = 0.1
_ONE_VALUE = ("Modality", "SeriesInstanceUID", "PatientID", "Rows", "Columns")


@dataclass(frozen=True)
class DicomSeries:
    """A CT series that passed every check of level ``refuse``.

    Attributes
    ----------
    array
        int16 HU (z, y, x); z grows along the slice normal.
    grid
        Where the voxels lie; the affine is RAS+.
    facts
        The allow-listed facts of `series_facts`.
    files
        The file of each slice, in the order of z; the frames of one file share it.
    sha256
        Hash over the hashes of the slices' files in the order of z.
    findings
        Checks of level ``warn`` that found something.
    repairs
        What was changed to get the values: ``stored_bits``.
    links
        Raw identifiers of `series_links`; they identify the patient and are never stored.
    """

    array: NDArray[np.int16]
    grid: Grid
    facts: dict[str, str | float | bool | None]
    files: tuple[Path, ...]
    sha256: str
    findings: tuple[Finding, ...]
    repairs: tuple[Repair, ...]
    links: dict[str, str]


def read_series(source: Path | Sequence[Path], *, max_voxels: int) -> DicomSeries:
    """Read one CT series of single-slice files or of enhanced multi-frame files.

    Slices are ordered and spaced by Image Position projected onto the slice normal
    (DICOM PS3.3 C.7.6.2.1.1), never by name, instance number or slice thickness. Slope and
    intercept are applied per slice. Copies of a slice count once.

    Parameters
    ----------
    source
        A folder, whose files are all looked at, or the files themselves.
    max_voxels
        Largest volume to take in.

    Raises
    ------
    InputError
        Codes of kind file and series, HU_RANGE or VOLUME_TOO_LARGE in
        `tumoratlas.images.checks.CHECKS`.
    """
    is_folder = isinstance(source, Path)
    paths = sorted(p for p in source.iterdir() if not p.is_dir()) if is_folder else sorted(source)
    subject = source if is_folder else (paths[0].parent if paths else "no files")
    files, others = _parse_files(subject, paths, max_voxels)
    if not files:
        codes = sorted(set(others.values()))
        found = f"{len(paths)} files{': ' if codes else ''}{', '.join(codes)}"
        raise refusal("NO_DICOM", subject, found)
    datasets = [dataset for _, dataset, _ in files]
    _check_alike(subject, datasets)
    digests = {path: digest for path, _, digest in files}
    slices, copies = drop_copies([s for path, d, _ in files for s in slices_of(path, d)])
    order, affine, findings = place_slices(subject, slices)
    slices = [slices[index] for index in order]
    words = np.empty((len(slices), int(datasets[0].Rows), int(datasets[0].Columns)), np.uint16)
    place = {(part.path, part.frame): z for z, part in enumerate(slices)}
    for path, dataset, _ in files:
        for frame, stored in enumerate(decode_frames(path, dataset)):
            if (path, frame) in place:
                words[place[path, frame]] = stored
        # The compressed or stored pixels of a whole series are as large as the volume.
        del dataset.PixelData
    repairs, kept = fit_stored_bits(words, slices)
    for z, part in enumerate(slices):
        to_hounsfield(words[z], part)
    findings += kept
    if copies:
        shown = f"{len(copies)}, such as {copies[0].path.name}"
        findings += (warning("DUPLICATE_SLICES", shown),)
    if any(is_lossy(dataset) for dataset in datasets):
        findings += (warning("LOSSY"),)
    if others:
        findings += (warning("OTHER_FILES", f"{len(others)}, such as {min(others)}"),)
    return DicomSeries(
        array=words.view(np.int16),
        grid=Grid.of(words.shape, affine),
        facts=series_facts(slices[0].dataset),
        files=tuple(part.path for part in slices),
        sha256=hashlib.sha256("".join(digests[s.path] for s in slices).encode()).hexdigest(),
        findings=findings,
        repairs=repairs,
        links=series_links(datasets),
    )


def read_png_stack(files: Sequence[Path], series: DicomSeries) -> NDArray[np.uint8]:
    """Put one mask picture per slice onto the grid of a series.

    Pictures and slices are paired by their rank in file-name order, the convention of CHAOS:
    there that order runs against the order of positions, and pairing by position would give
    every mask to another slice.

    Returns
    -------
    The pictures' values as uint8 (z, y, x) on ``series.grid``.

    Raises
    ------
    InputError
        PNG_COUNT, PNG_SHAPE.
    """
    if len(files) != len(series.files):
        subject = files[0].parent if files else "no files"
        raise refusal("PNG_COUNT", subject, f"{len(files)} pictures, {len(series.files)} slices")
    out = np.empty(series.array.shape, np.uint8)
    by_name = sorted(range(len(files)), key=lambda z: name_order(series.files[z]))
    for z, path in zip(by_name, sorted(files, key=name_order), strict=True):
        data = read_bytes(path, max_bytes=_MAX_FILE_BYTES)
        try:
            picture = imagecodecs.png_decode(data)
        except (imagecodecs.PngError, ValueError) as error:
            raise refusal("PNG_SHAPE", path, str(error)) from error
        if picture.shape != out.shape[1:] or picture.dtype != np.uint8:
            raise refusal("PNG_SHAPE", path, f"{picture.dtype} {picture.shape}")
        out[z] = picture
    return out


def read_mask_series(files: Sequence[Path], series: DicomSeries) -> NDArray[np.uint8]:
    """Put a structure's binary DICOM slices, one per slice of the CT, onto the CT's grid.

    This is how 3D-IRCADb-01 holds its masks. Slices are paired by Image Position if every mask
    lies on a CT slice of its own; if none does, since headers of masks are often poor, by the
    number in the file's name (``image_12``). Slope and intercept are not applied.

    Returns
    -------
    The stored values, 0 and one other, as uint8 (z, y, x) on ``series.grid``.

    Raises
    ------
    InputError
        MASK_SERIES; FILE_MISSING and the like, DICOM_UNREADABLE, DICOM_UNDECODABLE.
    """
    files = sorted(files, key=name_order)
    subject = files[0].parent if files else "no files"
    if len(files) != len(series.files):
        raise refusal("MASK_SERIES", subject, f"{len(files)} masks, {len(series.files)} slices")
    out = np.empty(series.array.shape, np.uint8)
    datasets = []
    for path in files:
        dataset = parse_file(path, read_bytes(path, max_bytes=_MAX_FILE_BYTES))
        if dataset is None or "Rows" not in dataset:
            raise refusal("MASK_SERIES", path, "no DICOM image")
        datasets.append(dataset)
    rows = _rows_of_masks(subject, files, datasets, series)
    for z, path, dataset in zip(rows, files, datasets, strict=True):
        frames = list(decode_frames(path, dataset))
        if len(frames) != 1 or frames[0].shape != out.shape[1:] or frames[0].max() > 255:
            shown = f"{len(frames)} frames of {frames[0].shape}, largest value {frames[0].max()}"
            raise refusal("MASK_SERIES", path, shown)
        out[z] = frames[0]
    values = np.flatnonzero(np.bincount(out.reshape(-1), minlength=256)[1:]) + 1
    if len(values) > 1:
        raise refusal("MASK_SERIES", subject, f"values {values[:5].tolist()} in a binary mask")
    return out


def _rows_of_masks(
    subject: object, files: Sequence[Path], datasets: Sequence[Dataset], series: DicomSeries
) -> list[int]:
    """Return the z of each mask slice."""
    places = _mask_positions(datasets)
    if places is not None:
        to_lps = np.diag([-1.0, -1.0, 1.0])
        affine = series.grid.affine
        steps = np.arange(len(files))[:, None] * affine[:3, 2]
        slices = (affine[:3, 3] + steps) @ to_lps
        distance = np.linalg.norm(places[:, None] - slices, axis=2)
        is_near = distance.min(axis=1) <= _SAME_PLACE * series.grid.spacing_mm[2]
        nearest = distance.argmin(axis=1).tolist()
        if is_near.all() and len(set(nearest)) == len(files):
            return nearest
        if is_near.any():
            shown = f"{int(is_near.sum())} of {len(files)} masks lie on slices"
            raise refusal("MASK_SERIES", subject, shown)
    numbers = [_numbers(path) for path in series.files]
    wanted = [_numbers(path) for path in files]
    if sorted(numbers) != sorted(wanted) or len(set(numbers)) < len(numbers):
        raise refusal("MASK_SERIES", subject, "neither positions nor names pair masks and slices")
    return [numbers.index(number) for number in wanted]


def _mask_positions(datasets: Sequence[Dataset]) -> NDArray[np.float64] | None:
    """Return the masks' positions (mask, xyz) in LPS mm if all have one and none is repeated."""
    try:
        places = np.array([[float(v) for v in d.ImagePositionPatient] for d in datasets])
    except (AttributeError, TypeError, ValueError):
        return None
    is_whole = places.shape == (len(datasets), 3) and np.isfinite(places).all()
    return places if is_whole and len(np.unique(places, axis=0)) == len(places) else None


def _parse_files(
    subject: object, paths: Sequence[Path], max_voxels: int
) -> tuple[list[tuple[Path, Dataset, str]], dict[str, str]]:
    """Return path, data set and hash of the CT slices, and name and code of other files."""
    files: list[tuple[Path, Dataset, str]] = []
    others: dict[str, str] = {}
    strange: list[Path] = []
    voxels = 0
    for path in paths:
        # Two bytes a voxel, and room for the header.
        data = read_bytes(path, max_bytes=max(_MAX_FILE_BYTES, 3 * max_voxels))
        dataset = parse_file(path, data)
        kind = kind_of(dataset) if dataset is not None else ("OTHER_FILES", "")
        if dataset is None:
            strange.append(path)
        if kind is not None and not _is_image_of_other_modality(dataset, kind[0]):
            others[path.name] = kind[0]
            continue
        files.append((path, dataset, hashlib.sha256(data).hexdigest()))
        voxels += int(dataset.get("NumberOfFrames") or 1) * dataset.Rows * dataset.Columns
        if voxels > max_voxels:
            raise refusal("VOLUME_TOO_LARGE", subject, f"more than {max_voxels} voxels")
    patterns = {name_pattern(path) for path, _, _ in files}
    for path in strange:
        if name_pattern(path) in patterns:
            raise refusal("DICOM_UNREADABLE", path, "named like a slice, but not DICOM")
    return files, others


def _is_image_of_other_modality(dataset: Dataset | None, code: str) -> bool:
    """Return whether a file is an image that someone may have taken for a CT slice."""
    if dataset is None or code != "NOT_CT_SERIES" or "Rows" not in dataset:
        return False
    return text_of(dataset, "Modality") not in ("SEG", "RTDOSE", "PR", "REG")


def _check_alike(subject: object, datasets: Sequence[Dataset]) -> None:
    modalities = {text_of(dataset, "Modality") for dataset in datasets}
    if "CT" not in modalities:
        raise refusal("NOT_CT_SERIES", subject, f"modality {', '.join(sorted(modalities))!r}")
    for name in _ONE_VALUE:
        values = {text_of(dataset, name) for dataset in datasets}
        if len(values) > 1:
            raise refusal("MIXED_SERIES", subject, f"{len(values)} values of {name}")
    if len({number_of(dataset, "RescaleIntercept") is None for dataset in datasets}) > 1:
        raise refusal("MIXED_SERIES", subject, "slices with and without RescaleIntercept")


def _numbers(path: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"[0-9]+", path.name))
