"""The check of a released DICOM SEG object against the released masks of its case."""

from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.release.facts import Rows
from tumoratlas.release.seg.write import Frames, masks_as_frames

# The slices of a series may stray from an even spacing by a hundredth of it.
_SAME_PLACE_VOXELS = 0.02
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_PATIENT_GROUP = 0x0010


def seg_problems(path: Path, *, case_id: str, folder: Path, tumors: Rows, grid: Grid) -> list[str]:
    """Return what is wrong with the DICOM SEG object of a case, a text each.

    Every segment is compared with the released mask that it stands for, frame by frame, at the
    place in the patient that the object itself gives.

    Parameters
    ----------
    path
        The object.
    case_id
        The case.
    folder
        The case's folder below ``label``.
    tumors
        Its rows of the released table ``tumors``.
    grid
        Its grid.

    Raises
    ------
    ReleaseError, InputError
        A mask cannot be read. Of a damaged object, whatever its parser raises.
    """
    seg = pydicom.dcmread(path)
    if seg.SOPClassUID != SegmentationStorage or seg.SegmentationType != "BINARY":
        return ["is no binary segmentation"]
    problems = []
    for element in seg.group_dataset(_PATIENT_GROUP):
        if (element.value or "") != (case_id if element.keyword == "PatientID" else ""):
            problems.append(f"{element.keyword} does not only name the case")
    steps = _steps(seg)
    placed = _series_grid(steps, grid)
    parts, expected = masks_as_frames(case_id, folder, tumors, placed)
    named = [(part.label, part.tumor_id) for part in parts]
    found = [(one.SegmentLabel, one.get("TrackingID", "")) for one in seg.SegmentSequence]
    if named != found:
        wrong = ", ".join(sorted({label for label, _ in set(named) ^ set(found)})) or "their order"
        return [*problems, f"its segments are not the masks of the case: {wrong}"]
    frames = _frames(seg, placed) if _is_parallel(steps, placed) else None
    if frames is None:
        return [*problems, "its frames do not lie on the slices of the masks"]
    for number, part in enumerate(parts, start=1):
        if count := _differences(number, frames, expected):
            problems.append(f"{count} slices of {part.label} differ from the mask")
    return problems


def _steps(seg: Dataset) -> NDArray[np.float64]:
    """Return the steps (xyz, step) along a row, along a column and along the normal, RAS+ mm."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    along_row, along_column = cosines.reshape(2, 3)
    steps = [along_row * spacing[1], along_column * spacing[0], np.cross(along_row, along_column)]
    return _LPS_TO_RAS @ np.column_stack(steps)


def _series_grid(steps: NDArray[np.float64], grid: Grid) -> Grid:
    """Return the case's grid in the axis order of the object's frames."""
    axes = np.eye(4)
    axes[:3, :3] = steps
    toward = Grid.of(grid.shape, axes).orientation
    return to_canonical(np.zeros(grid.shape, bool), grid, toward)[1]


def _is_parallel(steps: NDArray[np.float64], series: Grid) -> bool:
    """Return whether the far corner of a frame lies where that of a slice does."""
    _, rows, columns = series.shape
    aside = (steps[:, :2] - series.affine[:3, :2]) * [columns, rows]
    return bool(np.abs(aside).max() <= _SAME_PLACE_VOXELS * min(series.spacing_mm))


def _frames(seg: Dataset, series: Grid) -> Frames | None:
    """Return the bits of each frame by segment and z, None where one lies on no slice."""
    if (seg.Rows, seg.Columns) != series.shape[1:]:
        return None
    pixels = seg.Rows * seg.Columns
    bits = np.frombuffer(seg.PixelData, np.uint8)
    if len(bits) * 8 < pixels * int(seg.NumberOfFrames):
        return None
    to_index = np.linalg.inv(series.affine)
    shared = seg.SharedFunctionalGroupsSequence[0]
    frames: Frames = {}
    for index, item in enumerate(seg.PerFrameFunctionalGroupsSequence):
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        place = (to_index @ [*(_LPS_TO_RAS @ position), 1.0])[:3]
        z = round(place[2])
        if np.abs(place - [0, 0, z]).max() > _SAME_PLACE_VOXELS or not 0 <= z < series.shape[0]:
            return None
        groups = item if "SegmentIdentificationSequence" in item else shared
        number = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        if (number, z) in frames:
            return None
        frames[number, z] = _frame(bits, index, pixels)
    return frames


def _frame(bits: NDArray[np.uint8], index: int, pixels: int) -> bytes:
    """Return the bits of one of the frames, which follow each other without a gap."""
    first, last = index * pixels, (index + 1) * pixels
    plane = np.unpackbits(bits[first // 8 : -(-last // 8)], bitorder="little")
    return np.packbits(plane[first % 8 :][:pixels], bitorder="little").tobytes()


def _differences(number: int, found: Frames, expected: Frames) -> int:
    """Return on how many slices a segment is not what it should be."""
    keys = {key for key in found.keys() | expected.keys() if key[0] == number}
    return sum(found.get(key) != expected.get(key) for key in keys)
