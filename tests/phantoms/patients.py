"""Who the phantom patients are: anatomy, grid, lesions, and the scans made of each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tumoratlas.images.grid import Grid


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
        What ingest makes of it: ``kept``, ``duplicate`` or ``excluded``.
    expected_code
        Why, for all but ``kept``.
    """

    source: str
    case: str
    annotated: tuple[str, ...] = ()
    defect: str = ""
    expected: str = "kept"
    expected_code: str = ""

    @property
    def name(self) -> str:
        """The name used in the truth (``lits/volume-0``)."""
        stem = "volume-" if self.source == "lits" else ""
        return f"{self.source}/{stem}{self.case}"


@dataclass(frozen=True)
class Patient:
    """A patient: one anatomy on one native grid, seen by one or more scans.

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
    """

    number: int
    sex: str
    shape_xyz: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    lesions: tuple[Lesion, ...]
    scans: tuple[Scan, ...]
    origin_mm: tuple[float, float, float] | None = (-72.0, -60.0, -310.5)
    field_scale: tuple[float, float, float] = field(default=(1.0, 1.0, 1.0))

    @property
    def name(self) -> str:
        """The name used in the truth (``patient_01``)."""
        return f"patient_{self.number:02d}"

    @property
    def kept(self) -> bool:
        """Whether ingest is expected to keep a scan of this patient."""
        return any(scan.expected == "kept" for scan in self.scans)

    def grid(self) -> Grid:
        """Return the patient's true grid, oriented RAS."""
        affine = np.diag([*self.spacing_mm, 1.0])
        first = np.array(self.shape_xyz) - 1
        affine[:3, 3] = -first * self.spacing_mm if self.origin_mm is None else self.origin_mm
        # NIfTI stores the affine in single precision: keep what a file can say.
        return Grid.of(self.shape_xyz[::-1], affine.astype(np.float32).astype(np.float64))

    def scan(self, source: str) -> Scan:
        """Return the patient's scan in a source."""
        return next(scan for scan in self.scans if scan.source == source)


def _duplicate(source: str, case: str, *annotated: str, defect: str = "duplicate") -> Scan:
    return Scan(source, case, annotated, defect, "duplicate", "DUPLICATE")


def _truncated(case: str) -> Scan:
    return Scan("lits", case, ("liver",), "truncated", "excluded", "DATA_SIZE")


FULL = (
    Patient(
        1, "M", (96, 80, 36), (1.5, 1.5, 3.0),
        (Lesion("liver", 21.2), Lesion("liver", 4.1), Lesion("pancreas", 7.0)),
        (Scan("lits", "0", ("liver",)), _duplicate("abdomenatlas11", "BDMAP_00000001")),
    ),
    Patient(
        2, "M", (72, 60, 30), (2.0, 2.0, 4.0),
        (Lesion("liver", 13.0), Lesion("liver", 7.4), Lesion("colon", 7.0)),
        (Scan("lits", "1", ("liver",), "stored LAI"),),
    ),
    Patient(
        3, "F", (103, 86, 43), (1.4, 1.4, 2.5),
        (Lesion("liver", 12.5), Lesion("liver", 7.2), Lesion("liver", 4.2)),
        (
            _duplicate("lits", "28", "liver", defect="identity affine"),
            Scan("msd_ct", "liver_28", ("liver",), "AppleDouble file"),
        ),
    ),
    Patient(
        4, "M", (82, 69, 36), (1.75, 1.75, 3.0), (Lesion("liver", 8.0),), (_truncated("5"),)
    ),
    Patient(
        5, "M", (96, 80, 36), (1.5, 1.5, 3.0),
        (
            Lesion("kidney_right", 11.6), Lesion("kidney_left", 7.0),
            Lesion("kidney_left", 4.1, "cyst"), Lesion("liver", 8.0),
        ),
        (Scan("kits23", "case_00000", ("kidney",), "slices on the first axis"),),
        origin_mm=None,
    ),
    Patient(
        6, "F", (82, 69, 43), (1.75, 1.75, 2.5),
        (
            Lesion("kidney_left", 11.5), Lesion("kidney_right", 7.4), Lesion("kidney_right", 4.2),
            Lesion("kidney_right", 3.8, "cyst"),
        ),
        (Scan("kits23", "case_00001", ("kidney",), "slices on the first axis"),),
        origin_mm=None,
    ),
    Patient(
        7, "F", (96, 80, 36), (1.5, 1.5, 3.0),
        (Lesion("pancreas", 8.2), Lesion("pancreas", 4.2), Lesion("esophagus", 6.2)),
        (Scan("msd_ct", "pancreas_001", ("pancreas",), "AppleDouble file"),),
    ),
    Patient(
        8, "M", (90, 75, 43), (1.6, 1.6, 2.5),
        (Lesion("pancreas", 6.8), Lesion("pancreas", 4.2)),
        (Scan("msd_ct", "pancreas_004", ("pancreas",), "AppleDouble file"),),
    ),
    Patient(
        9, "M", (96, 80, 36), (1.5, 1.5, 3.0),
        (Lesion("colon", 7.2), Lesion("colon", 4.2), Lesion("kidney_left", 8.0)),
        (Scan("msd_ct", "colon_001", ("colon",), "AppleDouble file"),),
    ),
    Patient(
        10, "F", (103, 86, 43), (1.4, 1.4, 2.5),
        (Lesion("colon", 7.0), Lesion("colon", 4.2), Lesion("uterus", 7.2), Lesion("liver", 12.5)),
        (Scan("msd_ct", "colon_006", ("colon",), "AppleDouble file"),),
    ),
    Patient(
        11, "M", (96, 80, 48), (1.5, 1.5, 2.0), (),
        (Scan("chaos", "1", (), "file names run down the body, SliceThickness 3.2"),),
    ),
    Patient(
        12, "F", (82, 69, 36), (1.75, 1.75, 3.0), (),
        (Scan("abdomenatlas11", "BDMAP_00000002"),),
    ),
    Patient(
        13, "F", (90, 75, 43), (1.6, 1.6, 2.5),
        (Lesion("esophagus", 7.0), Lesion("esophagus", 4.1), Lesion("uterus", 11.5)),
        (Scan("private", "P001", ("esophagus", "uterus"), "patient names, shuffled files"),),
    ),
    Patient(
        14, "F", (96, 80, 43), (1.5, 1.5, 2.5),
        (
            Lesion("esophagus", 6.8), Lesion("esophagus", 4.2), Lesion("uterus", 7.4),
            Lesion("uterus", 4.2), Lesion("pancreas", 7.0),
        ),
        (Scan("private", "P002", ("esophagus", "uterus"), "patient names"),),
    ),
)  # fmt: skip

_MICRO_SCALE = (48 / 144, 48 / 120, 48 / 108)

MICRO = (
    Patient(
        1, "M", (32, 32, 24), (1.5, 1.5, 2.0), (Lesion("liver", 4.1),),
        (Scan("lits", "0", ("liver",)), _duplicate("abdomenatlas11", "BDMAP_00000001")),
        field_scale=_MICRO_SCALE,
    ),
    Patient(
        2, "M", (28, 28, 24), (1.75, 1.75, 2.0), (Lesion("liver", 6.2), Lesion("liver", 3.6)),
        (Scan("lits", "1", ("liver",), "stored LAI"),),
        field_scale=_MICRO_SCALE,
    ),
    Patient(
        4, "M", (24, 24, 24), (2.0, 2.0, 2.0), (Lesion("liver", 4.0),), (_truncated("5"),),
        field_scale=_MICRO_SCALE,
    ),
)  # fmt: skip
