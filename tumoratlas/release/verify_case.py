"""The check of one released case: its volumes against each other and against its table rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import TumorAtlasError
from tumoratlas.core.structures import structures, tumor_structures
from tumoratlas.images.grid import Grid
from tumoratlas.images.inflate import inflate_head
from tumoratlas.images.nifti import NiftiFile, read_nifti
from tumoratlas.measure.instances import Instance, measure_instances, size_class
from tumoratlas.release.cases import COMBINED, CT, class_map

_MOST_VOXELS = 2**31
_SAME_GRID_VOXELS = 1e-3
# Headers hold the affine in 32 bits: 1e-4 mm at a metre from the origin.
_RELATIVE, _ABSOLUTE = 1e-5, 1e-2
_ORIENTATION = "RAS"
_HEADER_TEXTS = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
_HEAD_BYTES, _DATA_START = 4096, 352
_EXACT = ("voxels", "bbox", "touches_border")
_CLOSE = (
    "volume_mm3",
    "radius_mm",
    "longest_axial_mm",
    "perpendicular_mm",
    "max_3d_mm",
    "centroid_lps_mm",
    "mean_hu",
    "sd_hu",
)


@dataclass(frozen=True)
class ReleasedCase:
    """What the release says of one case.

    Attributes
    ----------
    case_id
        Its id.
    sums
        Listed SHA-256 of its files, by path below the release.
    states
        Organ to the state of its mask.
    tumors
        Its rows of the table ``tumors``.
    definitions
        Content of ``definitions.json``.
    """

    case_id: str
    sums: Mapping[str, str]
    states: Mapping[str, str]
    tumors: Sequence[Mapping[str, Any]]
    definitions: Mapping[str, Any]


@dataclass
class CaseFindings:
    """Slices of the case's scan, and what is wrong."""

    case_id: str
    slices: int = 0
    problems: list[str] = field(default_factory=list)


def verify_case(folder: Path, case: ReleasedCase) -> CaseFindings:
    """Check the files of a case below the release ``folder``; nothing is raised."""
    check = _CaseCheck(folder, case)
    try:
        check.run()
    except Exception as error:  # a copy may be damaged in any way; the other cases go on
        check.report("UNREADABLE", case.case_id, f"{type(error).__name__}: {error}")
    return check.found


class _CaseCheck:
    def __init__(self, folder: Path, case: ReleasedCase) -> None:
        self.folder = folder
        self.case = case
        self.found = CaseFindings(case.case_id)
        self.label = f"label/{case.case_id}"
        self.names = {
            path.removeprefix(f"{self.label}/segmentations/").removesuffix(".nii.gz")
            for path in case.sums
            if path.startswith(f"{self.label}/segmentations/")
        }

    def report(self, code: str, subject: str, reason: str) -> None:
        self.found.problems.append(f"{code}: {subject}: {reason}")

    def run(self) -> None:
        ct_place = f"ct/{self.case.case_id}/{CT}"
        ct = self._read(ct_place, np.int16)
        if ct is None:
            return
        self.found.slices = ct.array.shape[0]
        if ct.grid.orientation != _ORIENTATION:
            self.report("ORIENTATION", ct_place, f"is {ct.grid.orientation}, not {_ORIENTATION}")
        self._check_files()
        combined = np.zeros(ct.array.shape, np.uint8)
        tumor_masks: dict[str, NDArray[np.bool_] | None] = {}
        indices = {name: index for index, name in class_map().items()}
        ordered = sorted(self.names, key=lambda name: (indices.get(name, 0), name))
        for name in ordered:
            mask = self._mask(name, ct.grid)
            if mask is None:
                continue
            if name in indices:
                combined[mask] = indices[name]
            if name not in _organ_structures():
                tumor_masks[name] = mask
        self._check_combined(combined, ct.grid)
        for organ, structure in tumor_structures().items():
            self._check_organ(organ, structure.name, tumor_masks, ct)

    def _read(self, place: str, dtype: type, grid: Grid | None = None) -> NiftiFile | None:
        """Read a listed volume, and check its hash, type, grid and header."""
        path = self.folder / place
        if place not in self.case.sums or not path.is_file():
            if place not in self.case.sums:
                self.report("NOT_LISTED", place, "the case needs this file")
            return None  # a listed file that is missing is told by the check of the folder
        try:
            file = read_nifti(path, max_voxels=_MOST_VOXELS)
        except TumorAtlasError as error:
            self.report(error.code, place, f"{error.reason} {error.evidence}".strip())
            return None
        if file.sha256 != self.case.sums[place]:
            self.report("SHA256", place, "the bytes are not those that were released")
        self._check_header(place)
        if file.array.dtype != dtype:
            self.report("DTYPE", place, f"is {file.array.dtype}, not {np.dtype(dtype)}")
            return None
        if grid is not None:
            distance_mm = file.grid.corner_distance_mm(grid)
            if distance_mm > _SAME_GRID_VOXELS * min(grid.spacing_mm):
                self.report("GRID", place, f"is {distance_mm:.3g} mm off the scan's grid")
            if file.array.shape != grid.shape:
                return None
        return file

    def _check_header(self, place: str) -> None:
        with open(self.folder / place, "rb") as stream:
            data = stream.read(_HEAD_BYTES)
        if data[3] or any(data[4:8]):
            self.report("HEADER_TEXT", place, "the gzip header carries a name or a time")
        block = inflate_head(Path(place), data, _DATA_START)
        header = nib.Nifti1Header(block[:348], check=False)
        texts = [name for name in _HEADER_TEXTS if bytes(header[name]).strip(b"\0")]
        if texts or any(block[348:]) or float(header["vox_offset"]) != _DATA_START:
            what = ", ".join(texts) or "an extension"
            self.report("HEADER_TEXT", place, f"the header carries text in {what}")

    def _check_files(self) -> None:
        """Compare the list of files with the states; absent means unknown."""
        wanted = {f"{self.label}/{COMBINED}", f"ct/{self.case.case_id}/{CT}"}
        allowed = {f"{self.label}/segmentations/{name}.nii.gz" for name in _organ_structures()}
        for organ, structure in tumor_structures().items():
            state = self.case.states.get(organ, "")
            if state not in ("present", "confirmed_empty", "unknown"):
                self.report("STATE", f"{self.case.case_id} {organ}", f"has no state ({state!r})")
            elif state != "unknown":
                wanted.add(f"{self.label}/segmentations/{structure.name}.nii.gz")
                wanted.add(f"{self.label}/instances/{organ}.nii.gz")
                allowed.add(f"{self.label}/segmentations/{organ}_cyst.nii.gz")
        for place in sorted(wanted - set(self.case.sums)):
            self.report("STATE", place, "is missing, but its organ's tumors are known")
        for place in sorted(set(self.case.sums) - wanted - allowed):
            self.report("STATE", place, "should not be: unknown organ, state or name")

    def _mask(self, name: str, grid: Grid) -> NDArray[np.bool_] | None:
        place = f"{self.label}/segmentations/{name}.nii.gz"
        file = self._read(place, np.uint8, grid)
        if file is None:
            return None
        if file.array.max(initial=0) > 1:
            self.report("VALUES", place, f"holds {int(file.array.max())}, not only 0 and 1")
        return file.array != 0

    def _check_combined(self, expected: NDArray[np.uint8], grid: Grid) -> None:
        place = f"{self.label}/{COMBINED}"
        file = self._read(place, np.uint8, grid)
        if file is not None:
            different = int(np.count_nonzero(file.array != expected))
            if different:
                self.report("COMBINED", place, f"{different} voxels differ from the masks")

    def _check_organ(
        self,
        organ: str,
        structure: str,
        masks: Mapping[str, NDArray[np.bool_] | None],
        ct: NiftiFile,
    ) -> None:
        state = self.case.states.get(organ)
        rows = {row["number"]: row for row in self.case.tumors if row["organ"] == organ}
        subject = f"{self.case.case_id} {organ}"
        if state not in ("present", "confirmed_empty"):
            if rows:
                self.report("STATE", subject, f"is {state}, but has {len(rows)} tumors")
            return
        file = self._read(f"{self.label}/instances/{organ}.nii.gz", np.uint16, ct.grid)
        if file is None:
            return
        instances = file.array
        if instances.any() != (state == "present"):
            self.report("STATE", subject, f"is {state}, its instance map says otherwise")
        cysts = [number for number, row in rows.items() if row["lesion_kind"] == "cyst"]
        is_cyst = np.zeros(int(np.iinfo(np.uint16).max) + 1, bool)
        is_cyst[cysts] = True
        in_cyst = is_cyst[instances]
        nothing = np.zeros((), bool)
        for name, expected in (
            (structure, (instances > 0) & ~in_cyst),
            (f"{organ}_cyst", in_cyst),
        ):
            mask = masks.get(name)
            different = int(np.count_nonzero((nothing if mask is None else mask) != expected))
            if different:
                self.report(
                    "INSTANCES", f"{subject} {name}", f"{different} voxels differ from instances"
                )
        definitions = self.case.definitions
        measured = {
            found.label: found
            for found in measure_instances(
                instances,
                ct.array,
                ct.grid,
                size_edges_mm=definitions["size_edges_mm"],
                early_diameter_mm=definitions["early_diameter_mm"],
                minimum_volume_mm3=definitions["minimum_volume_mm3"],
            )
        }
        if set(measured) != set(rows):
            self.report("TUMORS", subject, f"numbers {sorted(rows)}, instances {sorted(measured)}")
        for number in sorted(set(measured) & set(rows)):
            self._check_tumor(f"{subject} {number}", rows[number], measured[number])

    def _check_tumor(self, subject: str, row: Mapping[str, Any], found: Instance) -> None:
        wrong = [
            name
            for name in (*_EXACT, *_CLOSE)
            if not _is_close(row[name], getattr(found, name), 0 if name in _EXACT else _ABSOLUTE)
        ]
        # Classes follow from the row's own numbers, which hold more digits than a header does.
        definitions = self.case.definitions
        early_mm = definitions["early_diameter_mm"]
        if row["size_class"] != size_class(row["radius_mm"], definitions["size_edges_mm"]):
            wrong.append("size_class")
        if row["is_early"] != (2 * row["radius_mm"] < early_mm):
            wrong.append("is_early")
        if row["is_early_recist"] != (row["longest_axial_mm"] < early_mm):
            wrong.append("is_early_recist")
        if row["is_fragment"] != found.is_fragment:
            wrong.append("is_fragment")
        for name in wrong:
            self.report("TUMORS", subject, f"{name} is {row[name]}, not {getattr(found, name)}")


def _organ_structures() -> set[str]:
    return {row.name for row in structures().values() if row.kind == "organ"}


def _is_close(stated: object, found: object, tolerance: float) -> bool:
    if isinstance(found, tuple):
        return len(stated or ()) == len(found) and all(
            _is_close(a, b, tolerance) for a, b in zip(stated, found, strict=True)
        )
    if stated is None or found is None or not tolerance:
        return stated == found
    return math.isclose(stated, found, rel_tol=_RELATIVE, abs_tol=tolerance)
