"""NIfTI files with the truths and the lies of real headers."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tumoratlas.images.grid import Grid, to_canonical

_FORM_CODES = slice(252, 256)  # qform_code and sform_code in a NIfTI-1 header
_COMMENT = 6  # code of a header extension that holds text


def nifti_bytes(
    array: NDArray[np.generic],
    grid: Grid,
    orientation: str = "RAS",
    *,
    affine: NDArray[np.float64] | None = None,
    codes: tuple[int, int] = (1, 1),
    texts: Mapping[str, str] | None = None,
    extension: str = "",
) -> bytes:
    """Return a NIfTI-1 file.

    Parameters
    ----------
    array
        RAS (z, y, x).
    grid
        Its grid.
    orientation
        Axis codes of the stored (x, y, z).
    affine
        What the header says instead of the truth.
    codes
        qform and sform codes.
    texts
        Texts of header fields, by name (``descrip``).
    extension
        Text of a header extension, or empty.
    """
    stored, placed = to_canonical(array, grid, toward=orientation)
    affine = placed.affine if affine is None else affine
    image = nib.Nifti1Image(stored.transpose(2, 1, 0), affine)
    image.set_qform(affine, code=codes[0])
    image.set_sform(affine, code=codes[1])
    image.header.set_xyzt_units("mm")
    for name, text in (texts or {}).items():
        image.header[name] = text.encode()
    if extension:
        content = nib.nifti1.Nifti1Extension(_COMMENT, extension.encode())
        image.header.extensions.append(content)
    data = bytearray(image.to_bytes())
    if codes == (0, 0):  # the library cannot write what converters do
        data[_FORM_CODES] = bytes(4)
    return bytes(data)


def stored_affine(grid: Grid, orientation: str) -> NDArray[np.float64]:
    """Return the affine of a grid's voxels stored in an orientation."""
    _, placed = to_canonical(np.empty(grid.shape, np.uint8), grid, toward=orientation)
    return placed.affine


def save(path: Path, data: bytes, *, gzip_name: str = "") -> None:
    """Write bytes, compressed where the name ends so; without time in the stream.

    Parameters
    ----------
    gzip_name
        File name that the gzip header tells.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if gzip_name:
        buffer = BytesIO()
        with gzip.GzipFile(gzip_name, "wb", 4, buffer, mtime=0) as file:
            file.write(data)
        data = buffer.getvalue()
    elif path.suffix == ".gz":
        data = gzip.compress(data, 4, mtime=0)
    path.write_bytes(data)


def layers(*masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a label map: the first mask is 1, later ones overwrite."""
    labels = np.zeros(masks[0].shape, dtype=np.uint8)
    for value, mask in enumerate(masks, 1):
        labels[mask] = value
    return labels
