"""A kept scan becomes a case: release image, model image, organs and source lesions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.structures import structure_bit, structures, tumor_structures
from tumoratlas.images.arrays import write_array
from tumoratlas.images.nifti import write_nifti
from tumoratlas.images.resample import resample_image, resample_labels
from tumoratlas.ingest.alignment import Alignment
from tumoratlas.ingest.fitting import PAIRS, SPLEEN_LIVER, centroid_x
from tumoratlas.ingest.labels import LabelMask, read_labels
from tumoratlas.ingest.readers import read_unchanged

TUMOR, CYST = 1, 2
POOLED = "pooled_tumor"
POOLED_FILE = "pooled.b2nd"
# Labels of a resampled copy agree with others up to their surface at best.
SAME_RESAMPLED_DICE = 0.9
# Below this lies no tissue: padding outside the field of view, which would bleed into the model
# image at the edge of the field.
LOWEST_HU = -1024

_RULE = "harmonize_scans"


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
    (uint8: 0 none, 1 tumor, 2 cyst). ``pooled.b2nd`` (uint8 0 and 1) holds tumors whose organ a
    source does not name; it exists where there are any, and says nothing of other voxels.

    Parameters
    ----------
    case_id
        Id of the case.
    members
        The kept scan first, then its copies by precedence, as
        `tumoratlas.ingest.steps.case_members` returns them. The labels of a copy are carried
        onto the kept scan through its alignment: voxel by voxel, or resampled where the copy
        was.
    folder
        Empty folder to write into.
    model_spacing_mm, max_voxels, min_slices
        Configuration.
    """
    limits = {"max_voxels": max_voxels, "min_slices": min_slices}
    kept = read_unchanged(members[0], members[0]["file_sha256"], **limits)
    labels = _Labels(kept.hu.shape)
    excluded, repairs = [], []
    for scan in members:
        if not scan["labels"]:
            continue
        volume = kept
        if scan is not members[0]:
            volume = read_unchanged(scan, scan["file_sha256"], **limits)
        masks, bad = read_labels(scan, volume, max_voxels=max_voxels)
        excluded += bad
        way = None if scan is members[0] else Alignment.from_json(scan["alignment"])
        cut = _cut_names(masks, way, kept.hu.shape)
        wrong = _wrong_sides(masks, way, kept.hu.shape)
        for mask in masks:
            origin = _origin(scan, mask, way)
            if mask.name in wrong:
                excluded.append(_row(mask, origin, *_MIRRORED))
                continue
            repairs += [
                {"id": f"{scan['scan_id']}/{mask.name}", "rule": _RULE, **asdict(repair)}
                for repair in mask.repairs
            ]
            if mask.name in cut:
                excluded.append(_row(mask, origin, *_CUT))
            else:
                voxels = way.carry(mask.voxels, kept.hu.shape)[0] if way else mask.voxels
                labels.add(mask.name, voxels, origin)
    model_grid = kept.grid.with_spacing(model_spacing_mm)
    meta = {"grid": kept.grid.to_json()}
    model_meta = {"grid": model_grid.to_json()}
    write_nifti(folder / "ct.nii.gz", kept.hu, kept.grid)
    model = resample_image(np.maximum(kept.hu, np.int16(LOWEST_HU)), kept.grid, model_grid)
    write_array(folder / "model.b2nd", model, **model_meta)
    write_array(folder / "structures.b2nd", labels.planes, **meta)
    for organ, lesions in sorted(labels.lesions.items()):
        write_array(folder / f"lesions_{organ}.b2nd", lesions, **meta)
        on_model = resample_labels(lesions, kept.grid, model_grid)
        write_array(folder / f"model_lesions_{organ}.b2nd", on_model, **model_meta)
    if labels.pooled_source:
        write_array(folder / POOLED_FILE, labels.pooled.astype(np.uint8), **meta)
    return {
        "case_id": case_id,
        "scan_id": members[0]["scan_id"],
        "source": members[0]["source"],
        "grid": kept.grid.to_json(),
        "model_grid": model_grid.to_json(),
        "structures": labels.sources,
        "annotated": labels.annotations,
        "pooled": labels.pooled_source,
        "repairs": repairs,
        "excluded_masks": [*excluded, *labels.conflicts],
    }


def _origin(scan: Mapping[str, Any], mask: LabelMask, way: Alignment | None) -> dict[str, Any]:
    keys = ("scan_id", "source", "tumor_free_means")
    facts = {key: scan[key] for key in keys} | {"licence": mask.licence}
    return facts | {"is_resampled": way is not None and not way.is_exact}


def _cut_names(
    masks: Sequence[LabelMask], way: Alignment | None, shape: tuple[int, ...]
) -> set[str]:
    """Return the masks that do not show all of their structure on the kept scan.

    An organ's mask that ends where its copy does; and tumors of an organ that a copy of a part
    of the kept scan does not show whole: what it found of them says nothing of the rest.
    """
    cut, whole, part = set(), set(), set()
    for mask in masks if way else ():
        # Carried here and again when it is added: all of them at once would not fit in memory.
        voxels, inside = way.carry(mask.voxels, shape)
        if not inside.all():
            part.add(mask.name)
        if mask.name in part and _is_cut(voxels, inside):
            cut.add(mask.name)
        elif voxels.any():
            whole.add(mask.name)
    for name in part - cut:
        organ, _, kind = name.rpartition("_")
        if kind in ("tumor", "cyst") and organ in tumor_structures():
            own = {s.name for s in structures().values() if (s.kind, s.organ) == ("organ", organ)}
            if own & cut or not own & whole:
                cut.add(name)
    return cut


_CUT = (
    "LABEL_CUT", "the copy that this mask was drawn on does not show all of the organ", "",
    "None needed; the structure stays unknown unless another copy shows all of it",
)  # fmt: skip
_MIRRORED = (
    "COPY_MIRRORED",
    "this copy and the kept scan are mirror images, and here the mask lies on the wrong side",
    "",
    "Look at both: one of the images has swapped sides; `ingest.precedence` decides which is kept",
)


def _wrong_sides(
    masks: Sequence[LabelMask], way: Alignment | None, shape: tuple[int, ...]
) -> set[str]:
    """Return all masks of a mirrored copy if its pairs lie on wrong sides of the kept scan."""
    if way is None or not way.is_mirrored:
        return set()
    sided = {name for pair in (*PAIRS, SPLEEN_LIVER) for name in pair}
    places = {}
    for mask in masks:
        if mask.name in sided and (voxels := way.carry(mask.voxels, shape)[0]).any():
            places[mask.name] = centroid_x(voxels)
    swapped = any(
        places[left] > places[right]
        for left, right in (*PAIRS, SPLEEN_LIVER)
        if left in places and right in places
    )
    return {mask.name for mask in masks} if swapped else set()


def _is_cut(voxels: NDArray[np.bool_], inside: NDArray[np.bool_]) -> bool:
    """Return whether a mask ends where its copy does, and not where the structure does.

    Parameters
    ----------
    voxels
        The carried mask on the kept scan, bool (z, y, x).
    inside
        The voxels of the kept scan that the copy covers, bool (z, y, x): a box.
    """
    if not inside.any():
        return True  # nothing of the copy lies on the kept scan
    for axis in range(3):
        covered = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = covered[0], covered[-1]
        plane = np.moveaxis(voxels, axis, 0)
        if first > 0 and plane[first].any():
            return True
        if last < len(plane) - 1 and plane[last].any():
            return True
    return False


def _row(
    mask: LabelMask, origin: Mapping[str, Any], code: str, reason: str, evidence: str, remedy: str
) -> dict[str, str]:
    row = {"id": f"{origin['scan_id']}/{mask.name}", "rule": _RULE, "code": code}
    return row | {"reason": reason, "evidence": evidence, "remedy": remedy}


class _Labels:
    """Masks from several copies of a scan; the first source of a structure wins."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.planes = np.zeros(shape, np.uint32)
        self.lesions: dict[str, NDArray[np.uint8]] = {}
        self.sources: dict[str, dict[str, Any]] = {}
        self.annotations: dict[str, dict[str, Any]] = {}
        self.pooled = np.zeros(shape, bool)
        self.pooled_source: dict[str, Any] = {}
        self.conflicts: list[dict[str, str]] = []

    def add(self, name: str, voxels: NDArray[np.bool_], origin: dict[str, Any]) -> None:
        """Take in a mask on the kept scan, bool (z, y, x)."""
        if name == POOLED:
            self._add_pooled(voxels, origin)
            return
        organ, _, kind = name.rpartition("_")
        if kind in ("tumor", "cyst") and organ in tumor_structures():
            self._add_lesion(name, voxels, organ, TUMOR if kind == "tumor" else CYST, origin)
            return
        bit = np.uint32(structure_bit(name))
        if name in self.sources:
            self._compare(name, voxels, (self.planes & bit) != 0, self.sources[name], origin)
            return
        self.sources[name] = origin
        self.planes[voxels] |= bit

    def _add_lesion(
        self,
        name: str,
        voxels: NDArray[np.bool_],
        organ: str,
        value: int,
        origin: dict[str, Any],
    ) -> None:
        if origin["tumor_free_means"] == "unknown" and not voxels.any():
            return  # nobody says that a tumor was looked for
        first = self.annotations.setdefault(organ, origin)
        lesions = self.lesions.setdefault(organ, np.zeros(self.planes.shape, np.uint8))
        if first != origin:
            self._compare(name, voxels, lesions == value, first, origin)
            return
        lesions[voxels & (lesions == 0)] = value

    def _add_pooled(self, voxels: NDArray[np.bool_], origin: dict[str, Any]) -> None:
        if not voxels.any():
            return  # not all tumors are labelled: an empty mask says nothing
        if not self.pooled_source:
            self.pooled, self.pooled_source = voxels, origin
        self._compare(POOLED, voxels, self.pooled, self.pooled_source, origin)

    def _compare(
        self,
        name: str,
        voxels: NDArray[np.bool_],
        present: NDArray[np.bool_],
        first: dict[str, Any],
        second: dict[str, Any],
    ) -> None:
        """Record where a second source says otherwise; its voxels change nothing."""
        different = int(np.count_nonzero(present ^ voxels))
        either = int(np.count_nonzero(present)) + int(np.count_nonzero(voxels))
        dice = 1 - different / max(1, either)
        is_resampled = first["is_resampled"] or second["is_resampled"]
        if different and not (is_resampled and dice >= SAME_RESAMPLED_DICE):
            self.conflicts.append(
                {
                    "id": f"{second['scan_id']}/{name}",
                    "rule": _RULE,
                    "code": "LABEL_CONFLICT",
                    "reason": f"differs from the {name} of {first['scan_id']}, which is kept",
                    "evidence": f"{different} voxels, Dice {dice:.4f}",
                    "remedy": "Look at both; `ingest.precedence` decides which source is kept",
                }
            )
