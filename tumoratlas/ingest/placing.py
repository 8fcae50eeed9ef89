"""Where the voxels of a NIfTI mask lie on its scan: by its header, its voxel order, or neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.errors import GeometryError, InputError
from tumoratlas.images.checks import Repair
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import NiftiFile
from tumoratlas.images.orientation import SPACING_TOLERANCE, STRAIGHTENED_VOXELS
from tumoratlas.ingest.fitting import (
    LEAST_EDGE,
    Fit,
    Masks,
    edge_margin,
    fit_masks,
    mean_edge,
    prefer,
)
from tumoratlas.ingest.readers import ScanVolume
from tumoratlas.ingest.repairs import set_spacing

SAME_GRID_VOXELS = 0.1
_FLIPS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
Placed = tuple[dict[str, NDArray[np.bool_]], tuple[Repair, ...]]


class HeaderContradictionError(Exception):
    """A header contradicts its scan's; other masks of the case may tell which is right."""


@dataclass(frozen=True)
class MaskPlacer:
    """Puts the label volumes of a scan onto its canonical grid.

    Attributes
    ----------
    volume
        The scan.
    listed
        Repairs that the source lists for the scan; a false spacing is that of its masks too.
    header
        What the source says of its masks' headers: ``own`` counts whole; ``array``: the voxels
        have the order of the scan's; ``orientation``: only the axis codes count.
    """

    volume: ScanVolume
    listed: Sequence[Mapping[str, Any]]
    header: str

    def place(
        self,
        file: NiftiFile,
        split: Callable[[NDArray[Any]], dict[str, NDArray[np.bool_]]],
        others: Masks | None,
    ) -> Placed:
        """Return a file's masks, bool (z, y, x) RAS+ on the scan, and what was put right.

        A header that places the mask elsewhere is not believed, nor are its voxels: with the
        same size and spacing, and other axis codes than the scan's, either the header turns
        the mask as it should and only its origin is wrong, or the voxels have the order of the
        scan's (a header copied from another file). The image decides, see
        `tumoratlas.ingest.fitting`; so it does where the header agrees with the place but not
        with the voxel order of the scan.

        Parameters
        ----------
        file
            The label volume.
        split
            Makes masks of its values.
        others
            Masks of the case that lie right; None: not known yet.

        Raises
        ------
        HeaderContradictionError
            The header contradicts the scan's and ``others`` is None.
        GeometryError
            LABEL_GRID, LABEL_AMBIGUOUS.
        """
        if self.header == "array":
            return self._by_array(file, split)
        if self.header == "orientation":
            return self._by_orientation(file, split)
        return self._by_own(file, split, others)

    def _by_array(
        self, file: NiftiFile, split: Callable[[NDArray[Any]], dict[str, NDArray[np.bool_]]]
    ) -> Placed:
        stored = self.volume.stored_grid
        if file.array.shape != stored.shape:
            raise _off_grid(file, f"shape {file.array.shape} against {stored.shape}")
        ordered, _ = to_canonical(file.array, stored)
        repairs = self._noted(file, f"voxel order of the scan, {stored.orientation}, as listed")
        return split(ordered), repairs

    def _by_orientation(
        self, file: NiftiFile, split: Callable[[NDArray[Any]], dict[str, NDArray[np.bool_]]]
    ) -> Placed:
        hu = self.volume.hu
        turned, _ = to_canonical(file.array, file.grid)
        if turned.shape != hu.shape:
            raise _off_grid(file, f"shape {turned.shape} against {hu.shape}, turned to RAS")
        masks = split(turned)
        own = mean_edge(masks, hu)
        shown = "too small to be tested"
        if own is not None:
            flipped = [{n: np.flip(m, axes) for n, m in masks.items()} for axes in _FLIPS]
            best = max(mean_edge(turn, hu) or 0 for turn in flipped)
            shown = f"edge {own:.2f}, at most {best:.2f} when flipped"
            if own < LEAST_EDGE or best >= own + edge_margin(masks):
                raise _ambiguous(file, shown)
        after = f"axis codes {file.grid.orientation} on the scan's grid, as listed ({shown})"
        return masks, self._noted(file, after)

    def _by_own(
        self,
        file: NiftiFile,
        split: Callable[[NDArray[Any]], dict[str, NDArray[np.bool_]]],
        others: Masks | None,
    ) -> Placed:
        stored, hu = self.volume.stored_grid, self.volume.hu
        grid, repairs = self._own_grid(file)
        turned, canonical = to_canonical(file.array, grid)
        is_there = self._is_on_scan(file, canonical)
        can_be_ordered = (
            file.array.shape == stored.shape
            and grid.orientation != stored.orientation
            and np.allclose(grid.spacing_mm, stored.spacing_mm, rtol=SPACING_TOLERANCE, atol=0)
        )
        if not can_be_ordered:
            if is_there:
                masks = split(turned)
                self._refuse_flipped(file, masks)
                return masks, repairs
            raise _off_grid(file, self._apart(canonical))
        if others is None and not is_there:
            raise HeaderContradictionError
        ordered, _ = to_canonical(file.array, stored)
        if np.array_equal(turned, ordered):
            repair = self._repair(file, canonical, "the same voxels in either order")
            return split(ordered), repairs if is_there else (*repairs, repair)
        known = others or {}
        by_order = fit_masks(split(ordered), hu, known)
        by_header = fit_masks(split(turned), hu, known) if turned.shape == hu.shape else None
        better = -1 if by_header is None else prefer(by_header, by_order)
        shown = f"in voxel order: {by_order}; by header: {by_header or 'another shape'}"
        if is_there:
            if better < 0 and _is_far_better(by_order, by_header):
                raise _ambiguous(file, shown)
            masks = split(turned)
            self._refuse_flipped(file, masks)
            return masks, repairs
        chosen = by_header if better > 0 else by_order
        fits = (chosen,) if better else (by_order, by_header)
        edges = [fit.edge for fit in fits if fit is not None and fit.edge is not None]
        if edges and max(edges) < LEAST_EDGE:
            raise _off_grid(file, f"{self._apart(canonical)}; {shown}")
        if better == 0 or (by_header is None and not edges):
            raise _ambiguous(file, shown)
        way = f"voxel order of the scan, {stored.orientation}"
        if better > 0:
            way = f"axis codes {grid.orientation} on the scan's grid"
        repair = self._repair(file, canonical, f"{way} ({shown})")
        return split(turned if better > 0 else ordered), (*repairs, repair)

    def _refuse_flipped(self, file: NiftiFile, masks: Masks) -> None:
        """Refuse masks without an edge in the image, which have one when they are flipped."""
        own = mean_edge(masks, self.volume.hu)
        if own is None or own >= LEAST_EDGE:
            return
        flipped = [{n: np.flip(m, axes) for n, m in masks.items()} for axes in _FLIPS]
        best = max(mean_edge(turn, self.volume.hu) or 0 for turn in flipped)
        if best >= own + 2 * edge_margin(masks):
            raise _ambiguous(file, f"edge {own:.2f}, {best:.2f} when flipped")

    def _own_grid(self, file: NiftiFile) -> tuple[Grid, tuple[Repair, ...]]:
        grid, repairs = file.grid, file.repairs
        for repair in self.listed:
            if repair["name"] == "spacing":
                grid, done = set_spacing(grid, repair["spacing_mm"], file.path)
                repairs = (*repairs, *done)
        return grid, repairs

    def _is_on_scan(self, file: NiftiFile, canonical: Grid) -> bool:
        grid = self.volume.grid
        straightened = [
            r for r in (*self.volume.repairs, *file.repairs) if r.name == "straightened"
        ]
        limit = STRAIGHTENED_VOXELS if straightened else SAME_GRID_VOXELS
        return canonical.corner_distance_mm(grid) <= limit * min(grid.spacing_mm)

    def _apart(self, canonical: Grid) -> str:
        grid = self.volume.grid
        distance_mm = canonical.corner_distance_mm(grid)
        return (
            f"shape {canonical.shape} against {grid.shape}, corners apart by {distance_mm:.2f} mm"
        )

    def _repair(self, file: NiftiFile, canonical: Grid, after: str) -> Repair:
        return Repair("mask_header", f"{file.grid.orientation}, {self._apart(canonical)}", after)

    def _noted(self, file: NiftiFile, after: str) -> tuple[Repair, ...]:
        """Return the repair of a listed way of placing, where the header says otherwise."""
        _, canonical = to_canonical(file.array, file.grid)
        if self._is_on_scan(file, canonical) and (
            file.grid.orientation == self.volume.stored_orientation or self.header != "array"
        ):
            return file.repairs
        return (*file.repairs, self._repair(file, canonical, after))


def _is_far_better(other: Fit, own: Fit) -> bool:
    """Return whether the image denies a header that agrees with the scan's."""
    return other.edge is not None and own.edge is not None and own.edge < other.edge / 3


def _off_grid(file: NiftiFile, evidence: str) -> InputError:
    return GeometryError(
        "LABEL_GRID",
        file.path,
        "the mask does not lie on its scan's grid",
        evidence=evidence,
        remedy="Export the mask again on the grid of its scan",
    )


def _ambiguous(file: NiftiFile, evidence: str) -> InputError:
    return GeometryError(
        "LABEL_AMBIGUOUS",
        file.path,
        "header and voxels of the mask contradict each other, and the scan does not tell",
        evidence=evidence,
        remedy="Look at mask and scan, and write the mask's header anew",
    )
