"""Every check on a source file or folder: its code, level, meaning and remedy.

``docs/checks.md`` shows this table; a test holds the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tumoratlas.core.errors import GeometryError, InputError

Level = Literal["warn", "refuse"]
Kind = Literal["file", "header", "geometry", "image", "series"]


@dataclass(frozen=True)
class Check:
    """A defect that is looked for.

    Attributes
    ----------
    code
        Stable upper-case name.
    level
        ``refuse``: the file is not used; ``warn``: it is used and the finding recorded.
    kind
        What is looked at: the bytes of the ``file``, the NIfTI ``header``, the ``geometry``,
        the voxels of a CT ``image``, or a DICOM ``series``.
    meaning
        What is wrong with the file.
    remedy
        What the user can do about it.
    """

    code: str
    level: Level
    kind: Kind
    meaning: str
    remedy: str


@dataclass(frozen=True)
class Finding:
    """What a check found in one file."""

    code: str
    level: Level
    message: str


@dataclass(frozen=True)
class Repair:
    """A named change to what was read, with texts of the state before and after."""

    name: str
    before: str
    after: str


_AGAIN = "Download the file again and compare its checksum with the source's"
_EXPORT = "Convert the scan again from its DICOM files"

# fmt: off
_ROWS: tuple[Check, ...] = (
    Check("FILE_MISSING", "refuse", "file", "no such file", "Check the source folder's path"),
    Check("BROKEN_LINK", "refuse", "file", "a symbolic link leads nowhere or in a circle",
          "Restore the link's target"),
    Check("UNREADABLE", "refuse", "file", "the file cannot be read",
          "Make it a regular file that you may read"),
    Check("EMPTY_FILE", "refuse", "file", "the file has no bytes", _AGAIN),
    Check("HTML_PAGE", "refuse", "file", "the file is a web page, not a volume",
          "The download needs a login or the link has moved: download the file in a browser"),
    Check("POINTER_FILE", "refuse", "file", "the file is a git-lfs or git-annex pointer",
          "Fetch the content with git lfs pull or git annex get"),
    Check("ZIP_FILE", "refuse", "file", "the file is a zip archive", "Unzip it first"),
    Check("NOT_NIFTI", "refuse", "file", "the content is not a NIfTI volume", _AGAIN),
    Check("NOT_GZIP", "refuse", "file", "the name ends in .gz but the content is not compressed",
          "Rename the file to .nii"),
    Check("IS_GZIP", "refuse", "file", "the name ends in .nii but the content is compressed",
          "Rename the file to .nii.gz"),
    Check("GZIP_TRUNCATED", "refuse", "file", "the gzip stream ends too early", _AGAIN),
    Check("GZIP_CORRUPT", "refuse", "file", "the gzip stream is damaged", _AGAIN),
    Check("GZIP_CRC", "refuse", "file", "the content does not match its gzip checksum", _AGAIN),
    Check("GZIP_MEMBERS", "refuse", "file", "the gzip file has more than one member",
          "Unpack the file and compress it with gzip"),
    Check("GZIP_TRAILING", "refuse", "file", "other bytes follow the gzip stream", _AGAIN),
    Check("DATA_SIZE", "refuse", "file", "the header claims another amount of data", _AGAIN),
    Check("VOLUME_TOO_LARGE", "refuse", "file", "the volume is larger than allowed",
          "Raise the limit on voxels if the scan is real"),
    Check("WRITE_NOT_KEPT", "refuse", "file", "a volume read back differs from what was written",
          "Check the disk and its free space"),
    Check("ARRAY_DAMAGED", "refuse", "file", "an intermediate volume is cut or altered",
          "Delete the file and run the step again"),
    Check("HEADER_DAMAGED", "refuse", "header", "a field of the header has no legal value", _AGAIN),
    Check("PAIRED_HEADER", "refuse", "header", "the voxels are in a separate .img file",
          "Join header and voxels in one .nii.gz file"),
    Check("DIMENSION_INVALID", "refuse", "header", "a dimension is zero or negative", _EXPORT),
    Check("NOT_3D", "refuse", "header", "the volume has fewer than three dimensions", _EXPORT),
    Check("TIME_SERIES", "refuse", "header", "the file holds several volumes",
          "Split it and keep one volume per file"),
    Check("DTYPE_RGB", "refuse", "header", "the voxels are colors", _EXPORT),
    Check("DTYPE_COMPLEX", "refuse", "header", "the voxels are complex numbers", _EXPORT),
    Check("DTYPE_UNKNOWN", "refuse", "header", "the voxel type is not supported", _EXPORT),
    Check("SCALING_INVALID", "refuse", "header", "slope or intercept is infinite", _EXPORT),
    Check("UNITS_NOT_MM", "refuse", "header", "lengths are not in millimetres",
          "Write the header anew with spacing and origin in mm"),
    Check("UNITS_UNKNOWN", "warn", "header", "the unit of length is not stated; mm is assumed",
          "None needed if the spacing is plausible"),
    Check("NO_ORIENTATION", "refuse", "geometry", "neither qform nor sform places the volume",
          _EXPORT),
    Check("QFORM_INVALID", "refuse", "geometry", "the qform, the only form, is not a rotation",
          _EXPORT),
    Check("AFFINE_NOT_FINITE", "refuse", "geometry", "the affine holds NaN or infinity", _EXPORT),
    Check("AFFINE_SINGULAR", "refuse", "geometry", "the affine flattens the volume", _EXPORT),
    Check("SPACING_CONTRADICTION", "refuse", "geometry",
          "the spacing of the sform differs from pixdim by more than 1 %",
          "Find out the true spacing and write the header anew"),
    Check("FORMS_CONTRADICT", "refuse", "geometry",
          "qform and sform turn the volume differently by more than a voxel",
          "Find out the true orientation and write the header anew"),
    Check("FORMS_DIFFER", "warn", "geometry",
          "qform and sform place the volume differently; the sform is used",
          "None needed if scan and masks agree with each other"),
    Check("NON_ORTHONORMAL", "refuse", "geometry", "the affine is sheared and there is no qform",
          "Resample the scan to straight axes, or convert it with tilt correction"),
    Check("SFORM_SHEARED", "warn", "geometry", "the sform is sheared; the qform is used",
          "Check whether the scan was taken with a tilted gantry"),
    Check("READERS_DIFFER", "warn", "geometry",
          "nibabel or ITK places the volume elsewhere or refuses it",
          "Use the images of the release, which all readers place alike"),
    Check("SPACING_SUSPECT", "warn", "geometry",
          "the spacing is 1 x 1 x 1 mm or outside 0.1 to 20 mm, as if it had been lost",
          "Compare with the source's DICOM files"),
    Check("REPAIR_UNFIT", "refuse", "geometry",
          "the spacing is neither the listed true one nor the false 1 x 1 x 1 mm",
          "Compare the file, and the case's spacing in resources/sources, with the DICOM files"),
    Check("AXES_DIFFER", "refuse", "geometry", "the axes of the two grids are not parallel",
          "Bring both volumes to the same orientation first"),
    Check("DATA_NOT_FINITE", "refuse", "image", "voxels are NaN or infinite", _EXPORT),
    Check("CONSTANT", "refuse", "image", "all voxels have the same value", _EXPORT),
    Check("HU_OFFSET", "refuse", "image", "soft tissue lies near 1024: HU were not computed",
          "Apply the DICOM rescale slope and intercept"),
    Check("HU_RANGE", "refuse", "image", "values lie beyond 16-bit HU", _EXPORT),
    Check("NOT_CT", "refuse", "image", "the values are not those of a CT in HU",
          "Check that the scan is a CT and that its values were not rescaled or windowed"),
    Check("NO_AIR", "warn", "image", "no voxel is below -200 HU: values were clipped",
          "Use the unclipped scan if there is one"),
    Check("PADDING", "warn", "image", "values lie below -1024 HU: padding outside the image",
          "None needed"),
    Check("FLOAT_CT", "warn", "image", "HU are stored as floating-point numbers", "None needed"),
    Check("FEW_SLICES", "warn", "image", "the scan has few slices",
          "Check that the series is complete"),
    Check("REPEATED_SLICES", "warn", "image", "slices are repeated",
          "Check that the series was put together once"),
    Check("APPENDED_SLICES", "refuse", "image",
          "a block of slices at one end repeats others of the scan",
          "Remove the repeated slices, from the labels too"),
    Check("NAMED_SUSPECT", "warn", "image", "the source's description names the scan as suspect",
          "Read the reason in resources/sources and look at the scan"),
    Check("REPAIR_UNNEEDED", "warn", "image", "a listed repair was not needed and not made",
          "None needed"),
    Check("NO_DICOM", "refuse", "series", "no DICOM image was found", "Check the folder's path"),
    Check("DICOM_UNREADABLE", "refuse", "series", "a DICOM file cannot be parsed", _AGAIN),
    Check("DICOM_UNDECODABLE", "refuse", "series", "the pixels of a slice cannot be decoded",
          "Download the file again; if it stays so, decompress it with gdcmconv --raw"),
    Check("DICOM_MULTIFRAME", "refuse", "series", "a file is not one gray-scale slice",
          "Export the series as single-slice CT images"),
    Check("NOT_CT_SERIES", "refuse", "series", "the modality is not CT", "Choose the CT series"),
    Check("LOCALIZER", "refuse", "series", "the series is a localizer, not a volume",
          "None: left out by design"),
    Check("SECONDARY_CAPTURE", "refuse", "series", "the series is a screenshot or report",
          "None: left out by design"),
    Check("OTHER_FILES", "warn", "series", "files that are no slices were passed over",
          "None needed"),
    Check("MIXED_SERIES", "refuse", "series", "the folder holds slices of several series",
          "Put each series into a folder of its own"),
    Check("NO_POSITION", "refuse", "series", "a slice lacks position, orientation or spacing",
          "Export the series again"),
    Check("ONE_SLICE", "refuse", "series", "a single slice has no spacing",
          "Check that the series is complete"),
    Check("DUPLICATE_POSITIONS", "refuse", "series", "slices share a position",
          "Keep one acquisition or phase per folder"),
    Check("DUPLICATE_SLICES", "warn", "series", "copies of slices were passed over", "None needed"),
    Check("MISSING_SLICES", "refuse", "series", "slices are missing", "Download the series again"),
    Check("IRREGULAR_SLICES", "refuse", "series", "slices are unevenly spaced",
          "Resample the series to even slices"),
    Check("SLICE_JITTER", "warn", "series", "slice positions deviate by 1 to 10 % of the spacing",
          "None needed"),
    Check("GANTRY_TILT", "refuse", "series", "the slices are stacked askew",
          "Resample the scan to straight axes"),
    Check("LOSSY", "warn", "series", "the pixels were compressed with loss", "None needed"),
    Check("STORED_BITS", "warn", "series",
          "values need more bits than the header states; all bits are used", "None needed"),
    Check("PNG_COUNT", "refuse", "series", "there is not one mask picture per slice",
          "Check that pictures and slices are of the same series"),
    Check("PNG_SHAPE", "refuse", "series", "a mask picture is not a gray image of the slice's size",
          "Check that pictures and slices are of the same series"),
    Check("MASK_SERIES", "refuse", "series", "the mask slices do not fit the slices of the scan",
          "Check that masks and scan are of the same series"),
)
# fmt: on
CHECKS: dict[str, Check] = {check.code: check for check in _ROWS}


def refusal(code: str, subject: object, evidence: str = "") -> InputError:
    """Return the error that refuses ``subject`` for a defect of level ``refuse``."""
    check = CHECKS[code]
    kind = GeometryError if check.kind == "geometry" else InputError
    return kind(code, subject, check.meaning, remedy=check.remedy, evidence=evidence)


def warning(code: str, evidence: str = "") -> Finding:
    """Return the finding that records a defect of level ``warn``."""
    check = CHECKS[code]
    message = f"{check.meaning} ({evidence})" if evidence else check.meaning
    return Finding(code, check.level, message)
