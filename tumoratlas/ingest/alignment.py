"""How the voxels of one scan lie on those of a copy: turns, flips, shifts, other spacing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.images.grid import Grid
from tumoratlas.images.resample import resample_image, resample_labels

if TYPE_CHECKING:
    from tumoratlas.ingest.fingerprint import Turn

Shape = tuple[int, int, int]

# An alignment needs this many matched places that agree, and this share of all; wrong matches
# scatter over as many shifts as a scan has voxels.
_LEAST_VOTES = 3
_LEAST_SHARE = 0.25
# Next to the best axis order and flips, any other gets at most this share of its votes.
_CLEAR_SHARE = 0.5
# So many matched places, evenly spread, choose the axis order and flips.
_VOTERS = 96

_SIGNED = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]


@dataclass(frozen=True)
class Alignment:
    """Map from the voxel indices of a scan a to those of a scan b.

    Attributes
    ----------
    rows
        3 x 4: canonical (z, y, x) index of a, and 1, to (z, y, x) index of b. Each index of b
        depends on one index of a: axis order, flips, scales and shifts, no rotation.

    Raises
    ------
    ValueError
        If the matrix is not of this kind.
    """

    rows: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        linear = np.array(self.rows, dtype=np.float64)
        used = linear[:, :3] != 0 if linear.shape == (3, 4) else np.zeros((3, 3))
        if not np.isfinite(linear).all() or (used.sum(0) != 1).any() or (used.sum(1) != 1).any():
            raise ValueError(f"not an axis order with scales and shifts: {self.rows}")

    @classmethod
    def identity(cls) -> Alignment:
        """Return the alignment of a scan with itself."""
        return cls.of((0, 1, 2), (1, 1, 1), (0, 0, 0))

    @classmethod
    def of(cls, axes: Sequence[int], scales: Sequence[float], shifts: Sequence[float]) -> Alignment:
        """Make index i of b = ``scales[i]`` x index ``axes[i]`` of a + ``shifts[i]``."""
        rows = []
        for axis, scale, shift in zip(axes, scales, shifts, strict=True):
            row = [0.0] * 4
            row[axis] = float(scale)
            row[3] = float(shift) + 0.0  # no negative zero
            rows.append(tuple(row))
        return cls(tuple(rows))

    @classmethod
    def from_turns(cls, a: Turn, shape_a: Shape, b: Turn, shape_b: Shape) -> Alignment:
        """Align two scans whose voxels are equal after their turns.

        Parameters
        ----------
        a, b
            Turns into the order of the content.
        shape_a, shape_b
            Shapes (z, y, x) before turning.
        """
        return _of_turn(a, shape_a).then(_of_turn(b, shape_b).inverse())

    @classmethod
    def from_json(cls, value: Sequence[Sequence[float]]) -> Alignment:
        """Rebuild an alignment from `to_json`."""
        return cls(tuple(tuple(float(v) for v in row) for row in value))

    def to_json(self) -> list[list[float]]:
        """Return the 3 x 4 matrix as nested lists, exact to the last bit."""
        return [list(row) for row in self.rows]

    @property
    def axes(self) -> tuple[int, int, int]:
        """For each axis of b, the axis of a that it follows."""
        return tuple(next(j for j in range(3) if row[j]) for row in self.rows)

    @property
    def scales(self) -> tuple[float, float, float]:
        """For each axis of b, its voxels per voxel of a; negative where flipped."""
        return tuple(row[axis] for row, axis in zip(self.rows, self.axes, strict=True))

    @property
    def shifts(self) -> tuple[float, float, float]:
        """Index of b at index (0, 0, 0) of a."""
        return tuple(row[3] for row in self.rows)

    @property
    def is_exact(self) -> bool:
        """Whether voxel centres fall on voxel centres, one to one."""
        return all(abs(s) == 1 for s in self.scales) and all(t == round(t) for t in self.shifts)

    @property
    def is_mirrored(self) -> bool:
        """Whether the map turns left into right: an odd number of flips and exchanged axes."""
        return float(np.linalg.det(np.array(self.rows)[:, :3])) < 0

    def inverse(self) -> Alignment:
        """Return the map from indices of b to indices of a."""
        axes, scales, shifts = [0] * 3, [0.0] * 3, [0.0] * 3
        for i, (axis, scale, shift) in enumerate(
            zip(self.axes, self.scales, self.shifts, strict=True)
        ):
            axes[axis], scales[axis], shifts[axis] = i, 1 / scale, -shift / scale
        return Alignment.of(axes, scales, shifts)

    def then(self, other: Alignment) -> Alignment:
        """Return this map followed by ``other`` (of b to c): from a to c."""
        mine = list(zip(self.axes, self.scales, self.shifts, strict=True))
        axes, scales, shifts = [], [], []
        for axis, scale, shift in zip(other.axes, other.scales, other.shifts, strict=True):
            axes.append(mine[axis][0])
            scales.append(scale * mine[axis][1])
            shifts.append(scale * mine[axis][2] + shift)
        return Alignment.of(axes, scales, shifts)

    def turned(self, array: NDArray[Any]) -> tuple[NDArray[Any], Alignment]:
        """Bring a's axes into b's order and direction (a view), and align the result with b.

        Returns
        -------
        The view, and an alignment with positive scales and the axes in order.
        """
        view = array.transpose(self.axes)
        shifts = [
            shift if scale > 0 else shift + scale * (n - 1)
            for scale, shift, n in zip(self.scales, self.shifts, view.shape, strict=True)
        ]
        steps = tuple(slice(None, None, 1 if scale > 0 else -1) for scale in self.scales)
        return view[steps], Alignment.of((0, 1, 2), [abs(s) for s in self.scales], shifts)

    def common(self, shape_a: Shape, shape_b: Shape) -> tuple[tuple[slice, ...], ...]:
        """Return the part that both scans cover, as slices of a turned a and of b.

        For an exact alignment only. The slices are empty where the scans lie apart.
        """
        view, straight = self.turned(np.broadcast_to(np.int8(0), shape_a))
        of_a, of_b = [], []
        for shift, n_a, n_b in zip(map(int, straight.shifts), view.shape, shape_b, strict=True):
            first, end = max(0, shift), min(n_b, n_a + shift)
            end = max(first, end)
            of_a.append(slice(first - shift, end - shift))
            of_b.append(slice(first, end))
        return tuple(of_a), tuple(of_b)

    def grids(self, shape_a: Sequence[int], shape_b: Sequence[int]) -> tuple[Grid, Grid]:
        """Return grids on which both scans lie as aligned; a has voxels of 1 mm.

        For an alignment from `turned` only: positive scales and the axes in order.
        """
        back = self.inverse()
        affine = np.diag([*back.scales[::-1], 1.0])
        affine[:3, 3] = back.shifts[::-1]
        return Grid.of(tuple(shape_a), np.eye(4)), Grid.of(tuple(shape_b), affine)

    def carry(self, array: NDArray[Any], shape: Shape) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Carry voxels of a onto b.

        An exact alignment moves voxels and changes none. Else labels become those of the
        largest linear weight (`resample_labels`) and HU are interpolated linearly.

        Parameters
        ----------
        array
            bool, uint8 or uint16 labels or int16 HU of a, (z, y, x).
        shape
            Shape of b (z, y, x).

        Returns
        -------
        The array on b, 0 where a has no voxels; and bool (z, y, x), True where it has.
        """
        if self.is_exact:
            out, inside = np.zeros(shape, array.dtype), np.zeros(shape, np.bool_)
            of_a, of_b = self.common(array.shape, shape)
            out[of_b] = self.turned(array)[0][of_a]
            inside[of_b] = True
            return out, inside
        view, straight = self.turned(array)
        grid, target = straight.grids(view.shape, shape)
        if array.dtype == np.int16:
            out = resample_image(np.ascontiguousarray(view), grid, target, outside_hu=0)
        else:
            labels = view.view(np.uint8) if array.dtype == np.bool_ else view
            out = resample_labels(labels, grid, target)
        return out.astype(array.dtype, copy=False), straight._inside(view.shape, shape)

    def _inside(self, shape_a: Shape, shape_b: Shape) -> NDArray[np.bool_]:
        lines = []
        for axis in range(3):
            # Along one axis at a time the rule of `resample_labels` is asked itself.
            line_a, line_b = ([1, 1, 1] for _ in range(2))
            line_a[axis], line_b[axis] = shape_a[axis], shape_b[axis]
            scales, shifts = [1.0] * 3, [0.0] * 3
            scales[axis], shifts[axis] = self.scales[axis], self.shifts[axis]
            grids = Alignment.of((0, 1, 2), scales, shifts).grids(line_a, line_b)
            lines.append(resample_labels(np.ones(line_a, np.uint8), *grids).ravel() > 0)
        z, y, x = lines
        return z[:, None, None] & y[:, None] & x


def fit_alignment(places_a: NDArray[np.integer], places_b: NDArray[np.integer]) -> Alignment | None:
    """Find the axis order, flips and whole shift on which matched voxels agree.

    Every signed axis order is tried; the most frequent shift wins. Wrong matches scatter over
    all shifts, so a quarter of right ones is enough.

    Parameters
    ----------
    places_a, places_b
        int (n, 3): (z, y, x) of each matched voxel in a and b.

    Returns
    -------
    The alignment, or None where fewer than 3 matches or a quarter agree, or where they fit
    another axis order nearly as well (places on one line).
    """
    count = len(places_a)
    if count < _LEAST_VOTES:
        return None
    a, b = np.asarray(places_a, np.int64), np.asarray(places_b, np.int64)
    some = np.unique(np.linspace(0, count - 1, min(count, _VOTERS)).astype(int))
    turned = np.stack([a[some][:, list(axes)] * signs for axes, signs in _SIGNED])
    votes = _longest_runs(np.sort(_packed(b[some] - turned), axis=1))
    best = int(votes.argmax())
    if np.delete(votes, best).max() > max(_CLEAR_SHARE * votes[best], 1):
        return None
    axes, signs = _SIGNED[best]
    shifts = b - a[:, list(axes)] * signs
    _, first, counts = np.unique(_packed(shifts), return_index=True, return_counts=True)
    agreed, shift = int(counts.max()), shifts[first[counts.argmax()]].tolist()
    if agreed < max(_LEAST_VOTES, _LEAST_SHARE * count):
        return None
    return Alignment.of(axes, signs, shift)


def _packed(shifts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return int (..., 3) shifts, each less than a million voxels, as one number each."""
    return (shifts[..., 0] << 42) + (shifts[..., 1] << 21) + shifts[..., 2]


def _longest_runs(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each row in ascending order, how often its most frequent value occurs."""
    places = np.arange(1, rows.shape[1])
    starts = np.where(rows[:, 1:] != rows[:, :-1], places, 0)
    run = places - np.maximum.accumulate(starts, axis=1) + 1
    return run.max(axis=1)


def _of_turn(turn: Turn, shape: Shape) -> Alignment:
    """Return the alignment of a volume with its turned array."""
    flips = [turn.flips[axis] for axis in turn.axes]
    shifts = [shape[axis] - 1 if flip else 0 for axis, flip in zip(turn.axes, flips, strict=True)]
    return Alignment.of(turn.axes, [-1 if flip else 1 for flip in flips], shifts)
