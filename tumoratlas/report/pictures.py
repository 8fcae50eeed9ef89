"""Pictures of tumors: one axial slice as a radiologist sees it, with outlines."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation

from tumoratlas.images.grid import Grid

# The window that abdominal readers use: level 40, width 400 HU.
LOW_HU, HIGH_HU = -160, 240
SIDE_PX = 192
# Of the shown square, at least; a larger tumor fills this share of it.
_FIELD_MM, _SHARE = 90.0, 0.6
_OWN, _OTHER = (255, 214, 64), (92, 200, 255)


def tumor_picture(
    ct: NDArray[np.int16],
    instances: NDArray[np.uint16],
    number: int,
    bbox: tuple[int, ...],
    grid: Grid,
) -> bytes:
    """Return a PNG of the axial slice in which a tumor is largest, its outline in yellow.

    The patient's right is on the left, anterior is up, millimetres are square. Other instances
    of the same organ are outlined in blue.

    Parameters
    ----------
    ct
        int16 HU (z, y, x), RAS+.
    instances
        Instance map on the same grid, uint16 (z, y, x).
    number
        The tumor's label.
    bbox
        Its half-open box ``z0, y0, x0, z1, y1, x1``.
    grid
        Grid of both.
    """
    low, high = np.array(bbox[:3]), np.array(bbox[3:])
    inside = instances[tuple(map(slice, low, high))] == number
    z = int(low[0] + np.argmax(inside.sum(axis=(1, 2))))
    step_mm = np.array(grid.spacing_mm[1::-1])  # rows (y), columns (x)
    size_mm = float(((high - low)[1:] * step_mm).max())
    field_mm = max(_FIELD_MM, size_mm / _SHARE)
    center_mm = (low + high)[1:] / 2 * step_mm
    offsets_mm = (np.arange(SIDE_PX) + 0.5) / SIDE_PX * field_mm - field_mm / 2
    # RAS+: rows run to anterior, columns to the right; both are turned for the reader.
    rows, columns = (
        np.floor((center_mm[axis] - offsets_mm) / step_mm[axis]).astype(int) for axis in (0, 1)
    )
    seen = _plane(ct[z], rows, columns, np.iinfo(np.int16).min)
    labels = _plane(instances[z], rows, columns, 0)
    gray = np.clip((seen.astype(float) - LOW_HU) / (HIGH_HU - LOW_HU), 0, 1) * 255
    picture = np.repeat(np.round(gray).astype(np.uint8)[:, :, None], 3, axis=2)
    for mask, color in (((labels > 0) & (labels != number), _OTHER), (labels == number, _OWN)):
        # Outside, so that nothing of a tumor of few pixels is hidden.
        picture[binary_dilation(mask) & ~mask] = color
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _plane(
    values: NDArray[np.generic], rows: NDArray[np.int_], columns: NDArray[np.int_], outside: int
) -> NDArray[np.generic]:
    """Return the nearest values at rows and columns, ``outside`` beyond the plane."""
    is_row = (rows >= 0) & (rows < values.shape[0])
    is_column = (columns >= 0) & (columns < values.shape[1])
    shown = np.full((len(rows), len(columns)), outside, values.dtype)
    shown[np.ix_(is_row, is_column)] = values[np.ix_(rows[is_row], columns[is_column])]
    return shown
