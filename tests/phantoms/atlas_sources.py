"""The parent release, its successor, and the test sets that come as NIfTI files."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np

from tests.phantoms.anatomy import Phantom
from tests.phantoms.cast import Report, Scan
from tests.phantoms.nifti import layers, nifti_bytes, save, stored_affine
from tests.phantoms.nifti_sources import Told, Writer
from tumoratlas.core.structures import structures

_CLASSES = tuple(s.name for s in structures().values() if s.index <= 25)
_PANTS = ("pancreas", "liver", "aorta", "postcava", "stomach")


def abdomenatlas11(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write a case as the parent release stores it."""
    folder = root / scan.case
    masks = {name: phantom.masks[name] for name in _CLASSES}
    orientation, affine, mask_affines = "LPS", None, {}
    if scan.copy == "mini":
        # The crop leaves the header of the whole scan.
        affine = stored_affine(phantom.patient.grid(), orientation)
    if "LPS header" in scan.defect:
        orientation = "RAS"
        turned = np.diag([-1.0, -1.0, 1.0, 1.0]) @ phantom.grid.affine
        mask_affines = {"aorta": turned, "combined": turned}
    if "swapped" in scan.defect:
        sides = masks["kidney_right"], masks["kidney_left"]
        masks["kidney_left"], masks["kidney_right"] = sides
    combined = layers(*masks.values())
    files = {"ct": phantom.image, "combined_labels": combined}
    files |= {f"segmentations/{name}": mask.astype(np.uint8) for name, mask in masks.items()}
    for name, array in files.items():
        said = mask_affines.get(name.removeprefix("segmentations/").split("_")[0], affine)
        data = nifti_bytes(array, phantom.grid, orientation, affine=said)
        save(folder / f"{name}.nii.gz", data)
    if not mask_affines:
        return []
    lost = "BDMAP_00000004/segmentations/liver.nii.gz"
    save(root / lost, nifti_bytes(masks["liver"].astype(np.uint8), phantom.grid, orientation))
    return [(lost, Report("excluded", "IMAGE_MISSING"))]


def pants(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write a case of the test part, cut as in the parent release."""
    affine = stored_affine(phantom.patient.grid(), "LPS")
    data = nifti_bytes(phantom.image, phantom.grid, "LPS", affine=affine)
    save(root / "ImageTe" / scan.case / "ct.nii.gz", data)
    for name in _PANTS:
        mask = nifti_bytes(phantom.masks[name].astype(np.uint8), phantom.grid, "LPS", affine=affine)
        save(root / "LabelTe" / scan.case / "segmentations" / f"{name}.nii.gz", mask)
    return []


def panorama(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write an image of a batch and its label."""
    data = nifti_bytes(phantom.image, phantom.grid, "LPS")
    save(root / "batch_1" / f"{scan.case}_0000.nii.gz", data)
    labels = layers(
        phantom.labels("pancreas", "tumor"),
        phantom.masks["postcava"] | phantom.masks["portal_vein_and_splenic_vein"],
        phantom.masks["aorta"] | phantom.masks["celiac_trunk"],
        phantom.masks["pancreas"] & ~phantom.labels("pancreas", "tumor"),
    )
    save(
        root / "automatic_labels" / f"{scan.case}.nii.gz", nifti_bytes(labels, phantom.grid, "LPS")
    )
    return []


def kipa22(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write one kidney's surroundings, HU + 1024 without sign."""
    image = (phantom.image.astype(np.int32) + 1024).astype(np.uint16)
    empty = np.zeros(image.shape, bool)
    labels = layers(empty, phantom.masks["kidney_left"], empty, phantom.labels("kidney", "tumor"))
    for name, array in (("image", image), ("label", labels)):
        path = root / "train" / name / f"{scan.case}.nii.gz"
        save(path, nifti_bytes(array, phantom.grid, "LPS"))
    return []


def uls23(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write a lesion's surroundings, and the label in a zip archive of its own."""
    part = Path("ULS23/novel_data/ULS23_Radboudumc_Pancreas")
    data = nifti_bytes(phantom.image, phantom.grid, "LPS")
    save(root / part / "images" / f"{scan.case}.nii.gz", data)
    label = phantom.labels("pancreas", "tumor").astype(np.uint8)
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        # Without a time of its own the archive's bytes stay the same.
        entry = zipfile.ZipInfo(f"{scan.case}.nii.gz")
        archive.writestr(entry, nifti_bytes(label, phantom.grid, "LPS"))
    path = root / "annotations" / part / "labels" / f"{scan.case}.nii.gz.zip"
    save(path, buffer.getvalue())
    return []


def jhh(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write an image of the proprietary test set."""
    save(root / scan.case / "ct.nii.gz", nifti_bytes(phantom.image, phantom.grid, "LPS"))
    return []


WRITERS: dict[str, Writer] = {
    "abdomenatlas11": abdomenatlas11, "jhh": jhh, "kipa22": kipa22, "panorama": panorama,
    "pants": pants, "uls23": uls23,
}  # fmt: skip
