"""What a phantom patient is: anatomy, grid, lesions, and the scans made of each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from tumoratlas.images.grid import Grid

Margins = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Lesion:
    """A ball in an organ.

    Attributes
    ----------
    structure
        The structure that holds it (``kidney_left``); `organ` is its tumor organ.
    radius_mm
        Radius of the ball.
    kind
        ``tumor`` or ``cyst``.
    """

    structure: str
    radius_mm: float
    kind: str = "tumor"

    @property
    def organ(self) -> str:
        """The tumor organ (``kidney``)."""
        return self.structure.split("_")[0]


@dataclass(frozen=True)
class Report:
    """What the pipeline must tell about a scan or a file.

    Attributes
    ----------
    where
        ``excluded``, ``warning``, ``repair``, ``excluded_mask`` or ``leak``.
    code
        Code of the row, name of the repair, or name of the test set.
    detail
        Name of the mask, of ``excluded_mask`` and of the repair of a mask.
    """

    where: str
    code: str
    detail: str = ""


@dataclass(frozen=True)
class Scan:
    """A scan of a patient as it lies in a source.

    Attributes
    ----------
    source, case
        The source's id and the case's name in it.
    annotated
        The organs whose tumors this source labels.
    defect
        What is wrong with it, or empty.
    expected
        What ingest makes of it: ``kept``, ``duplicate``, ``excluded`` or ``test_only``.
    expected_code
        Why, for all but ``kept``.
    copy
        How it comes from the patient's voxels: ``same``, ``crop`` by ``margins``, ``mini`` (cut
        to the body as in the parent release) or ``resample`` (to 2 mm).
    margins
        Voxels cut off both ends of (x, y, z) of the RAS grid.
    test_set
        The test set that it belongs to, or empty.
    reports
        What must be told about it, besides ``expected_code``.
    """

    source: str
    case: str
    annotated: tuple[str, ...] = ()
    defect: str = ""
    expected: str = "kept"
    expected_code: str = ""
    copy: str = "same"
    margins: Margins = ((0, 0), (0, 0), (0, 0))
    test_set: str = ""
    reports: tuple[Report, ...] = ()

    @property
    def name(self) -> str:
        """The name used in the truth (``lits/volume-0``)."""
        stem = "volume-" if self.source == "lits" and self.case.isdigit() else ""
        return f"{self.source}/{stem}{self.case}"

    @property
    def is_read(self) -> bool:
        """Whether its voxels can be read, so that its relations show."""
        return self.expected != "excluded" or self.expected_code == "FALSE_SPACING"


@dataclass(frozen=True)
class Patient:
    """An anatomy on one native grid in one contrast phase, seen by one or more scans.

    Attributes
    ----------
    number
        Seeds the anatomy and the noise, and names the patient.
    sex
        ``M`` or ``F``: has a prostate or a uterus.
    shape_xyz, spacing_mm
        The native RAS grid, along (x, y, z).
    lesions
        All lesions, labelled by a source or not.
    scans
        Where the patient occurs.
    origin_mm
        RAS position of the first voxel of the RAS grid; None puts the last voxel at (0, 0, 0),
        which is the first voxel of a file whose axes all run the other way.
    field_scale
        Size of the atlas along (x, y, z), relative to the full set's.
    phase_of
        Number of the patient whose anatomy and lesions these are, in another contrast phase
        with its own noise; 0 for a person of one phase.
    window
        Structure around which the field of view is cut, or empty: all of the grid.
    """

    number: int
    sex: str
    shape_xyz: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    lesions: tuple[Lesion, ...]
    scans: tuple[Scan, ...]
    origin_mm: tuple[float, float, float] | None = (-72.0, -60.0, -310.5)
    field_scale: tuple[float, float, float] = field(default=(1.0, 1.0, 1.0))
    phase_of: int = 0
    window: str = ""

    @property
    def name(self) -> str:
        """The name used in the truth (``patient_01``)."""
        return f"patient_{self.number:02d}"

    @property
    def anatomy(self) -> int:
        """The number that seeds the anatomy, and tells who the person is."""
        return self.phase_of or self.number

    @property
    def kept(self) -> bool:
        """Whether ingest is expected to keep a scan of this patient."""
        return any(scan.expected == "kept" for scan in self.scans)

    def grid(self) -> Grid:
        """Return the patient's true grid, oriented RAS, before any window is cut."""
        affine = np.diag([*self.spacing_mm, 1.0])
        first = np.array(self.shape_xyz) - 1
        affine[:3, 3] = -first * self.spacing_mm if self.origin_mm is None else self.origin_mm
        # NIfTI stores the affine in single precision: keep what a file can say.
        return Grid.of(self.shape_xyz[::-1], affine.astype(np.float32).astype(np.float64))

    def in_phase(self, number: int, *scans: Scan, window: str = "") -> Patient:
        """Return the same person in another contrast phase."""
        return replace(self, number=number, scans=scans, phase_of=self.number, window=window)


def duplicate(
    source: str, case: str, *annotated: str, defect: str = "duplicate", **facts: object
) -> Scan:
    """Return a copy of a kept scan."""
    copy = facts.get("copy", "same")
    code = {"same": "DUPLICATE", "resample": "RESAMPLED_COPY"}.get(copy, "CROPPED_COPY")
    return Scan(source, case, annotated, defect, "duplicate", code, **facts)


def refused(
    source: str, case: str, defect: str, code: str, *annotated: str, **facts: object
) -> Scan:
    """Return a scan that must not be used."""
    return Scan(source, case, annotated, defect, "excluded", code, **facts)


def reserved(source: str, case: str, test_set: str, *annotated: str, **facts: object) -> Scan:
    """Return a scan of an external test set."""
    return Scan(
        source, case, annotated, facts.pop("defect", ""), "test_only", "TEST_SET",
        test_set=test_set, **facts,
    )  # fmt: skip
