"""The masks of a case as one DICOM SEG object on its original series."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

import tumoratlas
from tumoratlas.core.files import to_json
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti
from tumoratlas.release.facts import Rows
from tumoratlas.release.seg.codes import Meaning, Part, describe, parts_of
from tumoratlas.release.seg.source import SourceSeries, geometry_error, read_source_series

SEG = "seg.dcm"
# Voxels of mask and series may lie this far apart, as a share of the smallest spacing.
SAME_GRID_VOXELS = 1e-3
# The standard wants a date and a time. These are of nobody's scan or birth.
_DATE, _TIME = "18951108", "000000"
# High, so that viewers list it behind the series of the scanner.
_SERIES_NUMBER = 9001

_MOST_VOXELS = 2**31

Frames = dict[tuple[int, int], bytes]


def write_seg(
    folder: Path,
    *,
    case_id: str,
    scan: Mapping[str, Any],
    written: Path,
    tumors: Rows,
    codes: Mapping[str, Meaning],
    max_voxels: int,
    min_slices: int,
) -> dict[str, Any]:
    """Write ``seg.dcm`` with the masks of a case on the slices of its original series.

    One binary segment per organ mask, tumor and cyst that has a voxel (`parts_of`); frames
    without a voxel are left out. Equal inputs give equal bytes: identifiers come from the
    content, and there are no dates. Nothing is taken from the series but the identifiers of its
    slices, its study and its frame of reference, and where the slices lie.

    Parameters
    ----------
    folder
        Folder to write into.
    case_id
        Id of the case; it is also the patient's id in the file.
    scan
        The kept scan (`tumoratlas.ingest.steps.case_members`), a DICOM series.
    written
        The case's folder of `tumoratlas.release.cases.write_case`.
    tumors
        The case's rows of the table ``tumors``.
    codes
        `tumoratlas.release.seg.codes.read_codes`.
    max_voxels, min_slices
        Limits of `tumoratlas.ingest.readers.read_stored`.

    Returns
    -------
    Row with ``case_id``, and how many ``segments`` and ``frames`` the file has; none of both, and
    no file, if all masks are empty.

    Raises
    ------
    ReleaseError
        ``SEG_GEOMETRY``, ``SEG_SERIES``: the masks cannot be put on the series.
    InputError
        The series cannot be read, or changed (`read_source_series`).
    """
    limits = {"max_voxels": max_voxels, "min_slices": min_slices}
    series = read_source_series(case_id, scan, **limits)
    parts, frames = masks_as_frames(case_id, written, tumors, series.grid)
    if frames:
        _object(case_id, series, parts, frames, codes).save_as(
            folder / SEG, enforce_file_format=True
        )
    return {"case_id": case_id, "segments": len(parts), "frames": len(frames)}


def uid_of(*parts: str) -> str:
    """Return the UID (DICOM PS3.5 B.2) that these texts have for ever."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16])}"


def masks_as_frames(
    case_id: str, folder: Path, tumors: Rows, series: Grid
) -> tuple[list[Part], Frames]:
    """Return the parts of a case that have a voxel, and each one's slices that have one.

    Parameters
    ----------
    case_id
        The case, for errors.
    folder
        Folder of its masks.
    tumors
        Its rows of the table ``tumors``.
    series
        Grid of the original series.

    Returns
    -------
    The parts, and the bits of their slices, row by row and lowest bit first, by number of the
    part (from 1) and z in the series.

    Raises
    ------
    ReleaseError
        ``SEG_GEOMETRY``.
    """
    kept: list[Part] = []
    frames: Frames = {}
    for file, some in groupby(parts_of(folder, tumors), key=attrgetter("file")):
        volume = read_nifti(folder / file, max_voxels=_MOST_VOXELS)
        array = _on_series(case_id, volume.array, volume.grid, series)
        boxes = dict(enumerate(ndimage.find_objects(array), start=1))
        for part in some:
            if (box := boxes.get(part.number)) is None:
                continue
            kept.append(part)
            for z in range(box[0].start, box[0].stop):
                plane = array[z] == part.number
                if plane.any():
                    frames[len(kept), z] = np.packbits(plane, bitorder="little").tobytes()
    return kept, frames


def _on_series(case_id: str, array: NDArray[Any], grid: Grid, series: Grid) -> NDArray[Any]:
    """Return a released volume (z, y, x) in the voxel order of the original series."""
    turned, placed = to_canonical(array, grid, series.orientation)
    distance_mm = placed.corner_distance_mm(series)
    if not distance_mm <= SAME_GRID_VOXELS * min(series.spacing_mm):
        shown = f"{placed.shape} voxels, {series.shape} in the series, {distance_mm:.3g} mm apart"
        raise geometry_error(case_id, shown)
    return turned


def _object(
    case_id: str,
    series: SourceSeries,
    parts: Sequence[Part],
    frames: Frames,
    codes: Mapping[str, Meaning],
) -> Dataset:
    """Return the object.

    The library wants all masks at once as bytes, gigabytes of them. So it builds the object from
    what each slice holds, a pixel per frame, and the frames are put in afterwards.
    """
    study = str(series.slices[0].StudyInstanceUID)
    slices = {str(one.SOPInstanceUID): z for z, one in enumerate(series.slices)}
    told = [tumoratlas.__version__, [asdict(part) for part in parts], list(slices)]
    content = hashlib.sha256(to_json(told).encode())
    for (number, z), bits in sorted(frames.items()):
        content.update(f"{number} {z} ".encode() + bits)
    digest = content.hexdigest()
    held = np.zeros((len(slices), 1, 1, len(parts)), np.uint8)
    for number, z in frames:
        held[z, 0, 0, number - 1] = 1
    made = hd.seg.Segmentation(
        series.slices,
        held,
        "BINARY",
        [
            describe(number, part, codes, uid_of("tumor", part.tumor_id))
            for number, part in enumerate(parts, start=1)
        ],
        series_instance_uid=uid_of("series", study, case_id, digest),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=uid_of("instance", study, case_id, digest),
        instance_number=1,
        manufacturer="TumorAtlas",
        manufacturer_model_name="TumorAtlas",
        software_versions=tumoratlas.__version__,
        device_serial_number="none",
        content_label="TUMORATLAS",
        content_description="Organs, tumors and cysts of a release",
        series_description="TumorAtlas masks",
        content_date=_DATE,
        content_time=_TIME,
    )
    places = [_place(item, slices) for item in made.PerFrameFunctionalGroupsSequence]
    made.Rows, made.Columns = series.grid.shape[1:]
    made.PixelData = _joined([frames[place] for place in places], made.Rows * made.Columns)
    made.ContentCreatorName = ""
    made.SegmentsOverlap = "YES" if _overlap(frames) else "NO"
    # The rest tells when and on what the file was made, or is drawn by lot.
    for name in ("InstanceCreationDate", "InstanceCreationTime", "ContributingEquipmentSequence"):
        del made[name]
    dimensions = uid_of("dimensions", study, case_id, digest)
    for item in (*made.DimensionIndexSequence, *made.DimensionOrganizationSequence):
        item.DimensionOrganizationUID = dimensions
    return made


def _place(item: Dataset, slices: Mapping[str, int]) -> tuple[int, int]:
    """Return number of the segment and z of a frame."""
    source = item.DerivationImageSequence[0].SourceImageSequence[0]
    groups = item.get("SegmentIdentificationSequence")
    # A single segment stands with what all frames share.
    number = groups[0].ReferencedSegmentNumber if groups else 1
    return int(number), slices[str(source.ReferencedSOPInstanceUID)]


def _joined(frames: Sequence[bytes], pixels: int) -> bytes:
    """Return the bits of frames one after another: only the last byte may have unused ones."""
    if pixels % 8:
        bits = [
            np.unpackbits(np.frombuffer(one, np.uint8), count=pixels, bitorder="little")
            for one in frames
        ]
        frames = [np.packbits(np.concatenate(bits), bitorder="little").tobytes()]
    data = b"".join(frames)
    return data + b"\0" * (len(data) % 2)


def _overlap(frames: Frames) -> bool:
    """Return whether two segments share a pixel."""
    union: dict[int, NDArray[np.uint8]] = {}
    for (_, z), data in frames.items():
        bits = np.frombuffer(data, np.uint8)
        if z in union and (union[z] & bits).any():
            return True
        union[z] = union[z] | bits if z in union else bits
    return False
