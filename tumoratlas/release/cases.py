"""One case of the release: its scan, organ masks, tumor masks and instance maps."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.structures import structure_bit, structures, tumor_structures
from tumoratlas.images.arrays import read_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import read_nifti, write_nifti

CT = "ct.nii.gz"
COMBINED = "combined_labels.nii.gz"
LAST_CLASS = 32  # `kidney` (33) has no side and is shipped as a binary mask only


def class_map() -> dict[int, str]:
    """Return the structures of ``combined_labels`` by value, 1 to 32."""
    return {row.index: row.name for row in structures().values() if row.index <= LAST_CLASS}


def link_file(source: Path, target: Path) -> None:
    """Give a finished file a second name, or copy it where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_case(
    folder: Path,
    *,
    harmonized: Path,
    merged: Path,
    harmonized_row: Mapping[str, Any],
    merged_row: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the files of one released case below ``folder``, all on the scan's native grid.

    ``ct.nii.gz`` (int16 HU), ``combined_labels.nii.gz`` (uint8, `class_map`: organs in index
    order, later over earlier, tumors over all), ``segmentations/<structure>.nii.gz`` (uint8 0
    and 1) and ``instances/<organ>.nii.gz`` (uint16, tumors and cysts by number). A structure
    that nobody annotated has no file; an empty file says that it was looked for. Tumor files
    hold tumors only, ``<organ>_cyst.nii.gz`` exists where there are cysts.

    Parameters
    ----------
    folder
        Empty folder to write into.
    harmonized, harmonized_row
        The case's folder and row of `tumoratlas.harmonize.cases.harmonize_case`.
    merged, merged_row
        The case's folder and row of `tumoratlas.review.steps.merge_masks`: ``masks`` and, per
        known organ, the ``kind`` of every label.

    Returns
    -------
    Row with ``case_id, source, slices, structures`` and ``organs`` (those whose tumors are
    known).

    Raises
    ------
    ReleaseError
        ``CASE_INSTANCES``: an instance map has labels without a kind, or kinds without voxels.
    """
    case_id = harmonized_row["case_id"]
    grid = Grid.from_json(harmonized_row["grid"])
    link_file(harmonized / CT, folder / CT)
    planes, _ = read_array(harmonized / "structures.b2nd")
    combined = np.zeros(grid.shape, np.uint8)
    written = []
    # Annotated and without a voxel is an empty file; not annotated is no file.
    for structure in structures().values():
        if structure.kind == "organ" and structure.name in harmonized_row["structures"]:
            mask = (planes & np.uint32(structure_bit(structure.name))) != 0
            written.append(_write_mask(folder, structure.name, mask, grid))
            if structure.index <= LAST_CLASS:
                combined[mask] = structure.index
    del planes
    organs = [mask["organ"] for mask in merged_row["masks"] if mask["state"] != "unknown"]
    for organ, structure in sorted(tumor_structures().items(), key=lambda item: item[1].index):
        if organ not in organs:
            continue
        instances = read_nifti(merged / f"{organ}.nii.gz", max_voxels=combined.size).array
        kinds = {int(n): facts["kind"] for n, facts in merged_row["instances"][organ].items()}
        is_cyst = _cyst_labels(instances, kinds, f"{case_id} {organ}")
        tumors, cysts = (instances > 0) & ~is_cyst[instances], is_cyst[instances]
        written.append(_write_mask(folder, structure.name, tumors, grid))
        combined[tumors] = structure.index
        if cysts.any():
            written.append(_write_mask(folder, f"{organ}_cyst", cysts, grid))
        link_file(merged / f"{organ}.nii.gz", folder / "instances" / f"{organ}.nii.gz")
    write_nifti(folder / COMBINED, combined, grid)
    return {
        "case_id": case_id,
        "source": harmonized_row["source"],
        "slices": grid.shape[0],
        "structures": sorted(written),
        "organs": sorted(organs),
    }


def _cyst_labels(
    instances: NDArray[np.uint16], kinds: Mapping[int, str], subject: str
) -> NDArray[np.bool_]:
    """Return for every label whether it is a cyst."""
    counts = np.bincount(instances.ravel())
    labels = {int(n) for n in np.flatnonzero(counts) if n}
    if labels != set(kinds):
        raise ReleaseError(
            "CASE_INSTANCES",
            subject,
            "the instance map and its list of kinds differ",
            evidence=f"labels {sorted(labels)}, kinds {sorted(kinds)}",
            remedy="Run the rule merge_masks again for this case",
        )
    return np.array([kinds.get(n) == "cyst" for n in range(len(counts))], bool)


def _write_mask(folder: Path, name: str, mask: NDArray[np.bool_], grid: Grid) -> str:
    write_nifti(folder / "segmentations" / f"{name}.nii.gz", mask.astype(np.uint8), grid)
    return name
