"""A kept scan becomes a case: release image, model image, organs and source lesions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import InputError
from tumoratlas.core.structures import structure_bit, tumor_structures
from tumoratlas.images.arrays import write_array
from tumoratlas.images.nifti import write_nifti
from tumoratlas.images.resample import resample_image, resample_labels
from tumoratlas.ingest.fingerprint import Turn, voxel_sha256
from tumoratlas.ingest.readers import LabelMask, ScanVolume, read_labels, read_scan

TUMOR, CYST = 1, 2


def harmonize_case(
    case_id: str,
    members: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    model_spacing_mm: float,
    max_voxels: int,
    min_slices: int,
) -> dict[str, Any]:
    """Write a case's volumes and return what is known of its organs.

    Files: ``ct.nii.gz`` (RAS+, int16 HU, native spacing), ``model.b2nd`` (int16 HU on the
    isotropic model grid), ``structures.b2nd`` (uint32 bit planes of organs), and for each organ
    whose tumors a source annotated ``lesions_<organ>.b2nd`` and ``model_lesions_<organ>.b2nd``
    (uint8: 0 none, 1 tumor, 2 cyst).

    Parameters
    ----------
    case_id
        Id of the case.
    members
        Listed scans of equal content, the kept one first, the others by precedence. Their
        labels are carried onto the kept scan voxel by voxel, without resampling.
    folder
        Empty folder to write into.
    model_spacing_mm, max_voxels, min_slices
        Configuration.
    """
    kept = read_scan(members[0], max_voxels=max_voxels, min_slices=min_slices)
    labels = _Labels(kept.hu.shape)
    excluded = []
    end = Turn.of(kept.hu)
    for scan in members:
        volume = kept if scan is members[0] else _read_copy(scan, kept, max_voxels, min_slices)
        start = end if volume is kept else Turn.of(volume.hu)
        masks, bad = read_labels(scan, volume, max_voxels=max_voxels)
        excluded += bad
        keys = ("scan_id", "source", "licence", "tumor_free_means")
        origin = {key: scan[key] for key in keys}
        for mask in masks:
            carried = end.undo(start.apply(mask.voxels))
            labels.add(LabelMask(mask.name, carried), origin)
    labels.drop_unread()
    model_grid = kept.grid.with_spacing(model_spacing_mm)
    meta = {"grid": kept.grid.to_json()}
    model_meta = {"grid": model_grid.to_json()}
    write_nifti(folder / "ct.nii.gz", kept.hu, kept.grid)
    model = resample_image(kept.hu, kept.grid, model_grid)
    write_array(folder / "model.b2nd", model, **model_meta)
    write_array(folder / "structures.b2nd", labels.planes, **meta)
    for organ, lesions in sorted(labels.lesions.items()):
        write_array(folder / f"lesions_{organ}.b2nd", lesions, **meta)
        on_model = resample_labels(lesions, kept.grid, model_grid)
        write_array(folder / f"model_lesions_{organ}.b2nd", on_model, **model_meta)
    return {
        "case_id": case_id,
        "scan_id": members[0]["scan_id"],
        "source": members[0]["source"],
        "grid": kept.grid.to_json(),
        "model_grid": model_grid.to_json(),
        "structures": labels.sources,
        "annotated": labels.annotations,
        "excluded_masks": [*excluded, *labels.conflicts],
    }


def _read_copy(
    scan: Mapping[str, Any], kept: ScanVolume, max_voxels: int, min_slices: int
) -> ScanVolume:
    volume = read_scan(scan, max_voxels=max_voxels, min_slices=min_slices)
    if voxel_sha256(volume.hu) != voxel_sha256(kept.hu):
        raise InputError(
            "SCAN_CHANGED",
            scan["image_path"],
            "the file changed since it was found to be a duplicate",
            remedy="Run again with `--forcerun list_scans`",
        )
    return volume


class _Labels:
    """Masks from several copies of a scan; the first source of a structure wins."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.planes = np.zeros(shape, np.uint32)
        self.lesions: dict[str, NDArray[np.uint8]] = {}
        self.sources: dict[str, dict[str, str]] = {}
        self.annotations: dict[str, dict[str, str]] = {}
        self.conflicts: list[dict[str, str]] = []

    def add(self, mask: LabelMask, origin: dict[str, str]) -> None:
        organ, _, kind = mask.name.rpartition("_")
        if kind in ("tumor", "cyst") and organ in tumor_structures():
            self._add_lesion(mask, organ, TUMOR if kind == "tumor" else CYST, origin)
            return
        bit = np.uint32(structure_bit(mask.name))
        if mask.name in self.sources:
            self._compare(mask, (self.planes & bit) != 0, self.sources[mask.name], origin)
            return
        self.sources[mask.name] = origin
        self.planes[mask.voxels] |= bit

    def _add_lesion(self, mask: LabelMask, organ: str, value: int, origin: dict[str, str]) -> None:
        first = self.annotations.setdefault(organ, origin)
        lesions = self.lesions.setdefault(organ, np.zeros(self.planes.shape, np.uint8))
        if first != origin:
            self._compare(mask, lesions == value, first, origin)
            return
        lesions[mask.voxels & (lesions == 0)] = value

    def drop_unread(self) -> None:
        """Forget organs without a tumor whose source does not say that it looked for one."""
        for organ, origin in list(self.annotations.items()):
            if origin["tumor_free_means"] == "unknown" and not self.lesions[organ].any():
                del self.annotations[organ], self.lesions[organ]

    def _compare(
        self,
        mask: LabelMask,
        present: NDArray[np.bool_],
        first: dict[str, str],
        second: dict[str, str],
    ) -> None:
        """Record where a second source says otherwise; its voxels change nothing."""
        different = int(np.count_nonzero(present ^ mask.voxels))
        if different:
            self.conflicts.append(
                {
                    "id": f"{second['scan_id']}/{mask.name}",
                    "rule": "harmonize_scans",
                    "code": "LABEL_CONFLICT",
                    "reason": f"differs from the {mask.name} of {first['scan_id']}, which is kept",
                    "evidence": f"{different} voxels",
                    "remedy": "Look at both; `ingest.precedence` decides which source is kept",
                }
            )
