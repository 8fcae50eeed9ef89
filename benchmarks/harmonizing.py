"""One scan with its labels: read, turned to RAS+, resampled to 1.5 mm, written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from skimage.transform import resize

from benchmarks.phantom import ORGANS, SPACING_MM, TUMORS, Phantom
from benchmarks.timing import markdown_table, time_methods
from tumoratlas.core.files import sha256_file
from tumoratlas.harmonize.cases import harmonize_case
from tumoratlas.images.grid import to_canonical
from tumoratlas.images.nifti import read_nifti, write_nifti
from tumoratlas.images.resample import resample_image, resample_labels

MODEL_MM = 1.5
OURS = "tumoratlas: read, turn, resample, write and read back"
STEP = "tumoratlas: the step harmonize_scans, which writes more"
NAIVE = "nibabel get_fdata, skimage resize order 1, labels one by one"
ITK = "SimpleITK linear in float32 and rounded, LabelLinear"
Volumes = tuple[NDArray[np.int16], NDArray[np.uint8]]


def compare_harmonizing(phantom: Phantom, folder: Path, rounds: int) -> str:
    """Time the ways of harmonizing, compare their outputs and return the table."""
    sha256 = sha256_file(phantom.image)
    methods: dict[str, Callable[[], Volumes | None]] = {
        OURS: lambda: _ours(phantom, folder / "ours"),
        STEP: lambda: _step(phantom, sha256, folder / "step"),
        NAIVE: lambda: _naive(phantom, folder / "naive"),
        ITK: lambda: _itk(phantom, folder / "itk"),
    }
    for name in ("ours", "step", "naive", "itk"):
        (folder / name).mkdir(parents=True)
    timings, results = time_methods(methods, rounds)
    lines = [_difference(name, results[name], results[OURS]) for name in (NAIVE, ITK)]
    shape = " x ".join(map(str, phantom.hu.shape[::-1]))
    table = markdown_table(f"Harmonize a scan of {shape} voxels", timings, NAIVE)
    return "\n".join([table, "", *lines])


def _ours(phantom: Phantom, folder: Path) -> Volumes:
    out = []
    for path, resample in ((phantom.image, resample_image), (phantom.labels, resample_labels)):
        file = read_nifti(path, max_voxels=10**9)
        array, grid = to_canonical(file.array, file.grid)
        model_grid = grid.with_spacing(MODEL_MM)
        model = resample(array, grid, model_grid)
        write_nifti(folder / path.name, model, model_grid)
        out.append(model)
    return out[0], out[1]


def _step(phantom: Phantom, sha256: str, folder: Path) -> None:
    meanings = {str(facts[0]): [organ] for organ, facts in ORGANS.items()}
    meanings |= {str(value): [organ, f"{organ}_tumor"] for organ, value in TUMORS.items()}
    labels = {"format": "nifti", "paths": [str(phantom.labels)], "values": meanings}
    labels |= {"partial": False, "header": "own", "licence": "none"}
    scan = {
        "scan_id": "phantom",
        "source": "phantom",
        "licence": "none",
        "tumor_free_means": "confirmed_empty",
        "format": "nifti",
        "image_path": str(phantom.image),
        "file_sha256": sha256,
        "repairs": [],
        "suspects": [],
        "labels": [labels],
    }
    shutil.rmtree(folder)
    folder.mkdir()
    row = harmonize_case(
        "BDMAP_00000001",
        [scan],
        folder,
        model_spacing_mm=MODEL_MM,
        max_voxels=10**9,
        min_slices=1,
    )
    if sorted(row["annotated"]) != sorted(TUMORS):
        raise ValueError(f"the step lost labels: {row['excluded_masks']}")


def _naive(phantom: Phantom, folder: Path) -> Volumes:
    ct = nib.as_closest_canonical(nib.load(phantom.image))
    shape = [round(n * s / MODEL_MM) for n, s in zip(ct.shape, SPACING_MM, strict=True)]
    model = np.rint(_resize(ct.get_fdata(), shape)).astype(np.int16)
    labels = nib.as_closest_canonical(nib.load(phantom.labels)).get_fdata()
    most, best = np.zeros(shape), np.zeros(shape, np.uint8)
    for value in np.unique(labels):
        share = _resize((labels == value).astype(float), shape)
        best[share > most] = value
        most = np.maximum(most, share)
    affine = ct.affine.copy()
    affine[:3, :3] = np.diag([MODEL_MM] * 3)
    affine[:3, 3] += (MODEL_MM - np.array(SPACING_MM)) / 2
    for path, array in ((phantom.image, model), (phantom.labels, best)):
        nib.save(nib.Nifti1Image(array, affine), folder / path.name)
    return model.transpose(2, 1, 0), best.transpose(2, 1, 0)


def _resize(array: NDArray[np.float64], shape: list[int]) -> NDArray[np.float64]:
    return resize(array, shape, order=1, mode="edge", anti_aliasing=False, preserve_range=True)


def _itk(phantom: Phantom, folder: Path) -> Volumes:
    ct, labels = (
        sitk.DICOMOrient(sitk.ReadImage(path), "RAS") for path in (phantom.image, phantom.labels)
    )
    size = [round(n * s / MODEL_MM) for n, s in zip(ct.GetSize(), ct.GetSpacing(), strict=True)]
    first = [(MODEL_MM / s - 1) / 2 for s in ct.GetSpacing()]
    origin = ct.TransformContinuousIndexToPhysicalPoint(first)
    place = (size, sitk.Transform())
    grid = (origin, [MODEL_MM] * 3, ct.GetDirection())
    model = sitk.Resample(ct, *place, sitk.sitkLinear, *grid, -1024.0, sitk.sitkFloat32)
    # Into integers ITK cuts off the fraction.
    model = sitk.Cast(sitk.Round(model), sitk.sitkInt16)
    mask = sitk.Resample(labels, *place, sitk.sitkLabelLinear, *grid, 0.0, labels.GetPixelID())
    for path, image in ((phantom.image, model), (phantom.labels, mask)):
        sitk.WriteImage(image, folder / path.name, useCompression=True)
    return sitk.GetArrayFromImage(model), sitk.GetArrayFromImage(mask)


def _difference(name: str, theirs: Volumes, ours: Volumes) -> str:
    change = np.abs(theirs[0].astype(np.int32) - ours[0])
    if change.max() > 1:
        raise ValueError(f"{name}: the images differ by {change.max()} HU")
    equal = 100 * np.mean(change == 0)
    other = int(np.count_nonzero(theirs[1] != ours[1]))
    return (
        f"- {name}: {equal:.4f} % of the image's voxels are equal, none differs by more than 1 HU; "
        f"{other} of {ours[1].size} label voxels differ."
    )
