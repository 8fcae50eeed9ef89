"""The sources' folders as downloaded: names, orientations, label values, known defects."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tests.phantoms.anatomy import Phantom, draw
from tests.phantoms.dicom import write_png_stack, write_series
from tests.phantoms.patients import FULL, MICRO, Scan
from tests.phantoms.truth import write_truth
from tumoratlas.core.structures import structures
from tumoratlas.images.grid import Grid, to_canonical

# Personal data planted in the private source; no output may hold any of it.
PLANTED = ("DOE^JANE", "MRN-4711-0815", "19580314", "St. Elsewhere Hospital", "ROE^MARY")

MSD_TASKS = {
    "liver": ("Task03_Liver", "Liver", {"0": "background", "1": "liver", "2": "cancer"}),
    "pancreas": (
        "Task07_Pancreas",
        "Pancreas",
        {"0": "background", "1": "pancreas", "2": "cancer"},
    ),
    "colon": ("Task10_Colon", "Colon", {"0": "background", "1": "colon cancer primaries"}),
}


def write_phantoms(folder: Path, micro: bool = False, seed: int = 0) -> None:
    """Write all phantom sources below ``folder/sources`` and their truth below ``folder/truth``.

    Parameters
    ----------
    folder
        Made if absent; its files of an older run are overwritten.
    micro
        Only three tiny LiTS volumes and one duplicate of AbdomenAtlas 1.1.
    seed
        Other anatomies, noise and tumor places; sizes and layouts stay.
    """
    phantoms = [draw(patient, seed) for patient in (MICRO if micro else FULL)]
    sources = folder / "sources"
    for phantom in phantoms:
        for scan in phantom.patient.scans:
            _WRITERS[scan.source](sources / scan.source, phantom, scan)
    write_truth(folder / "truth", phantoms)


def nifti_bytes(
    array: NDArray[np.generic],
    grid: Grid,
    orientation: str = "RAS",
    *,
    affine: NDArray[np.float64] | None = None,
    codes: tuple[int, int] = (1, 1),
    description: str = "",
) -> bytes:
    """Return a NIfTI-1 file.

    Parameters
    ----------
    array
        RAS (z, y, x).
    grid
        Its grid.
    orientation
        Axis codes of the stored (x, y, z).
    affine
        What the header says instead of the truth.
    codes
        qform and sform codes.
    description
        Goes into the header's ``descrip``.
    """
    stored, placed = to_canonical(array, grid, toward=orientation)
    affine = placed.affine if affine is None else affine
    image = nib.Nifti1Image(stored.transpose(2, 1, 0), affine)
    image.set_qform(affine, code=codes[0])
    image.set_sform(affine, code=codes[1])
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode()
    return image.to_bytes()


def _save(path: Path, data: bytes) -> None:
    """Write bytes, compressed where the name ends so; without time or name in the stream."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 4, mtime=0) if path.suffix == ".gz" else data)


def _layers(*masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a label map: the first mask is 1, later ones overwrite."""
    labels = np.zeros(masks[0].shape, dtype=np.uint8)
    for value, mask in enumerate(masks, 1):
        labels[mask] = value
    return labels


def _lits(root: Path, phantom: Phantom, scan: Scan) -> None:
    folder = root / "Training_Batch1"
    orientation = "LAI" if scan.defect == "stored LAI" else "RAS"
    affine = np.eye(4) if scan.defect == "identity affine" else None
    labels = _layers(phantom.masks["liver"], phantom.labels("liver", "tumor"))
    image = nifti_bytes(phantom.image, phantom.grid, orientation, affine=affine)
    if scan.defect == "truncated":
        image = image[: int(0.6 * len(image))]
    _save(folder / f"volume-{scan.case}.nii", image)
    segmentation = nifti_bytes(labels, phantom.grid, orientation, affine=affine)
    _save(folder / f"segmentation-{scan.case}.nii", segmentation)


def _kits23(root: Path, phantom: Phantom, scan: Scan) -> None:
    labels = _layers(
        phantom.organ("kidney"), phantom.labels("kidney", "tumor"), phantom.labels("kidney", "cyst")
    )
    for name, array in (("imaging", phantom.image), ("segmentation", labels)):
        data = nifti_bytes(array, phantom.grid, "IPL", codes=(0, 2))
        _save(root / "dataset" / scan.case / f"{name}.nii.gz", data)


def _msd_ct(root: Path, phantom: Phantom, scan: Scan) -> None:
    organ = scan.case.split("_")[0]
    task, title, values = MSD_TASKS[organ]
    tumor = phantom.labels(organ, "tumor")
    labels = _layers(tumor) if organ == "colon" else _layers(phantom.masks[organ], tumor)
    orientation = {"liver": "RAS", "pancreas": "LAS", "colon": "RAS"}[organ]
    for folder, array in (("imagesTr", phantom.image), ("labelsTr", labels)):
        path = root / task / folder / f"{scan.case}.nii.gz"
        _save(path, nifti_bytes(array, phantom.grid, orientation))
        # What macOS leaves beside each file of an archive; matches *.nii.gz.
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X  ")
    cases = sorted(p.name for p in (root / task / "imagesTr").glob("[!.]*.nii.gz"))
    content = {
        "name": title, "modality": {"0": "CT"}, "labels": values, "numTraining": len(cases),
        "numTest": 0, "test": [],
        "training": [
            {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in cases
        ],
    }  # fmt: skip
    (root / task / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _chaos(root: Path, phantom: Phantom, scan: Scan) -> None:
    folder = root / "Train_Sets" / "CT" / scan.case
    count = len(phantom.image)
    # The first name is the topmost slice, for both: pairs hold by name, not by position.
    indices = range(count - 1, -1, -1)
    write_series(
        folder / "DICOM_anon", phantom.image, phantom.grid,
        [f"i{i:04d},0000b.dcm" for i in indices], series="chaos CT", intercept=-1200,
        slice_thickness_mm=3.2, tags={"PatientName": "CHAOS^1", "PatientID": "1"},
    )  # fmt: skip
    write_png_stack(
        folder / "Ground", phantom.masks["liver"], phantom.grid,
        [f"liver_GT_{i:03d}.png" for i in indices],
    )  # fmt: skip
    mr = Grid.of((4, *phantom.grid.shape[1:]), phantom.grid.affine)
    write_series(
        root / "Train_Sets" / "MR" / "1" / "T1DUAL" / "DICOM_anon" / "InPhase",
        np.abs(phantom.image[:4]), mr, [f"IMG-0004-{2 * i + 2:05d}.dcm" for i in range(4)],
        series="chaos MR", intercept=0, slice_thickness_mm=5.5, modality="MR",
        tags={"PatientName": "CHAOS^MR1", "PatientID": "MR1"},
    )  # fmt: skip


def _abdomenatlas11(root: Path, phantom: Phantom, scan: Scan) -> None:
    folder = root / scan.case
    classes = [s for s in structures().values() if s.index <= 25]
    _save(folder / "ct.nii.gz", nifti_bytes(phantom.image, phantom.grid, "LPS"))
    combined = _layers(*(phantom.masks[s.name] for s in classes))
    _save(folder / "combined_labels.nii.gz", nifti_bytes(combined, phantom.grid, "LPS"))
    for structure in classes:
        mask = phantom.masks[structure.name].astype(np.uint8)
        path = folder / "segmentations" / f"{structure.name}.nii.gz"
        _save(path, nifti_bytes(mask, phantom.grid, "LPS"))


def _private(root: Path, phantom: Phantom, scan: Scan) -> None:
    folder = root / scan.case
    if scan.case == "P001":
        # Names that sort like noise: only the positions tell the order of the slices.
        names = [
            hashlib.sha256(f"{scan.case} {i}".encode()).hexdigest()[:16] + ".dcm"
            for i in range(len(phantom.image))
        ]
        tags = {
            "PatientName": PLANTED[0], "PatientID": PLANTED[1], "PatientBirthDate": PLANTED[2],
            "InstitutionName": PLANTED[3], "PatientSex": phantom.patient.sex,
            "PatientAge": "061Y", "StudyDate": "20190702", "Manufacturer": "PHANTOM",
        }  # fmt: skip
        write_series(
            folder / "ct", phantom.image, phantom.grid, names, series="private P001",
            intercept=-1024, slice_thickness_mm=phantom.grid.spacing_mm[2], tags=tags,
        )  # fmt: skip
    else:
        data = nifti_bytes(phantom.image, phantom.grid, "LAS", description=PLANTED[4])
        _save(folder / "ct.nii.gz", data)
    for organ in scan.annotated:
        mask = phantom.labels(organ, "tumor").astype(np.uint8)
        data = nifti_bytes(mask, phantom.grid, "LAS", description=PLANTED[4])
        _save(folder / "masks" / f"{organ}_tumor.nii.gz", data)


_WRITERS: dict[str, Callable[[Path, Phantom, Scan], None]] = {
    "lits": _lits,
    "kits23": _kits23,
    "msd_ct": _msd_ct,
    "chaos": _chaos,
    "abdomenatlas11": _abdomenatlas11,
    "private": _private,
}
