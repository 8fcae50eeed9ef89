"""Small patients, bodies of 48 mm: of the further sources, of test sets, and with defects."""

from tests.phantoms.atlas import ATLAS_MM
from tests.phantoms.cast import Lesion, Patient, Report, Scan, duplicate, refused, reserved
from tests.phantoms.patients import (
    BTCV_TEST,
    FIRST,
    LITS_TEST,
    MSD_TEST,
    PADDED,
    PANORAMA,
)

JHH = "JHH"
KIPA22 = "KiPA22"
ULS23 = "ULS23"


def _small(
    number: int,
    sex: str,
    shape_xyz: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    lesions: tuple[Lesion, ...],
    *scans: Scan,
    **facts: object,
) -> Patient:
    """Return a patient whose whole body fits the grid."""
    scale = tuple(
        n * step / whole for n, step, whole in zip(shape_xyz, spacing_mm, ATLAS_MM, strict=True)
    )
    return Patient(
        number, sex, shape_xyz, spacing_mm, lesions, scans, field_scale=scale, **facts
    )  # fmt: skip


_LABEL_PLACED = (Report("repair", "mask_header", "pancreas"),)
_STORED_BITS = (Report("repair", "stored_bits"),)
_TINY, _SMALL = Lesion("liver", 4.1), Lesion("liver", 6.1)

# At most ten of these are kept: the demo trains and predicts on every kept case.
_KEPT = (
    _small(
        15, "M", (34, 30, 28), (1.4, 1.6, 1.7), (),
        Scan(
            "pancreas_ct", "0002", defect="label stored otherwise, with a false origin",
            reports=_LABEL_PLACED,
        ),
        duplicate(
            "pancreas_ct", "0025", defect="cropped", copy="crop", margins=((2, 1), (0, 2), (1, 2)),
            reports=_LABEL_PLACED,
        ),
        refused("abdomenct1k", "Case_00012", "no affine", "NO_ORIENTATION"),
        reserved("panorama", "100002_00001", PANORAMA),
        origin_mm=(-31.5, 12.25, -640.0),
    ),
    _small(16, "M", (32, 32, 24), (1.5, 1.5, 2.0), (_TINY,), Scan("ct_org", "131")),
    _small(17, "F", (30, 32, 26), (1.6, 1.5, 1.85), (_TINY,), Scan("btcv", "0001")),
    _small(18, "F", (32, 26, 25), (1.5, 1.85, 1.95), (), Scan("word", "word_0001")),
    _small(
        19, "M", (32, 32, 24), (1.5, 1.5, 2.0), (),
        Scan("amos22", "amos_0001", defect="padding -3024", reports=PADDED),
        duplicate(
            "abdomenatlas11", "BDMAP_00000003", defect="kidney masks swapped", copy="mini",
            reports=(
                Report("excluded_mask", "SIDES_SWAPPED", "kidney_left"),
                Report("excluded_mask", "SIDES_SWAPPED", "kidney_right"),
            ),
        ),
    ),
    _small(
        20, "F", (32, 30, 26), (1.5, 1.6, 1.85), (),
        Scan(
            "rsna_atd23", "21057", defect="RLE, 12 of 16 bits stored, named from the feet up",
            reports=_STORED_BITS,
        ),
    ),
    _small(
        22, "M", (28, 32, 24), (1.7, 1.5, 2.0), (_SMALL,),
        Scan("btcv", "0061", defect="test case", test_set=BTCV_TEST),
        duplicate("flare23", "FLARE23_0003", defect="relabelled"),
    ),
    _small(
        23, "F", (32, 28, 25), (1.5, 1.7, 1.95), (_TINY,),
        Scan("msd_ct", "liver_132", defect="test case", test_set=MSD_TEST),
        duplicate("lits", "test-volume-0", defect="test case", test_set=LITS_TEST),
        duplicate("abdomenct1k", "Case_00201"),
    ),
)  # fmt: skip

_PHASES = (
    _KEPT[5].in_phase(
        21,
        Scan("rsna_atd23", "51033", defect="named from the head down", reports=_STORED_BITS),
    ),
    FIRST[12].in_phase(
        24, Scan("private", "P003_DOE_JANE", ("esophagus",), "second phase of P001"),
        window="esophagus",
    ),
)  # fmt: skip

_CUBE = ((24, 24, 22), (2.0, 2.0, 2.2))

_REFUSED = (
    _small(
        25, "M", *_CUBE, (_TINY,),
        refused(
            "lits", "29", "identity affine, no copy", "FALSE_SPACING", "liver",
            reports=(Report("warning", "SPACING_SUSPECT"),),
        ),
    ),
    _small(26, "F", *_CUBE, (), refused("kits23", "case_00400", "appended", "APPENDED_SLICES")),
    _small(27, "M", *_CUBE, (), refused("rsna_atd23", "18667", "slice lost", "MISSING_SLICES")),
    _small(28, "F", *_CUBE, (), refused("private", "P005", "gantry tilt", "GANTRY_TILT")),
    _small(29, "M", *_CUBE, (), refused("word", "word_0101", "false checksum", "GZIP_CRC")),
)  # fmt: skip

_TEST_SETS = (
    _small(30, "F", *_CUBE, (), reserved("panorama", "100003_00001", PANORAMA)),
    Patient(
        31, "M", (90, 75, 68), (0.8, 0.8, 0.8), (Lesion("kidney_left", 4.1),),
        (
            reserved(
                "kipa22", "0", KIPA22, "kidney", defect="HU + 1024, cut to a kidney",
                reports=(Report("repair", "hu_offset"),),
            ),
        ),
        field_scale=(0.5, 0.5, 0.5), window="kidney_left",
    ),
    Patient(
        32, "F", (72, 60, 54), (1.0, 1.0, 1.02), (Lesion("pancreas", 3.2),),
        (
            reserved(
                "uls23", "pancreas_00001_lesion_01", ULS23, "pancreas", defect="cut out, no air",
                reports=(Report("warning", "NO_AIR"),),
            ),
        ),
        field_scale=(0.5, 0.5, 0.5), window="pancreas",
    ),
    _small(33, "F", *_CUBE, (), reserved("jhh", "J0001", JHH)),
)  # fmt: skip

FULL = (*FIRST, *_KEPT, *_PHASES, *_REFUSED, *_TEST_SETS)
