"""The first fourteen patients, whose tumors the demo's networks learn, and the micro set."""

from tests.phantoms.cast import Lesion, Patient, Report, Scan, duplicate, refused, reserved

# Names of the test sets, as the sources' descriptions give them.
CT_ORG_TEST = "CT-ORG test"
LITS_TEST = "LiTS test"
MSD_TEST = "MSD test"
BTCV_TEST = "BTCV test"
IRCADB = "3D-IRCADb"
PANORAMA = "PANORAMA"
PANTS = "PanTS test"

LOST_SPACING = (Report("warning", "SPACING_SUSPECT"), Report("repair", "spacing_from_copy"))
PADDED = (Report("warning", "PADDING"),)
# The scan's header and that of its label map, whose every mask is told.
STRAIGHTENED = tuple(
    Report("repair", "straightened", mask) for mask in ("", "kidney", "liver", "pancreas", "spleen")
)

_TRUNCATED = refused("lits", "5", "truncated", "DATA_SIZE", "liver")
# One folder with two overlapping parts of a scan that P002 holds whole.
_SECOND_EXPORT = {"defect": "two series and more in a folder", "copy": "crop"}
STATIONS = (
    duplicate(
        "private", "P004_s2", **_SECOND_EXPORT, margins=((18, 16), (14, 12), (0, 19)),
        reports=(Report("warning", "DUPLICATE_SLICES"),),
    ),
    duplicate("private", "P004_s3", **_SECOND_EXPORT, margins=((20, 16), (12, 14), (16, 0))),
)  # fmt: skip

FIRST = (
    Patient(
        1, "M", (96, 80, 36), (1.5, 1.5, 3.0),
        (Lesion("liver", 21.2), Lesion("liver", 4.1), Lesion("pancreas", 7.0)),
        (
            Scan("lits", "0", ("liver",)),
            duplicate(
                "abdomenatlas11", "BDMAP_00000001", defect="cut to the body, header left",
                copy="mini",
            ),
        ),
    ),
    Patient(
        2, "M", (72, 60, 30), (2.0, 2.0, 4.0),
        (Lesion("liver", 13.0), Lesion("liver", 7.4), Lesion("colon", 7.0)),
        (
            Scan("lits", "1", ("liver",), "stored LAI"),
            duplicate(
                "ct_org", "10", defect="test case, stored LPS", test_set=CT_ORG_TEST,
            ),
        ),
    ),
    Patient(
        3, "F", (103, 86, 43), (1.4, 1.4, 2.5),
        (Lesion("liver", 12.5), Lesion("liver", 7.2), Lesion("liver", 4.2)),
        (
            duplicate("lits", "28", "liver", defect="identity affine", reports=LOST_SPACING),
            Scan("msd_ct", "liver_28", ("liver",), "AppleDouble file"),
            duplicate("abdomenct1k", "Case_00078", defect="identity affine", reports=LOST_SPACING),
            reserved("ircadb", "3Dircadb1.1", IRCADB, "liver", defect="names without extension"),
        ),
    ),
    Patient(
        4, "M", (82, 69, 36), (1.75, 1.75, 3.0), (Lesion("liver", 8.0),), (_TRUNCATED,)
    ),
    Patient(
        5, "M", (96, 80, 36), (1.5, 1.5, 3.0),
        (
            Lesion("kidney_right", 11.6), Lesion("kidney_left", 7.0),
            Lesion("kidney_left", 4.1, "cyst"), Lesion("liver", 8.0),
        ),
        (
            Scan("kits23", "case_00000", ("kidney",), "slices on the first axis"),
            duplicate("abdomenct1k", "Case_00001", defect="slices on the second axis"),
        ),
        origin_mm=None,
    ),
    Patient(
        6, "F", (82, 69, 43), (1.75, 1.75, 2.5),
        (
            Lesion("kidney_left", 11.5), Lesion("kidney_right", 7.4), Lesion("kidney_right", 4.2),
            Lesion("kidney_right", 3.8, "cyst"),
        ),
        (
            Scan("kits23", "case_00001", ("kidney",), "slices on the first axis"),
            duplicate("abdomenct1k", "Case_00002", defect="padding", reports=PADDED),
            duplicate(
                "flare23", "FLARE23_2201", defect="cropped, name without _0000", copy="crop",
                margins=((9, 5), (4, 7), (6, 3)),
            ),
        ),
        origin_mm=None,
    ),
    Patient(
        7, "F", (96, 80, 36), (1.5, 1.5, 3.0),
        (Lesion("pancreas", 8.2), Lesion("pancreas", 4.2), Lesion("esophagus", 6.2)),
        (
            Scan("msd_ct", "pancreas_001", ("pancreas",), "AppleDouble file"),
            duplicate(
                "abdomenct1k", "Case_00011", defect="sheared affine",
                reports=(*STRAIGHTENED, Report("warning", "READERS_DIFFER")),
            ),
            reserved("panorama", "100001_00001", PANORAMA, "pancreas"),
        ),
    ),
    Patient(
        8, "M", (90, 75, 43), (1.6, 1.6, 2.5),
        (Lesion("pancreas", 6.8), Lesion("pancreas", 4.2)),
        (
            Scan("msd_ct", "pancreas_004", ("pancreas",), "AppleDouble file"),
            reserved("pants", "PanTS_00009001", PANTS, defect="cut to the body", copy="mini"),
        ),
    ),
    Patient(
        9, "M", (96, 80, 36), (1.5, 1.5, 3.0),
        (Lesion("colon", 7.2), Lesion("colon", 4.2), Lesion("kidney_left", 8.0)),
        (
            Scan("msd_ct", "colon_001", ("colon",), "AppleDouble file"),
            duplicate(
                "flare23", "FLARE23_0001", defect="resampled to 2 mm, pooled tumors",
                copy="resample",
            ),
        ),
    ),
    Patient(
        10, "F", (103, 86, 43), (1.4, 1.4, 2.5),
        (Lesion("colon", 7.0), Lesion("colon", 4.2), Lesion("uterus", 7.2), Lesion("liver", 12.5)),
        (
            Scan("msd_ct", "colon_006", ("colon",), "AppleDouble file"),
            refused("flare23", "FLARE23_0002", "HU + 1024", "HU_OFFSET"),
        ),
    ),
    Patient(
        11, "M", (96, 80, 48), (1.5, 1.5, 2.0), (),
        (Scan("chaos", "1", (), "file names run down the body, SliceThickness 3.2"),),
    ),
    Patient(
        12, "F", (82, 69, 36), (1.75, 1.75, 3.0), (),
        (
            Scan(
                "abdomenatlas11", "BDMAP_00000002", defect="aorta in RAS under an LPS header",
                reports=(Report("repair", "mask_header", "aorta"),),
            ),
        ),
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
        (
            Scan("private", "P002", ("esophagus", "uterus"), "patient names"),
            *STATIONS,
        ),
    ),
)  # fmt: skip

MICRO_SCALE = (48 / 144, 48 / 120, 48 / 108)

MICRO = (
    Patient(
        1, "M", (32, 32, 24), (1.5, 1.5, 2.0), (Lesion("liver", 4.1),),
        (Scan("lits", "0", ("liver",)), duplicate("abdomenatlas11", "BDMAP_00000001")),
        field_scale=MICRO_SCALE,
    ),
    Patient(
        2, "M", (28, 28, 24), (1.75, 1.75, 2.0), (Lesion("liver", 6.2), Lesion("liver", 3.6)),
        (Scan("lits", "1", ("liver",), "stored LAI"),),
        field_scale=MICRO_SCALE,
    ),
    Patient(
        4, "M", (24, 24, 24), (2.0, 2.0, 2.0), (Lesion("liver", 4.0),), (_TRUNCATED,),
        field_scale=MICRO_SCALE,
    ),
)  # fmt: skip
