"""Public sources that come as NIfTI files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.phantoms.anatomy import Phantom
from tests.phantoms.cast import Report, Scan
from tests.phantoms.copies import padded
from tests.phantoms.nifti import layers, nifti_bytes, save, stored_affine

# What a writer tells about files that are no scans: path below the source's folder, and report.
Told = list[tuple[str, Report]]
Writer = Callable[[Path, Phantom, Scan], Told]

MSD_TASKS = {
    "liver": ("Task03_Liver", "Liver", {"0": "background", "1": "liver", "2": "cancer"}),
    "pancreas": (
        "Task07_Pancreas",
        "Pancreas",
        {"0": "background", "1": "pancreas", "2": "cancer"},
    ),
    "colon": ("Task10_Colon", "Colon", {"0": "background", "1": "colon cancer primaries"}),
}
# What macOS leaves beside each file of an archive.
_APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X  "
NOT_CT = Report("excluded", "NOT_CT")

# The structures of the sources' label values, from 1 on; two names make one value.
_BTCV = (
    "spleen", "kidney_right", "kidney_left", "gall_bladder", "esophagus", "liver", "stomach",
    "aorta", "postcava", "portal_vein_and_splenic_vein", "pancreas", "adrenal_gland_right",
    "adrenal_gland_left",
)  # fmt: skip
_AMOS = (*_BTCV[:9], *_BTCV[10:], "duodenum", "bladder", "prostate+uterus")
_WORD = (
    "liver", "spleen", "kidney_left", "kidney_right", "stomach", "gall_bladder", "esophagus",
    "pancreas", "duodenum", "colon", "intestine", "adrenal_gland_left+adrenal_gland_right",
    "rectum", "bladder", "femur_left", "femur_right",
)  # fmt: skip
_ABDOMENCT1K = ("liver", "kidney_left+kidney_right", "spleen", "pancreas")
_CT_ORG = (
    "liver", "bladder", "lung_left+lung_right", "kidney_left+kidney_right",
    "femur_left+femur_right",
)  # fmt: skip
_FLARE = (
    "liver", "kidney_right", "spleen", "pancreas", "aorta", "postcava", "adrenal_gland_right",
    "adrenal_gland_left", "gall_bladder", "esophagus", "stomach", "duodenum", "kidney_left",
)  # fmt: skip
_POOLED_TUMOR = 14


def lits(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write an uncompressed volume and its segmentation; test volumes have none."""
    if not scan.case.isdigit():
        data = nifti_bytes(phantom.image, phantom.grid, "LAS")
        save(root / "LITS-Challenge-Test-Data" / f"{scan.case}.nii", data)
        return []
    folder = root / "Training_Batch1"
    orientation = "LAI" if scan.defect == "stored LAI" else "RAS"
    affine = np.eye(4) if "identity affine" in scan.defect else None
    labels = layers(phantom.masks["liver"], phantom.labels("liver", "tumor"))
    image = nifti_bytes(phantom.image, phantom.grid, orientation, affine=affine)
    if scan.defect == "truncated":
        image = image[: int(0.6 * len(image))]
    save(folder / f"volume-{scan.case}.nii", image)
    segmentation = nifti_bytes(labels, phantom.grid, orientation, affine=affine)
    save(folder / f"segmentation-{scan.case}.nii", segmentation)
    return []


def kits23(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write slices on the first axis, without qform; one case has lost its image."""
    labels = layers(
        phantom.organ("kidney"), phantom.labels("kidney", "tumor"), phantom.labels("kidney", "cyst")
    )
    image = phantom.image
    grid = phantom.grid
    if scan.defect == "appended":
        # The upper half of the body comes a second time, above the head.
        again = slice(len(image) // 2, None)
        image = np.concatenate([image, image[again]])
        labels = np.concatenate([labels, np.zeros_like(labels[again])])
        grid = type(grid).of(image.shape, grid.affine)
    for name, array in (("imaging", image), ("segmentation", labels)):
        data = nifti_bytes(array, grid, "IPL", codes=(0, 2))
        save(root / "dataset" / scan.case / f"{name}.nii.gz", data)
    if scan.case != "case_00000":
        return []
    lost = "dataset/case_00002/segmentation.nii.gz"
    save(root / lost, nifti_bytes(labels, grid, "IPL", codes=(0, 2)))
    return [(lost, Report("excluded", "IMAGE_MISSING"))]


def msd_ct(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write a task's image and label, with resource forks; one file of an MR task."""
    organ = scan.case.split("_")[0]
    task, title, values = MSD_TASKS[organ]
    tumor = phantom.labels(organ, "tumor")
    labels = layers(tumor) if organ == "colon" else layers(phantom.masks[organ], tumor)
    orientation = {"liver": "RAS", "pancreas": "LAS", "colon": "RAS"}[organ]
    folders = {"imagesTr": phantom.image, "labelsTr": labels}
    if scan.test_set:
        folders = {"imagesTs": phantom.image}
    told: Told = []
    for folder, array in folders.items():
        path = root / task / folder / f"{scan.case}.nii.gz"
        save(path, nifti_bytes(array, phantom.grid, orientation))
        fork = path.with_name(f"._{path.name}")
        fork.write_bytes(_APPLE_DOUBLE)
        told.append((fork.relative_to(root).as_posix(), Report("excluded", "APPLE_DOUBLE")))
    _describe_task(root / task, title, values)
    if scan.case == "liver_28":
        for folder in ("imagesTr", "labelsTr"):
            name = f"Task02_Heart/{folder}/la_003.nii.gz"
            save(root / name, nifti_bytes(np.abs(phantom.image[:20]), phantom.grid))
            told.append((name, NOT_CT))
    return told


def _describe_task(folder: Path, title: str, values: dict[str, str]) -> None:
    train, test = (
        sorted(p.name for p in (folder / part).glob("[!.]*.nii.gz"))
        for part in ("imagesTr", "imagesTs")
    )
    content = {
        "name": title, "modality": {"0": "CT"}, "labels": values, "numTraining": len(train),
        "numTest": len(test), "test": [f"./imagesTs/{name}" for name in test],
        "training": [
            {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in train
        ],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _valued(phantom: Phantom, names: tuple[str, ...], *left_out: str) -> NDArray[np.uint8]:
    return layers(
        *(
            np.logical_or.reduce([phantom.masks[one] & (one not in left_out) for one in names_of])
            for names_of in (name.split("+") for name in names)
        )
    )


def btcv(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write a training pair or a test image."""
    part = root / "RawData" / ("Testing" if scan.test_set else "Training")
    image = nifti_bytes(phantom.image, phantom.grid, "LAS")
    save(part / "img" / f"img{scan.case}.nii.gz", image)
    if not scan.test_set:
        labels = nifti_bytes(_valued(phantom, _BTCV), phantom.grid, "LAS")
        save(part / "label" / f"label{scan.case}.nii.gz", labels)
    return []


def ct_org(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write a volume and its organs, kidneys and lungs without sides."""
    for name, array in (("volume", phantom.image), ("labels", _valued(phantom, _CT_ORG))):
        path = root / "OrganSegmentations" / f"{name}-{scan.case}.nii.gz"
        save(path, nifti_bytes(array, phantom.grid, "LPS"))
    return []


def word(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write an image of the training or validation part; one has a false checksum."""
    is_training = scan.case < "word_0100"
    part = "Tr" if is_training else "Val"
    folder = root / "WORD-V0.1.0"
    path = folder / f"images{part}" / f"{scan.case}.nii.gz"
    save(path, nifti_bytes(phantom.image, phantom.grid, "LPS"))
    if scan.defect == "false checksum":
        data = bytearray(path.read_bytes())
        data[-8] ^= 1  # of the checksum
        path.write_bytes(data)
    labels = nifti_bytes(_valued(phantom, _WORD), phantom.grid, "LPS")
    save(folder / f"labels{part}" / f"{scan.case}.nii.gz", labels)
    return []


def amos22(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write a CT with padding, and an MR case beside it."""
    folder = root / "amos22"
    labels = _valued(phantom, _AMOS)
    told: Told = []
    for name, array in (("images", padded(phantom.image)), ("labels", labels)):
        path = folder / f"{name}Tr" / f"{scan.case}.nii.gz"
        save(path, nifti_bytes(array, phantom.grid, "LAS"))
        other = f"amos22/{name}Tr/amos_0507.nii.gz"
        save(root / other, nifti_bytes(np.abs(array[:20]), phantom.grid, "LAS"))
        told.append((other, NOT_CT))
    return told


def abdomenct1k(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write a case with the header that the collection gives it."""
    orientation, affine, codes = "LPS", None, (1, 1)
    image = phantom.image
    if scan.defect == "slices on the second axis":
        orientation = "LSP"
    elif scan.defect == "identity affine":
        orientation, affine = "RAS", np.eye(4)
    elif scan.defect == "sheared affine":
        affine, codes = stored_affine(phantom.grid, orientation), (0, 1)
        # |R'R - I| becomes 3e-3: a trace of the first axis in the second.
        affine[:3, 1] += (
            3e-3 * phantom.grid.spacing_mm[1] * affine[:3, 0] / np.linalg.norm(affine[:3, 0])
        )
    elif scan.defect == "no affine":
        codes = (0, 0)
    elif scan.defect == "padding":
        image = padded(image)
    labels = _valued(phantom, _ABDOMENCT1K)
    for path, array in (
        (root / "AbdomenCT-1K-ImagePart1" / f"{scan.case}_0000.nii.gz", image),
        (root / "Mask" / f"{scan.case}.nii.gz", labels),
    ):
        data = nifti_bytes(array, phantom.grid, orientation, affine=affine, codes=codes)
        save(path, data)
    return []


def flare23(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write a partially labelled case, or an unlabelled one under the other form of name."""
    if scan.case > "FLARE23_2200":
        data = nifti_bytes(phantom.image, phantom.grid, "LPI")
        save(root / "unlabeledTr1800" / f"{scan.case}.nii.gz", data)
        return []
    image = phantom.image
    if scan.defect == "HU + 1024":
        image = (image.astype(np.int32) + 1024).astype(np.uint16)
    save(
        root / "imagesTr2200" / f"{scan.case}_0000.nii.gz",
        nifti_bytes(image, phantom.grid, "LPS"),
    )
    # Values 5 to 12 are rare; here they are left out, which does not mean absent organs.
    labels = _valued(phantom, _FLARE, *_FLARE[4:12])
    for number, lesion in enumerate(phantom.lesions, 1):
        if lesion.organ in ("liver", "colon"):
            labels[phantom.instances == number] = _POOLED_TUMOR
    folder = root / "labelsTr2200"
    if scan.defect == "relabelled":
        wrong = nifti_bytes(np.where(labels == 1, 3, labels), phantom.grid, "LPS")
        save(folder / f"{scan.case}.nii.gz", wrong)
        folder /= "20230507-fix"
    save(folder / f"{scan.case}.nii.gz", nifti_bytes(labels, phantom.grid, "LPS"))
    return []


WRITERS: dict[str, Writer] = {
    "abdomenct1k": abdomenct1k, "amos22": amos22, "btcv": btcv, "ct_org": ct_org,
    "flare23": flare23, "kits23": kits23, "lits": lits, "msd_ct": msd_ct, "word": word,
}  # fmt: skip
