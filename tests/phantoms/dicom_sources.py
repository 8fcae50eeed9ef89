"""Public sources that come as DICOM series."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.phantoms.anatomy import Phantom
from tests.phantoms.cast import Scan
from tests.phantoms.dicom import Series, write_masks, write_png_stack, write_series
from tests.phantoms.nifti import layers, nifti_bytes, save, stored_affine
from tests.phantoms.nifti_sources import NOT_CT, Told, Writer
from tumoratlas.images.grid import Grid


def chaos(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write a series whose names run down the body, its pictures, and four MR slices."""
    folder = root / "Train_Sets" / "CT" / scan.case
    count = len(phantom.image)
    # The first name is the topmost slice, for both: pairs hold by name, not by position.
    indices = range(count - 1, -1, -1)
    write_series(
        folder / "DICOM_anon", phantom.image, phantom.grid,
        [f"i{i:04d},0000b.dcm" for i in indices],
        Series("chaos CT", -1200, 3.2, {"PatientName": "CHAOS^1", "PatientID": "1"}),
    )  # fmt: skip
    write_png_stack(
        folder / "Ground", phantom.masks["liver"], phantom.grid,
        [f"liver_GT_{i:03d}.png" for i in indices],
    )  # fmt: skip
    mr = Grid.of((4, *phantom.grid.shape[1:]), phantom.grid.affine)
    place = Path("Train_Sets/MR/1/T1DUAL/DICOM_anon/InPhase")
    names = [f"IMG-0004-{2 * i + 2:05d}.dcm" for i in range(4)]
    tags = {"PatientName": "CHAOS^MR1", "PatientID": "MR1"}
    write_series(
        root / place, np.abs(phantom.image[:4]), mr, names,
        Series("chaos MR", 0, 5.5, tags, modality="MR"),
    )  # fmt: skip
    return [((place / name).as_posix(), NOT_CT) for name in names]


def pancreas_ct(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write a series, and a label with its own axis order and an origin that is not the scan's."""
    folder = root / "Pancreas-CT" / f"PANCREAS_{scan.case}" / "11-24-2015-phantom" / "Pancreas-1"
    names = [f"1-{i + 1:03d}.dcm" for i in range(len(phantom.image))]
    tags = {"PatientName": f"PANCREAS_{scan.case}", "PatientID": f"PANCREAS_{scan.case}"}
    series = Series(f"pancreas_ct {scan.case}", -1024, phantom.grid.spacing_mm[2], tags)
    write_series(folder, phantom.image, phantom.grid, names[::-1], series)
    affine = stored_affine(phantom.grid, "RAI")
    affine[:3, 3] = 0
    labels = nifti_bytes(layers(phantom.masks["pancreas"]), phantom.grid, "RAI", affine=affine)
    save(root / "TCIA_pancreas_labels-02-05-2017" / f"label{scan.case}.nii.gz", labels)
    return []


def rsna_atd23(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write a series of a trauma patient; the first of two phases has a segmentation."""
    person = "18667" if scan.case == "18667" else "10004"
    count = len(phantom.image)
    # Instance numbers start far above 0: scans are cut to the abdomen.
    is_upward = scan.case == "21057"
    instances = [250 + (i if is_upward else count - 1 - i) for i in range(count)]
    tags = {"PatientID": person, "PatientPosition": "FFS" if is_upward else "HFS"}
    series = Series(
        f"rsna {scan.case}", -24, phantom.grid.spacing_mm[2], tags, study=f"rsna {person}",
        instances=instances, bits=12, is_rle=True,
        without=(9,) if scan.defect == "slice lost" else (),
    )  # fmt: skip
    write_series(
        root / "train_images" / person / scan.case, phantom.image, phantom.grid,
        [f"{number}.dcm" for number in instances], series,
    )  # fmt: skip
    if is_upward:
        labels = layers(
            *(phantom.masks[n] for n in ("liver", "spleen", "kidney_left", "kidney_right")),
            phantom.masks["colon"] | phantom.masks["intestine"],
        )
        data = nifti_bytes(labels, phantom.grid, "RPI")
        save(root / "segmentations" / f"{scan.case}.nii", data)
    (root / "train.csv").write_text("patient_id,any_injury\n10004,0\n18667,0\n", encoding="utf-8")
    return []


def ircadb(root: Path, phantom: Phantom, scan: Scan) -> Told:
    """Write images and one folder of masks per structure, all without extension."""
    folder = root / "3Dircadb1" / scan.case
    # image_0 is the topmost slice.
    names = [f"image_{i}" for i in range(len(phantom.image) - 1, -1, -1)]
    series = Series("ircadb 1", -1024, phantom.grid.spacing_mm[2], {"PatientID": "1"})
    write_series(folder / "PATIENT_DICOM", phantom.image, phantom.grid, names, series)
    tumors = [n for n, lesion in enumerate(phantom.lesions, 1) if lesion.organ == "liver"]
    masks = {"liver": phantom.masks["liver"]}
    masks |= {f"livertumor{i:02d}": phantom.instances == n for i, n in enumerate(tumors, 1)}
    for name, mask in masks.items():
        write_masks(folder / "MASKS_DICOM" / name, mask, phantom.grid, names, f"ircadb {name}")
    return []


WRITERS: dict[str, Writer] = {
    "chaos": chaos, "ircadb": ircadb, "pancreas_ct": pancreas_ct, "rsna_atd23": rsna_atd23,
}  # fmt: skip
