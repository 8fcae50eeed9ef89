"""Segmentation files as other tools write them, for tests of what comes back."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import SimpleITK as sitk
import slicerio
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from tumoratlas.images.grid import Grid, to_canonical

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_slicer(path: Path, layers: NDArray[np.integer], segments: list[dict], grid: Grid) -> None:
    """Save (layer, z, y, x) as 3D Slicer does: 4D only where segments overlap."""
    voxels = layers.transpose(0, 3, 2, 1)
    slicerio.write_segmentation(
        str(path),
        {
            "voxels": voxels[0] if len(voxels) == 1 else voxels,
            "ijkToLPS": LPS @ grid.affine,
            "segments": segments,
        },
    )


def segment(value: int, name: str, candidate_id: str = "", layer: int = 0, **tags: str) -> dict:
    """Return a segment of a 3D Slicer segmentation."""
    tags |= {"candidate_id": candidate_id} if candidate_id else {}
    return {"id": f"Segment_{value}_{layer}", "name": name, "labelValue": value, "layer": layer,
            "status": "completed", "tags": tags}  # fmt: skip


def cut(array: NDArray[np.integer], grid: Grid) -> tuple[NDArray[np.integer], Grid]:
    """Cut a map to the box of its voxels, as 3D Slicer does when it saves."""
    found = np.nonzero(array)
    low, high = [int(a.min()) for a in found], [int(a.max()) + 1 for a in found]
    affine = grid.affine
    affine[:3, 3] += affine[:3, :3] @ low[::-1]
    part = np.ascontiguousarray(array[tuple(map(slice, low, high))])
    return part, Grid.of(part.shape, affine)


def write_itk_seg_nrrd(
    path: Path, array: NDArray[np.integer], names: Mapping[int, tuple[str, str]], grid: Grid
) -> None:
    """Write a label map with ITK, in its own axis order, with 3D Slicer's segment fields."""
    array, grid = to_canonical(array, grid, "LPS")
    image = sitk.GetImageFromArray(array)
    affine = LPS @ grid.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    for n, (value, (name, candidate_id)) in enumerate(sorted(names.items())):
        facts = {"ID": f"Segment_{value}", "Name": name, "LabelValue": value, "Layer": 0,
                 "Tags": f"candidate_id:{candidate_id}|" if candidate_id else ""}  # fmt: skip
        for key, text in facts.items():
            image.SetMetaData(f"Segment{n}_{key}", str(text))
    sitk.WriteImage(image, str(path), useCompression=True)


def dicom_slices(grid: Grid) -> list[Dataset]:
    """Return the headers of CT slices of a grid of orientation LPS, in ascending order."""
    affine = LPS @ grid.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    series, study, frame = hd.UID(), hd.UID(), hd.UID()
    slices = []
    for z in range(grid.shape[0]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one = FileDataset("", {}, file_meta=meta)
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, hd.UID()
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID",
                        "AccessionNumber", "StudyDate", "StudyTime", "ReferringPhysicianName",
                        "Laterality"):  # fmt: skip
            setattr(one, keyword, "")
        one.Modality, one.InstanceNumber = "CT", z + 1
        one.Rows, one.Columns = grid.shape[1:]
        one.ImagePositionPatient = [f"{v:.10g}" for v in (affine @ [0, 0, z, 1])[:3]]
        one.ImageOrientationPatient = [
            f"{v:.10g}" for v in (affine[:3, :2] / spacing[:2]).T.ravel()
        ]
        one.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
        one.SliceThickness = f"{spacing[2]:.10g}"
        one.BitsStored = one.BitsAllocated = 16
        slices.append(one)
    return slices


def write_dicom_seg(
    path: Path,
    slices: Sequence[Dataset],
    masks: NDArray[np.generic],
    labels: Sequence[str],
    tracking_ids: Sequence[str | None],
    kind: str = "BINARY",
) -> None:
    """Write (slice, row, column, segment) on CT slices as a DICOM SEG without empty frames."""
    described = [
        hd.seg.SegmentDescription(
            number, label, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm, "MANUAL",
            tracking_uid=hd.UID() if tracked else None, tracking_id=tracked,
        )
        for number, (label, tracked) in enumerate(zip(labels, tracking_ids, strict=True), start=1)
    ]  # fmt: skip
    hd.seg.Segmentation(
        slices, masks, kind, described, hd.UID(), 1, hd.UID(), 1, "maker", "model", "1", "1"
    ).save_as(path)
