"""NIfTI volumes: read only when whole and unambiguous, written from a fresh header.

Common readers take truncated and bit-flipped files for good and disagree on where a legal
volume lies. This module is the one place where NIfTI files are read and written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import InputError
from tumoratlas.core.files import replacing, sha256_bytes
from tumoratlas.core.results import is_result, read_result
from tumoratlas.images.checks import Finding, Repair, refusal, warning
from tumoratlas.images.grid import Grid
from tumoratlas.images.inflate import (
    GZIP_MAGIC,
    LARGEST_BYTES,
    inflate,
    inflate_head,
    read_bytes,
    refuse_impostors,
)
from tumoratlas.images.orientation import check_affine, header_grid

Header = nib.Nifti1Header | nib.Nifti2Header

WRITTEN_DTYPES = ("int16", "uint8", "uint16", "uint32")
_READ_KINDS = "iuf"
_MILLIMETRE, _UNKNOWN_UNIT = 2, 0
# Room for header extensions in the bound on the bytes of a file.
_HEADER_BYTES = 1 << 24


@dataclass(frozen=True)
class NiftiFile:
    """A volume that passed every check of level ``refuse``.

    Attributes
    ----------
    path
        The file.
    array
        Voxels (z, y, x) in native byte order. Without scaling the stored dtype; with it
        int16 where the scaled values are whole and fit, else float32.
    grid
        Where the voxels lie.
    sha256
        Hash of the file's bytes.
    findings
        Checks of level ``warn`` that found something.
    repairs
        What was put right in the place in space.
    """

    path: Path
    array: NDArray[Any]
    grid: Grid
    sha256: str
    findings: tuple[Finding, ...]
    repairs: tuple[Repair, ...]


def read_nifti(path: Path, *, max_voxels: int) -> NiftiFile:
    """Read a ``.nii`` or ``.nii.gz`` file, refusing whatever is not whole and unambiguous.

    The file is read once; what it claims is compared with ``max_voxels`` and with its own
    size before anything is inflated; the CRC of the whole stream is checked. The place in
    space follows `header_grid`.

    Parameters
    ----------
    path
        The file. Its content tells whether it is compressed; a name that says otherwise is
        refused.
    max_voxels
        Largest volume to take in.

    Raises
    ------
    InputError, GeometryError
        Codes of kind file, header and geometry in `tumoratlas.images.checks.CHECKS`.
    """
    path = Path(path)
    return decode_nifti(path, read_nifti_bytes(path, max_voxels=max_voxels), max_voxels=max_voxels)


def read_nifti_bytes(path: Path, *, max_voxels: int) -> bytes:
    """Return the bytes of a file that may hold a volume of this size.

    Raises
    ------
    InputError
        Codes of kind file in `tumoratlas.images.checks.CHECKS`.
    DamageError
        ``RESULT_DAMAGED`` (`read_result`).
    """
    if is_result(path):
        return read_result(path)
    return read_bytes(path, max_bytes=max_voxels * 8 + _HEADER_BYTES)


def decode_nifti(path: Path, data: bytes, *, max_voxels: int) -> NiftiFile:
    """Return the volume that the bytes of the file ``path`` hold; see `read_nifti`."""
    is_gzip = data.startswith(GZIP_MAGIC)
    refuse_impostors(path, data)
    if path.suffix == ".gz" and not is_gzip:
        raise refusal("NOT_GZIP", path)
    if path.suffix == ".nii" and is_gzip:
        raise refusal("IS_GZIP", path)
    header = _parse_header(path, inflate_head(path, data, 540) if is_gzip else data[:540])
    shape, dtype, offset = _claims(path, header)
    size = offset + math.prod(shape) * dtype.itemsize
    if math.prod(shape) > max_voxels or size > LARGEST_BYTES:
        raise refusal("VOLUME_TOO_LARGE", path, f"claims {math.prod(shape)} voxels, {size} bytes")
    findings = _check_units(path, header)
    try:
        grid, geometry_findings, repairs = _placed(header.binaryblock, shape)
    except InputError as error:
        raise refusal(error.code, path, error.evidence) from None
    if is_gzip:
        raw = inflate(path, data, size)
    elif len(data) == size:
        raw = np.frombuffer(bytearray(data), np.uint8)
    else:
        raise refusal("DATA_SIZE", path, f"header claims {size} bytes, file holds {len(data)}")
    stored = np.frombuffer(raw, dtype, offset=offset).reshape(shape)
    # Readers expect aligned voxels in native byte order; both are free for common files.
    array = np.require(stored, dtype.newbyteorder("="), ["C", "A"])
    array = _scale(path, array, header)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise refusal("DATA_NOT_FINITE", path, f"{count} voxels")
    findings = (*findings, *geometry_findings)
    return NiftiFile(path, array, grid, sha256_bytes(data), findings, repairs)


def nifti_bytes(array: NDArray[Any], grid: Grid) -> bytes:
    """Return a NIfTI-1 file of a volume (z, y, x) on its grid, fresh header, not compressed."""
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape[::-1])
    header.set_sform(grid.affine, code=1)
    header.set_qform(grid.affine, code=1)
    header.set_xyzt_units("mm")
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    voxels = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return header.binaryblock + bytes(4) + voxels.tobytes()


def write_nifti(path: Path, array: NDArray[Any], grid: Grid) -> str:
    """Write a volume as ``.nii.gz``: equal voxels and grid give equal bytes on any machine.

    The header is fresh (qform = sform, code 1, mm), the gzip header carries neither time nor
    name. The file is read back strictly and compared voxel by voxel before it takes its name.

    Parameters
    ----------
    path
        File to write, ending in ``.nii.gz``.
    array
        Voxels (z, y, x): int16, uint8, uint16 or uint32.
    grid
        Where they lie.

    Returns
    -------
    SHA-256 of the file's bytes.

    Raises
    ------
    ValueError
        If dtype, shape or name do not fit.
    InputError, GeometryError
        AFFINE_NOT_FINITE or AFFINE_SINGULAR, or WRITE_NOT_KEPT: the file read back differs from
        what was to be written, as on a full disk or with a sheared grid.
    """
    if array.dtype.name not in WRITTEN_DTYPES:
        raise ValueError(f"{path}: dtype {array.dtype} is not one of {', '.join(WRITTEN_DTYPES)}")
    if array.shape != grid.shape:
        raise ValueError(f"{path}: array {array.shape} is not on its grid {grid.shape}")
    if not path.name.endswith(".nii.gz"):
        raise ValueError(f"{path}: the name of a written volume ends in .nii.gz")
    check_affine(path, grid.affine)
    content = nifti_bytes(array, grid)
    # Higher levels gain 2 % on a CT and a third on a mask. libdeflate, unlike faster engines,
    # gives the same bytes on every processor.
    data = imagecodecs.gzip_encode(content, 1 if array.dtype == np.int16 else 9)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
        again = read_nifti(temporary, max_voxels=array.size)
        distance_mm = again.grid.corner_distance_mm(grid)
        if not np.array_equal(again.array, array) or again.array.dtype != array.dtype:
            raise refusal("WRITE_NOT_KEPT", path, "voxels differ")
        # The header holds 32-bit floats, good for 1e-4 mm at a metre from the origin.
        if distance_mm > 1e-3 * min(grid.spacing_mm):
            raise refusal("WRITE_NOT_KEPT", path, f"grid moved by {distance_mm:.3g} mm")
    return again.sha256


def _parse_header(path: Path, block: bytes) -> Header:
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    if 348 in sizes and len(block) >= 348:
        header: Header = nib.Nifti1Header(block[:348], check=False)
        single, paired = b"n+1", b"ni1"
    elif 540 in sizes and len(block) >= 540:
        header = nib.Nifti2Header(block[:540], check=False)
        single, paired = b"n+2", b"ni2"
    else:
        raise refusal("NOT_NIFTI", path, f"starts with {block[:16].hex(' ')}")
    magic = bytes(header["magic"])[:3]
    if magic == paired:
        raise refusal("PAIRED_HEADER", path)
    if magic != single:
        raise refusal("NOT_NIFTI", path, f"magic is {magic!r}")
    return header


@lru_cache(maxsize=16)
def _placed(
    block: bytes, shape: tuple[int, int, int]
) -> tuple[Grid, tuple[Finding, ...], tuple[Repair, ...]]:
    """Return what `header_grid` does; the masks of a scan have the same few headers."""
    path = Path("header")
    return header_grid(path, _parse_header(path, block), shape)


def _claims(path: Path, header: Header) -> tuple[tuple[int, int, int], np.dtype[Any], int]:
    """Return (z, y, x) shape, stored dtype and first byte of the voxels, checked."""
    dimensions = [int(n) for n in header["dim"]]
    count = dimensions[0]
    shown = f"dim {dimensions}"
    if not 1 <= count <= 7:
        raise refusal("HEADER_DAMAGED", path, shown)
    if min(dimensions[1 : count + 1]) < 1:
        raise refusal("DIMENSION_INVALID", path, shown)
    code = int(header["datatype"])
    if code in (128, 2304):
        raise refusal("DTYPE_RGB", path, f"datatype {code}")
    if code in (32, 1792, 2048):
        raise refusal("DTYPE_COMPLEX", path, f"datatype {code}")
    if count < 3:
        raise refusal("NOT_3D", path, shown)
    if max(dimensions[4 : count + 1], default=1) > 1:
        raise refusal("TIME_SERIES", path, shown)
    try:
        dtype = header.get_data_dtype()
    except (KeyError, nib.spatialimages.HeaderDataError) as error:
        raise refusal("DTYPE_UNKNOWN", path, f"datatype {code}") from error
    if dtype.kind not in _READ_KINDS or dtype.itemsize > 8:
        raise refusal("DTYPE_UNKNOWN", path, f"datatype {code}")
    if int(header["bitpix"]) != dtype.itemsize * 8:
        raise refusal("HEADER_DAMAGED", path, f"bitpix {header['bitpix']}, datatype {code}")
    offset = float(header["vox_offset"])
    if not (int(header["sizeof_hdr"]) + 4 <= offset <= _HEADER_BYTES and offset.is_integer()):
        raise refusal("HEADER_DAMAGED", path, f"vox_offset {offset}")
    return (dimensions[3], dimensions[2], dimensions[1]), dtype, int(offset)


def _check_units(path: Path, header: Header) -> tuple[Finding, ...]:
    unit = int(header["xyzt_units"]) & 7
    if unit not in (_MILLIMETRE, _UNKNOWN_UNIT):
        names = {1: "metre", 3: "micrometre"}
        raise refusal("UNITS_NOT_MM", path, names.get(unit, f"unit code {unit}"))
    return () if unit == _MILLIMETRE else (warning("UNITS_UNKNOWN"),)


def _scale(path: Path, stored: NDArray[Any], header: Header) -> NDArray[Any]:
    """Apply slope and intercept; a slope of 0 or NaN means none (NIfTI-1 standard)."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return stored
    intercept = 0.0 if math.isnan(intercept) else intercept
    if math.isinf(slope) or math.isinf(intercept):
        raise refusal("SCALING_INVALID", path, f"slope {slope}, intercept {intercept}")
    if slope == 1 and intercept == 0:
        return stored
    out = np.empty(stored.shape, np.float32)
    is_int16 = True
    for index, part in enumerate(stored):
        values = part.astype(np.float64) * slope + intercept
        out[index] = values
        is_int16 = is_int16 and bool(
            np.all((values == np.rint(values)) & (values >= -32768) & (values <= 32767))
        )
    return out.astype(np.int16) if is_int16 else out
