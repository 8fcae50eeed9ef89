"""The truth of the phantoms: every tumor and scan, written and read.

`tests.phantoms.expectations` writes what the pipeline must find and tell.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tests.phantoms.anatomy import Phantom
from tests.phantoms.expectations import View
from tumoratlas.ingest.pseudonyms import pseudonym

INTERNAL = ("jhh", "private")
CLASS_EDGES_MM = (("tiny", 5.0), ("small", 10.0), ("medium", 20.0), ("large", np.inf))


def tumors(folder: Path) -> pd.DataFrame:
    """Return one row per tumor and cyst of the patients with a kept scan.

    Columns: instance (its value in the patient's mask), patient, scans, organ, structure, kind,
    voxels, volume_mm3, radius_mm (of the ball with the voxels' volume), ball_radius_mm (as
    drawn), size_class, centroid_{x,y,z}_ras_mm (mean of the voxel centres),
    annotated_by_source (one of the patient's scans comes with a label of it).
    """
    return pd.read_csv(folder / "truth" / "tumors.csv")


def scans(folder: Path) -> pd.DataFrame:
    """Return one row per scan in the sources; shape and spacing are the true RAS ones.

    Columns: source, source_case, patient, sex, shape_{z,y,x}, spacing_{x,y,z}_mm, annotated
    (organs, ``;`` between), defect, expected (kept, duplicate, excluded, test_only),
    expected_code.
    """
    return pd.read_csv(
        folder / "truth" / "scans.csv", dtype={"source_case": str}, keep_default_na=False
    )


def relations(folder: Path) -> pd.DataFrame:
    """Return one row per pair of readable scans that share a patient, in no special order.

    Columns: source_a, source_case_a, source_b, source_case_b, relation: ``same`` (equal field of
    view), ``crop`` (one lies inside the other), ``overlap`` (both have voxels of their own),
    ``resample`` (one was resampled from the other's scan), ``same_patient`` (other voxels).
    """
    return _read(folder, "relations.csv")


def reports(folder: Path) -> pd.DataFrame:
    """Return every defect that must be told; nothing else may be.

    Columns: source; source_case (or the path of a file that is no scan, below the source's
    folder); where (excluded, warning, repair, excluded_mask, leak); code (of the row or warning,
    name of the repair or of the test set); detail (the mask).
    """
    return _read(folder, "reports.csv")


def leaks(folder: Path) -> pd.DataFrame:
    """Return one row per kept scan and test set that it touches: source, source_case, test_set."""
    return _read(folder, "leaks.csv")


def found(folder: Path) -> pd.DataFrame:
    """Return the number of scans that the listing finds: source, scans."""
    return _read(folder, "found.csv")


def listed_case(source: str, case: str, key: bytes | None) -> str:
    """Return the name under which the pipeline knows a case: internal ones have a pseudonym."""
    if source not in INTERNAL or key is None:
        return case
    name, series = re.fullmatch(r"(.+?)(_s\d+|_files)?", case).groups()
    return pseudonym(key, name) + (series or "")


def _read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "truth" / name, dtype=str, keep_default_na=False)


def truth_mask(folder: Path, patient: str) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """Return a patient's instance map (z, y, x) and its RAS affine on (x, y, z) indices."""
    image = nib.Nifti1Image.from_filename(folder / "truth" / "masks" / f"{patient}.nii.gz")
    return np.asarray(image.dataobj).transpose(2, 1, 0), image.affine


def write_truth(folder: Path, phantoms: list[Phantom], views: list[View]) -> None:
    """Write ``tumors.csv``, ``scans.csv`` and the instance maps below ``folder``."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for phantom in phantoms:
        if not phantom.patient.kept:
            continue
        first = len(rows) + 1
        rows += _tumor_rows(phantom, first)
        shifted = np.where(phantom.instances > 0, phantom.instances + np.uint16(first - 1), 0)
        image = nib.Nifti1Image(shifted.astype(np.uint16).transpose(2, 1, 0), phantom.grid.affine)
        image.set_sform(phantom.grid.affine, code=1)
        image.set_qform(phantom.grid.affine, code=1)
        path = folder / "masks" / f"{phantom.patient.name}.nii.gz"
        path.write_bytes(gzip.compress(image.to_bytes(), 4, mtime=0))
    # 10 digits: enough to be exact in use, few enough to be the same on every machine.
    pd.DataFrame(rows).to_csv(folder / "tumors.csv", index=False, float_format="%.10g")
    scan_rows = [_scan_row(view) for view in views]
    pd.DataFrame(scan_rows).to_csv(folder / "scans.csv", index=False, float_format="%.10g")


def size_class(radius_mm: float) -> str:
    """Return the size class of a radius in mm; classes are closed above."""
    return next(name for name, edge in CLASS_EDGES_MM if radius_mm <= edge)


def _tumor_rows(phantom: Phantom, first: int) -> list[dict[str, object]]:
    patient = phantom.patient
    used = [scan for scan in patient.scans if scan.expected in ("kept", "duplicate")]
    annotated = {organ for scan in used for organ in scan.annotated}
    rows = []
    for number, lesion in enumerate(phantom.lesions, 1):
        indices = np.argwhere(phantom.instances == number)
        volume = len(indices) * phantom.grid.voxel_volume_mm3
        radius = (3 * volume / (4 * np.pi)) ** (1 / 3)
        place = phantom.grid.affine @ [*indices.mean(axis=0)[::-1], 1]
        rows.append({
            "instance": first + number - 1, "patient": patient.name,
            "scans": ";".join(scan.name for scan in patient.scans), "organ": lesion.organ,
            "structure": lesion.structure, "kind": lesion.kind, "voxels": len(indices),
            "volume_mm3": volume, "radius_mm": radius, "ball_radius_mm": lesion.radius_mm,
            "size_class": size_class(radius),
            "centroid_x_ras_mm": place[0], "centroid_y_ras_mm": place[1],
            "centroid_z_ras_mm": place[2], "annotated_by_source": lesion.organ in annotated,
        })  # fmt: skip
    return rows


def _scan_row(view: View) -> dict[str, object]:
    scan, patient = view.scan, view.phantom.patient
    return {
        "source": scan.source, "source_case": scan.case, "patient": patient.name,
        "sex": patient.sex,
        **{f"shape_{a}": n for a, n in zip("zyx", view.grid.shape, strict=True)},
        **{f"spacing_{a}_mm": s for a, s in zip("xyz", view.grid.spacing_mm, strict=True)},
        "annotated": ";".join(scan.annotated), "defect": scan.defect,
        "expected": scan.expected, "expected_code": scan.expected_code,
    }  # fmt: skip
