"""The series of a folder of DICOM files, told apart by their headers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from tumoratlas.core.errors import InputError
from tumoratlas.images.checks import CHECKS
from tumoratlas.images.dicom_files import (
    Slice,
    kind_of,
    name_pattern,
    number_of,
    parse_header,
    slices_of,
    text_of,
    value_of,
)
from tumoratlas.images.dicom_geometry import place_slices

# What may tell the phases of one series apart, and the letter of the key. Times give ranks.
_PHASE_TAGS = (
    ("AcquisitionNumber", "a"),
    ("TemporalPositionIdentifier", "t"),
    ("AcquisitionTime", "p"),
    ("ContentTime", "p"),
)

_File = tuple[Path, Dataset]
_Group = tuple[str, tuple[str, str] | None]


@dataclass(frozen=True)
class SeriesFiles:
    """The files of one series, or of one phase of it.

    Attributes
    ----------
    key
        Empty for the only CT volume of a folder. Otherwise ``s<SeriesNumber>``, for a phase with
        ``a<AcquisitionNumber>``, ``t<TemporalPositionIdentifier>`` or ``p<rank in time>``;
        volumes of one folder that still share a key get six digits of their identifier's hash.
        So does what is refused, if a volume or another refused series has its number, and
        files without a series.
    files
        The files, by name.
    refusal
        Code and reason if these files are no CT volume, else None.
    """

    key: str
    files: tuple[Path, ...]
    refusal: tuple[str, str] | None = None


def split_series(paths: Iterable[Path]) -> list[SeriesFiles]:
    """Tell apart the series of a folder; only headers are read.

    Files are one series if they share the Series Instance UID or, where that is empty, series
    number, orientation and size. A series that repeats positions is split into phases by
    acquisition number, temporal position, acquisition time or content time, the first of which
    leaves only regular stacks; if none does, it stays whole for `read_series` to refuse. A file
    that cannot be parsed is refused; beside a single volume, which it may be part of, it is
    given to that volume, so that `read_series` refuses the whole.

    Returns
    -------
    The CT volumes by key, then what is refused, by the first file's name: LOCALIZER,
    SECONDARY_CAPTURE, NOT_CT_SERIES, ONE_SLICE, OTHER_FILES, DICOM_UNREADABLE, EMPTY_FILE,
    FILE_MISSING.
    """
    groups, strange, bad = _read_headers(paths)
    volumes: list[_Found] = []
    refused = [_Found("file", path.name, [path], reason) for path, reason in bad.items()]
    if strange:
        reason = _reason("OTHER_FILES", "not DICOM")
        refused.append(_Found("files", strange[0].name, strange, reason))
    for (identity, kind), files in groups.items():
        name = _series_name(identity, files[0][1])
        members = [path for path, _ in files]
        if kind is not None:
            refused.append(_Found(name, f"{identity} {kind}", members, _reason(*kind)))
        elif _is_one_slice(files):
            refused.append(_Found(name, identity, members, _reason("ONE_SLICE")))
        else:
            volumes += [_Found(name + part, identity, paths) for part, paths in _phases(files)]
    if len(volumes) == 1:
        # The unreadable files may be its slices.
        accepted = [SeriesFiles("", tuple(sorted([*volumes[0].files, *bad])))]
        refused = [one for one in refused if one.files[0] not in bad]
    else:
        accepted = _with_keys(volumes, [])
    taken = [one.key for one in accepted]
    return [*accepted, *sorted(_with_keys(refused, taken), key=lambda one: one.files)]


def _read_headers(
    paths: Iterable[Path],
) -> tuple[dict[_Group, list[_File]], list[Path], dict[Path, tuple[str, str]]]:
    """Return the files of each series and kind, files that are not DICOM, and damaged ones."""
    groups: dict[_Group, list[_File]] = {}
    strange: list[Path] = []
    bad: dict[Path, tuple[str, str]] = {}
    for path in sorted(paths):
        try:
            dataset = parse_header(path)
        except InputError as error:
            bad[path] = _reason(error.code, error.evidence)
            continue
        if dataset is None:
            strange.append(path)
            continue
        # Files that are no images need not be told apart by series.
        identity = _identity(dataset) if "Rows" in dataset else ""
        groups.setdefault((identity, kind_of(dataset)), []).append((path, dataset))
    patterns = {name_pattern(path) for files in groups.values() for path, _ in files}
    for path in strange:
        if name_pattern(path) in patterns:
            bad[path] = _reason("DICOM_UNREADABLE", "named like a slice, but not DICOM")
    return groups, [path for path in strange if path not in bad], bad


@dataclass(frozen=True)
class _Found:
    name: str
    identity: str
    files: Sequence[Path]
    refusal: tuple[str, str] | None = None


def _reason(code: str, evidence: str = "") -> tuple[str, str]:
    meaning = CHECKS[code].meaning
    return code, f"{meaning} ({evidence})" if evidence else meaning


def _identity(dataset: Dataset) -> str:
    uid = text_of(dataset, "SeriesInstanceUID")
    if uid:
        return uid
    try:
        # Adding 0 turns a rounded -0 into 0.
        cosines = value_of(dataset, "ImageOrientationPatient") or []
        orientation = [f"{round(float(v), 3) + 0.0:.3f}" for v in cosines]
    except (TypeError, ValueError):
        orientation = []
    names = ("SeriesNumber", "Rows", "Columns")
    return "/".join([*(text_of(dataset, name) for name in names), *orientation])


def _series_name(identity: str, dataset: Dataset) -> str:
    if not identity:
        return "files"
    number = re.sub(r"[^0-9]", "", text_of(dataset, "SeriesNumber"))
    return f"s{number or _short_hash(identity)}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _with_keys(found: Sequence[_Found], taken: Sequence[str]) -> list[SeriesFiles]:
    names = [*taken, *(one.name for one in found)]
    keyed = []
    for one in found:
        key = one.name if names.count(one.name) == 1 else f"{one.name}-{_short_hash(one.identity)}"
        keyed.append(SeriesFiles(key, tuple(one.files), one.refusal))
    return sorted(keyed, key=lambda one: one.key)


def _is_one_slice(files: Sequence[_File]) -> bool:
    """Return whether a series has one slice, however many copies of it."""
    places = {(*(value_of(dataset, "ImagePositionPatient") or [path]),) for path, dataset in files}
    frames = max(number_of(dataset, "NumberOfFrames") or 1 for _, dataset in files)
    return len(places) == 1 and frames == 1


def _phases(files: Sequence[_File]) -> list[tuple[str, list[Path]]]:
    """Return key suffix and files of each phase; one phase, without suffix, if it cannot be told.

    A file that repeats another's SOP instance at its place is a copy and goes with it.
    """
    whole = [("", [path for path, _ in files])]
    try:
        slices = _distinct(files)
    except InputError:
        return whole
    if len({part.position for part in slices}) == len(slices):
        return whole
    for tag, letter in _PHASE_TAGS:
        parts: dict[str, list[_File]] = {}
        for path, dataset in files:
            parts.setdefault(text_of(dataset, tag), []).append((path, dataset))
        if len(parts) > 1 and all(_is_regular(part) for part in parts.values()):
            ordered = sorted(parts, key=lambda value: (_as_number(value), value))
            marks = [re.sub(r"[^0-9]", "", value) for value in ordered]
            if letter == "p" or len(set(marks)) < len(marks):
                marks = [str(rank + 1) for rank in range(len(ordered))]
            return [
                (f"{letter}{mark}", [path for path, _ in parts[value]])
                for mark, value in zip(marks, ordered, strict=True)
            ]
    return whole


def _distinct(files: Sequence[_File]) -> list[Slice]:
    found: dict[tuple[object, ...], Slice] = {}
    for path, dataset in files:
        uid = text_of(dataset, "SOPInstanceUID") or str(path)
        for part in slices_of(path, dataset):
            found.setdefault((uid, part.frame, part.position), part)
    return list(found.values())


def _is_regular(files: Sequence[_File]) -> bool:
    try:
        place_slices(files[0][0].parent, _distinct(files))
    except InputError:
        return False
    return True


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
