"""One case of the release: its scan, organ masks, tumor masks and instance maps."""

import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.files import sha256_bytes
from tumoratlas.core.structures import structure_bit, structures, tumor_structures
from tumoratlas.harmonize.cases import POOLED_FILE
from tumoratlas.images.arrays import read_array
from tumoratlas.images.components import Box, foreground_box
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import read_nifti, write_nifti
from tumoratlas.measure.pooled import pooled_map
from tumoratlas.review.packets.labels import ORGANS

CT = "ct.nii.gz"
COMBINED = "combined_labels.nii.gz"
TUMOR_LABELS = "tumor_labels.nii.gz"
JOINED = (COMBINED, TUMOR_LABELS)
POOLED = "instances/pooled.nii.gz"
LAST_CLASS = 32  # `kidney` (33) has no side and is shipped as a binary mask only
IGNORE = len(ORGANS) + 1


def class_map() -> dict[int, str]:
    """Return the structures of ``combined_labels`` by value, 1 to 32."""
    return {row.index: row.name for row in structures().values() if row.index <= LAST_CLASS}


def tumor_class_map() -> dict[int, str]:
    """Return what the values of ``tumor_labels`` mean: a tumor of each organ, and ``ignore``."""
    tumors = {value: tumor_structures()[organ].name for value, organ in enumerate(ORGANS, start=1)}
    return tumors | {IGNORE: "ignore"}


def segmentation(name: str) -> str:
    """Return the file of a binary mask, below its case."""
    return f"segmentations/{name}.nii.gz"


def tumor_files(organ: str) -> tuple[str, str, str]:
    """Return the files of an organ's tumors, cysts and instances, which come or go together."""
    tumors = segmentation(tumor_structures()[organ].name)
    return tumors, segmentation(f"{organ}_cyst"), f"instances/{organ}.nii.gz"


def whole_organ(organ: str, names: Collection[str]) -> tuple[str, ...]:
    """Return those of the released organ masks that show all of a tumor organ together.

    None where a part of it may be in no mask: of the kidneys one side does not do.
    """
    own = [row.name for row in structures().values() if (row.kind, row.organ) == ("organ", organ)]
    found = tuple(name for name in own if name in names)
    sides = set(own) - {organ}  # of the kidneys; the mask named like the organ holds both
    return found if organ in found or (sides and sides <= set(found)) else ()


def voxels_sha256(array: NDArray[Any]) -> str:
    """Return the SHA-256 of a volume's voxels alone, equal whatever header or compression.

    Parameters
    ----------
    array
        (z, y, x), the indices growing toward right, anterior and superior. Hashed are its
        values in this order, little-endian, in its own dtype.
    """
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return sha256_bytes(plain.data.cast("B"))


def link_file(source: Path, target: Path) -> None:
    """Give a finished file a second name, or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:  # most often because the folder is not there yet: a case has 40 files
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
    withheld: Collection[str] = (),
    connectivity: int,
) -> dict[str, Any]:
    """Write the files of one released case below ``folder``, all on the scan's native grid.

    ``ct.nii.gz`` (int16 HU), ``segmentations/<structure>.nii.gz`` (uint8 0 and 1) and
    ``instances/<organ>.nii.gz`` (uint16, tumors and cysts by number). A structure that nobody
    annotated has no file; an empty file says that it was looked for. Tumor files hold tumors
    only, ``<organ>_cyst.nii.gz`` exists where there are cysts. ``instances/pooled.nii.gz``
    (uint16) holds lesions of an unnamed organ (`tumoratlas.measure.pooled.pooled_map`) where a
    source labels some. Two files join the masks above:

    * ``combined_labels.nii.gz`` (uint8, `class_map`): organs in index order, later over
      earlier, tumors over all.
    * ``tumor_labels.nii.gz`` (uint8, `tumor_class_map`): tumors in the order of the organs,
      later over earlier; where no known tumor is, ``ignore`` fills the pooled lesions and every
      organ whose tumors nobody knows, or the whole scan where such an organ has no mask
      (`whole_organ`) or tumors are withheld. Cysts leave no trace in it.

    Parameters
    ----------
    folder
        Empty folder to write into.
    harmonized, harmonized_row
        The case's folder and row of `tumoratlas.harmonize.cases.harmonize_case`.
    merged, merged_row
        The case's folder and row of `tumoratlas.review.merge.steps.merge_masks`: ``masks`` and,
        per known organ, the ``kind`` of every label.
    withheld
        Files that the licence keeps out. They are not written, and the files that join masks do
        not show them.
    connectivity
        6, 18 or 26 neighbours make pooled lesions.

    Returns
    -------
    Row with ``case_id, source, slices, shape`` (z, y, x), ``spacing_mm`` (x, y, z),
    ``structures`` (names of the masks written), ``organs`` (those whose tumors are known and
    written) and ``voxel_sha256`` (`voxels_sha256` of every file).

    Raises
    ------
    ReleaseError
        ``CASE_INSTANCES``: an instance map has labels without a kind, or kinds without voxels.
    """
    case = _Case(folder, Grid.from_json(harmonized_row["grid"]), frozenset(withheld))
    case_id = harmonized_row["case_id"]
    if CT not in withheld:
        case.link(CT, harmonized / CT)
    # Annotated and without a voxel is an empty file; not annotated is no file.
    planes, _ = read_array(harmonized / "structures.b2nd")
    box_of = _bit_boxes(planes)
    for structure in structures().values():
        if structure.kind == "organ" and structure.name in harmonized_row["structures"]:
            bit = np.uint32(structure_bit(structure.name))
            box = box_of(bit)
            case.write_organ(structure.name, structure.index, box, (planes[box] & bit) != 0)
    known = {mask["organ"] for mask in merged_row["masks"] if mask["state"] != "unknown"}
    organs = [organ for organ in ORGANS if organ in known and not case.holds_back(organ)]
    has_pooled = (harmonized / POOLED_FILE).exists()
    # A tumor may lie beside its organ's mask: where one is withheld, 0 would be false anywhere.
    is_hidden = not known <= set(organs) or (has_pooled and POOLED in withheld)
    case.ignore(planes, [organ for organ in ORGANS if organ not in organs], is_hidden)
    if has_pooled and POOLED not in withheld:
        pooled, _ = read_array(harmonized / POOLED_FILE)
        settled = np.zeros(case.grid.shape, bool)
        for organ in known:
            settled |= read_nifti(merged / f"{organ}.nii.gz", max_voxels=settled.size).array > 0
        case.write_pooled(
            pooled_map(
                pooled, planes, settled, known, case.grid, connectivity=connectivity
            ).instances
        )
    del planes
    for organ in organs:
        kinds = {int(n): facts["kind"] for n, facts in merged_row["instances"][organ].items()}
        case.write_tumors(organ, merged / f"{organ}.nii.gz", kinds, f"{case_id} {organ}")
    case.finish()
    return {
        "case_id": case_id,
        "source": harmonized_row["source"],
        "slices": case.grid.shape[0],
        "shape": list(case.grid.shape),
        "spacing_mm": list(case.grid.spacing_mm),
        "structures": sorted(case.masks),
        "organs": sorted(organs),
        "voxel_sha256": dict(sorted(case.hashes.items())),
    }


class _Case:
    """The files of a case while they are written."""

    def __init__(self, folder: Path, grid: Grid, withheld: frozenset[str]) -> None:
        self.folder = folder
        self.grid = grid
        self.withheld = withheld
        self.masks: set[str] = set()
        self.hashes: dict[str, str] = {}
        self.combined = np.zeros(grid.shape, np.uint8)
        self.tumors = np.zeros(grid.shape, np.uint8)
        # Tumors lie over every organ in `combined`, whose order is not that of the organs.
        self.drawn: dict[int, tuple[Box, NDArray[np.bool_]]] = {}

    def holds_back(self, organ: str) -> bool:
        """Return whether the organ's tumors are withheld."""
        return not self.withheld.isdisjoint(tumor_files(organ))

    def link(self, name: str, path: Path) -> NDArray[Any]:
        """Give a finished volume its name in the case; return its voxels."""
        array = read_nifti(path, max_voxels=self.combined.size).array
        link_file(path, self.folder / name)
        self.hashes[name] = voxels_sha256(array)
        return array

    def write(self, name: str, array: NDArray[Any]) -> None:
        """Write a volume of the case."""
        write_nifti(self.folder / name, array, self.grid)
        self.hashes[name] = voxels_sha256(array)

    def write_mask(self, name: str, box: Box, mask: NDArray[np.bool_]) -> None:
        """Write a mask by its voxels in a box."""
        whole = np.zeros(self.grid.shape, np.uint8)
        whole[box] = mask
        self.write(segmentation(name), whole)
        self.masks.add(name)

    def write_organ(self, name: str, index: int, box: Box, mask: NDArray[np.bool_]) -> None:
        """Write an organ's mask, unless it is withheld."""
        if segmentation(name) in self.withheld:
            return
        self.write_mask(name, box, mask)
        if index <= LAST_CLASS:
            self.combined[box][mask] = index

    def ignore(self, planes: NDArray[np.uint32], organs: Collection[str], is_hidden: bool) -> None:
        """Mark where tumors of these organs may be, anywhere if some are hidden."""
        parts = [whole_organ(organ, self.masks) for organ in organs]
        if is_hidden or not all(parts):
            self.tumors[:] = IGNORE
            return
        bits = sum({structure_bit(name) for names in parts for name in names})
        self.tumors[(planes & np.uint32(bits)) != 0] = IGNORE

    def write_pooled(self, instances: NDArray[np.uint16]) -> None:
        """Write lesions of an unnamed organ, in whose mask they may leave a hole."""
        self.write(POOLED, instances)
        self.tumors[instances > 0] = IGNORE

    def write_tumors(self, organ: str, path: Path, kinds: Mapping[int, str], subject: str) -> None:
        """Write an organ's instances, and its tumors and cysts; organs come in `ORGANS` order."""
        structure = tumor_structures()[organ]
        instances = self.link(tumor_files(organ)[2], path)
        box = foreground_box(instances)
        crop = instances[box]
        cysts = _cyst_labels(crop, kinds, subject)[crop]
        tumors = (crop > 0) & ~cysts
        self.write_mask(structure.name, box, tumors)
        if cysts.any():
            self.write_mask(f"{organ}_cyst", box, cysts)
        self.tumors[box][tumors] = ORGANS.index(organ) + 1
        self.drawn[structure.index] = (box, tumors)

    def finish(self) -> None:
        """Write the files that join masks."""
        for index, (box, tumors) in sorted(self.drawn.items()):
            self.combined[box][tumors] = index
        for name, joined in ((COMBINED, self.combined), (TUMOR_LABELS, self.tumors)):
            if name not in self.withheld:
                self.write(name, joined)


def _bit_boxes(planes: NDArray[np.uint32]) -> Callable[[np.uint32], Box]:
    """Return what gives the smallest box of a bit's voxels; one pass serves all bits."""
    columns = np.bitwise_or.reduce(planes, axis=0)
    sides = [np.bitwise_or.reduce(planes.reshape(len(planes), -1), axis=1)]
    sides += [np.bitwise_or.reduce(columns, axis=axis) for axis in (1, 0)]

    def box_of(bit: np.uint32) -> Box:
        hits = [np.flatnonzero(side & bit) for side in sides]
        z, y, x = (slice(int(h[0]), int(h[-1]) + 1) if len(h) else slice(0, 0) for h in hits)
        return z, y, x

    return box_of


def _cyst_labels(
    instances: NDArray[np.uint16], kinds: Mapping[int, str], subject: str
) -> NDArray[np.bool_]:
    """Return for every label whether it is a cyst."""
    counts = np.bincount(instances.ravel(), minlength=1)
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
