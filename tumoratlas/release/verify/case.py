"""The check of one released case: every volume read once, by itself and against the others."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import TumorAtlasError
from tumoratlas.core.files import sha256_bytes
from tumoratlas.core.structures import Structure, structures, tumor_structures
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.inflate import inflate_head
from tumoratlas.images.nifti import NiftiFile, decode_nifti, read_nifti_bytes
from tumoratlas.release.cases import (
    COMBINED,
    CT,
    IGNORE,
    LAST_CLASS,
    ORGANS,
    POOLED,
    TUMOR_LABELS,
    tumor_files,
    voxels_sha256,
    whole_organ,
)
from tumoratlas.release.verify.files import VOXEL_HASHES
from tumoratlas.release.verify.problems import Problems
from tumoratlas.release.verify.seg import seg_problems
from tumoratlas.release.verify.tumors import ReleasedCase, check_organ, check_pooled
from tumoratlas.release.verify.voxels import Part, differences, filled_part, paint

_MOST_VOXELS = 2**31
_SAME_GRID_VOXELS = 1e-3
_ORIENTATION = "RAS"
_HEADER_TEXTS = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
_DATA_START = 352
_MASKS, _INSTANCES, _SUFFIX = "segmentations/", "instances/", ".nii.gz"


@dataclass
class CaseFindings:
    """Slices of the case, None where no volume tells, and what is wrong."""

    case_id: str
    slices: int | None = None
    problems: list[str] = field(default_factory=list)


def name_below(case_id: str, place: str) -> str:
    """Return the name of a case's file below the case; a misplaced one keeps its whole path."""
    if place == f"ct/{case_id}/{CT}":
        return CT
    name = place.removeprefix(f"label/{case_id}/")
    return place if name == CT else name


def verify_case(folder: Path, case: ReleasedCase) -> CaseFindings:
    """Check the volumes of a case below the release ``folder``; nothing is raised."""
    check = _CaseCheck(folder, case)
    with check.problems.guard(case.case_id):
        check.run()
    return CaseFindings(case.case_id, check.slices, check.problems.lines)


class _CaseCheck:
    def __init__(self, folder: Path, case: ReleasedCase) -> None:
        self.folder = folder
        self.case = case
        self.problems = Problems()
        self.files = {name_below(case.case_id, place): place for place in sorted(case.sums)}
        self.left = dict(self.files)  # not read yet
        self.grid: Grid | None = None
        self.grid_of = ""
        self.slices: int | None = None
        self.is_whole = True  # every listed volume could be read and lies on the grid
        masks = case.masks or ()
        self.known = [row["organ"] for row in masks if row["released"]]
        self.drawn: dict[str, Part] = {}

    def run(self) -> None:
        self._check_files()
        ct = self._read(CT, np.int16)
        combined, labels = self._read(COMBINED, np.uint8), self._read(TUMOR_LABELS, np.uint8)
        pooled = self._read(POOLED, np.uint16)
        part = None if pooled is None else filled_part(pooled)
        if self.grid is None and self.left:  # neither scan nor joined masks: any volume tells
            place = min(self.left.values())
            file = self._decode(self.folder / place, place)
            if file is not None:
                self._fits(place, file, None)
        if self.grid is not None:
            self._check_joined(combined, labels, part)
            for organ in self.known:
                self._check_organ(organ, ct)
            with self.problems.guard(self._subject(POOLED)):
                check_pooled(part, self.drawn, ct, self.grid, self.case, self.problems)
        for name in list(self.left):  # files that should not be there
            self._read(name, None)
        self._check_seg()

    def _check_files(self) -> None:
        """Compare the list of files with the states; absent means unknown or withheld."""
        definitions, masks = self.case.definitions, self.case.masks
        if definitions is None or masks is None:
            return
        organs = [row.name for row in structures().values() if row.kind == "organ"]
        wanted = set()
        if definitions["target"] != "labels_only":
            wanted.add(CT)
        # The table of licences says whether masks may be joined.
        allowed = {POOLED, COMBINED, TUMOR_LABELS, *(f"{_MASKS}{name}{_SUFFIX}" for name in organs)}
        for organ in self.known:
            if organ in tumor_structures():
                tumors, cysts, instances = tumor_files(organ)
                wanted |= {tumors, instances}
                allowed.add(cysts)
        for name in sorted(wanted - set(self.files)):
            self.problems.add("STATE", self._subject(name), "is not there, but should be")
        for name in sorted(set(self.files) - wanted - allowed):
            told = "should not be there: its organ is unknown or withheld, or the name is none"
            self.problems.add("STATE", self._subject(name), told)

    def _check_seg(self) -> None:
        """Compare the case's DICOM SEG object, if there is one, with its masks."""
        place = f"seg/{self.case.case_id}.dcm"
        path = self.folder / place
        if not path.is_file() or self.grid is None or self.case.tumors is None:
            return
        with self.problems.guard(place):
            for reason in seg_problems(
                path,
                case_id=self.case.case_id,
                folder=self.folder / "label" / self.case.case_id,
                tumors=self.case.tumors,
                grid=self.grid,
            ):
                self.problems.add("SEG", place, reason)

    def _subject(self, name: str) -> str:
        return f"{self.case.case_id}/{name}"

    def _read(self, name: str, dtype: type | None) -> NDArray[Any] | None:
        """Read a listed volume once; check hashes, header, type and grid; None if unusable."""
        place = self.left.pop(name, None)
        if place is None:
            return None
        path = self.folder / place
        if not path.is_file():  # told by the check of the folder
            self.is_whole = False
            return None
        file = self._decode(path, place)
        usable = file is not None and self._fits(place, file, dtype)
        self.is_whole &= usable
        return file.array if usable else None

    def _decode(self, path: Path, place: str) -> NiftiFile | None:
        try:
            data = read_nifti_bytes(path, max_voxels=_MOST_VOXELS)
        except TumorAtlasError as error:
            self.problems.add(error.code, place, f"{error.reason} {error.evidence}".strip())
            return None
        listed = self.case.sums[place]
        try:
            file = decode_nifti(path, data, max_voxels=_MOST_VOXELS)
        except TumorAtlasError as error:
            changed = "" if sha256_bytes(data) == listed else "; its bytes are not those released"
            told = f"{error.reason} {error.evidence}".strip()
            self.problems.add(error.code, place, told + changed)
            return None
        if file.sha256 != listed:
            self.problems.add("SHA256", place, "its bytes are not those of SHA256SUMS")
        self._check_header(path, place, data)
        turned = file.array
        if (axes := _orientation(file.grid)) != _ORIENTATION:
            self.problems.add("ORIENTATION", place, f"is {axes}, not {_ORIENTATION}")
            turned, _ = to_canonical(file.array, file.grid, _ORIENTATION)
        if place in self.case.voxels and voxels_sha256(turned) != self.case.voxels[place]:
            self.problems.add("VOXELS", place, f"its voxels are not those of {VOXEL_HASHES}")
        return file

    def _check_header(self, path: Path, place: str, data: bytes) -> None:
        if data[3] or any(data[4:8]):
            self.problems.add("HEADER_TEXT", place, "the gzip header carries a name or a time")
        if texts := _header_texts(inflate_head(path, data, _DATA_START)):
            self.problems.add("HEADER_TEXT", place, f"the header carries text in {texts}")

    def _fits(self, place: str, file: NiftiFile, dtype: type | None) -> bool:
        if dtype is not None and file.array.dtype != dtype:
            self.problems.add("DTYPE", place, f"is {file.array.dtype}, not {np.dtype(dtype)}")
            return False
        if self.grid is None:
            self.grid, self.grid_of, self.slices = file.grid, place, file.array.shape[0]
            return True
        if file.grid == self.grid:
            return True
        if file.grid.shape != self.grid.shape:
            told = f"has the shape {file.grid.shape}, {self.grid_of} {self.grid.shape}"
            self.problems.add("GRID", place, told)
            return False
        distance_mm = file.grid.corner_distance_mm(self.grid)
        if distance_mm > _SAME_GRID_VOXELS * min(self.grid.spacing_mm):
            told = f"is {distance_mm:.3g} mm off the grid of {self.grid_of}"
            self.problems.add("GRID", place, told)
        return True

    def _check_joined(
        self,
        combined: NDArray[np.uint8] | None,
        labels: NDArray[np.uint8] | None,
        pooled: Part | None,
    ) -> None:
        """Join all masks again, and compare with the files that show them together."""
        masks = {
            name.removeprefix(_MASKS).removesuffix(_SUFFIX)
            for name in self.files
            if name.startswith(_MASKS)
        }
        hidden = [organ for organ in ORGANS if organ not in self.known]
        parts = [whole_organ(organ, masks) for organ in hidden]
        if self.case.hides_tumors:
            parts.append(())
        ignored = {name for names in parts for name in names} if all(parts) else set()
        again = np.zeros(self.grid.shape, np.uint8)
        tumors = np.full(self.grid.shape, 0 if all(parts) else IGNORE, np.uint8)
        for structure in structures().values():  # organs come before tumors
            targets = []
            if structure.index <= LAST_CLASS:
                targets.append((again, structure.index))
            if structure.name in ignored:
                targets.append((tumors, IGNORE))
            if structure.kind == "organ":
                self._paint(structure.name, targets)
        for structure in sorted(tumor_structures().values(), key=_index):
            self._paint(structure.name, [(again, structure.index)], is_kept=True)
            self._paint(f"{structure.organ}_cyst", [], is_kept=True)
        if pooled is not None:
            tumors[pooled.box][pooled.array != 0] = IGNORE
        for value, organ in enumerate(ORGANS, 1):
            if part := self.drawn.get(tumor_structures()[organ].name):
                tumors[part.box][part.array != 0] = value
        # A mask that could not be read, or whose state is not known, is told by itself.
        if self.is_whole:
            self._compare(COMBINED, combined, again)
            if self.case.masks is not None:
                self._compare(TUMOR_LABELS, labels, tumors)

    def _paint(
        self, name: str, targets: list[tuple[NDArray[np.uint8], int]], *, is_kept: bool = False
    ) -> None:
        file = f"{_MASKS}{name}{_SUFFIX}"
        mask = self._read(file, np.uint8)
        if mask is None:
            return
        bits, box = paint(mask, *targets)
        if bits > 1:
            largest = int(mask.max())
            self.problems.add("VALUES", self.files[file], f"holds {largest}, not only 0 and 1")
        if is_kept:
            self.drawn[name] = Part(box, mask[box].copy())

    def _compare(
        self, name: str, found: NDArray[np.uint8] | None, expected: NDArray[np.uint8]
    ) -> None:
        if found is not None and (count := differences(found, expected)):
            self.problems.add("COMBINED", self.files[name], f"{count} voxels differ from the masks")

    def _check_organ(self, organ: str, ct: NDArray[np.int16] | None) -> None:
        if organ not in tumor_structures():
            return
        _, _, name = tumor_files(organ)
        instances = self._read(name, np.uint16)
        if instances is None:
            return
        state = next(row["state"] for row in self.case.masks if row["organ"] == organ)
        part = filled_part(instances)
        self.drawn[name] = part
        with self.problems.guard(self._subject(name)):
            check_organ(part, self.drawn, organ, state, ct, self.grid, self.case, self.problems)


# The volumes of a case have the same few headers.
@lru_cache(maxsize=16)
def _orientation(grid: Grid) -> str:
    return grid.orientation


@lru_cache(maxsize=16)
def _header_texts(block: bytes) -> str:
    """Return where in the bytes before the voxels a text may stand, empty if nowhere."""
    header = nib.Nifti1Header(block[:348], check=False)
    texts = [name for name in _HEADER_TEXTS if bytes(header[name]).strip(b"\0")]
    if not texts and (any(block[348:]) or float(header["vox_offset"]) != _DATA_START):
        texts = ["an extension"]
    return ", ".join(texts)


def _index(structure: Structure) -> int:
    return structure.index
