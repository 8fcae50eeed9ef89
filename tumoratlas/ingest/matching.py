"""Pairs of scans that may be copies, found through an index and never by all comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.sparse import coo_array, csr_array, triu
from scipy.spatial import cKDTree

from tumoratlas.ingest.alignment import Alignment, fit_alignment

if TYPE_CHECKING:
    from tumoratlas.ingest.fingerprint import Fingerprint

# A hash in more scans than this is no noise but something that all scans of some source hold.
# A scan has about ten copies at most; the bound also limits the pairs per hash.
_MOST_SCANS = 50
_LEAST_ANCHORS = 3
_LEAST_SLICES = 2
# Thumbnails: frequencies up to this sum over the three axes.
_FREQUENCIES = 5
# Measured on real scans: resampled copies lie within 0.04 (10 mm slices 0.11) and correlate by 0.98
# or more; different patients lie 0.42 apart or more and correlate by 0.74 or less.
_RADIUS = 0.15
_NEIGHBORS = 16
_LEAST_CORRELATION = 0.96
# Pictures of one field of view, whose box is exact, agree better still.
_LEAST_OVERVIEW_CORRELATION = 0.98
_FLIPS = [
    tuple(slice(None, None, -1 if code >> axis & 1 else 1) for axis in range(3))
    for code in range(8)
]

_Pair = tuple[int, int]


def match_scans(
    fingerprints: Mapping[str, Fingerprint], voxel_sha256: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Find all pairs of scans that may be copies of one another.

    Parameters
    ----------
    fingerprints, voxel_sha256
        By scan id.

    Returns
    -------
    Candidates sorted by scan ids, each pair once, for
    `tumoratlas.ingest.confirming.confirm_pair`: ``pair_id``; ``a`` < ``b``; ``found_by``, of
    ``voxels`` (equal hash), ``anchors``, ``slices``, ``thumbnail``, ``overview``; ``shared``,
    the number of anchors, or else slices, in common; ``slices``, how many slices are equal;
    ``alignment`` (JSON): exact from voxels and anchors, along z from slices, from box to box
    from pictures, None where slices are equal and no alignment was found.
    """
    names = sorted(fingerprints)
    prints = [fingerprints[name] for name in names]
    found: dict[_Pair, dict[str, Any]] = {}
    slices: dict[_Pair, int] = {}

    def add(pair: _Pair, way: str, shared: int, alignment: Alignment | None) -> None:
        row = found.setdefault(pair, {"found_by": [], "shared": shared, "alignment": None})
        row["found_by"].append(way)
        row["alignment"] = row["alignment"] or alignment

    for a, b in _equal([voxel_sha256[name] for name in names]):
        turns = prints[a].turn, prints[a].shape, prints[b].turn, prints[b].shape
        add((a, b), "voxels", len(prints[a].anchors), Alignment.from_turns(*turns))
    for pair, shared in _sharing([p.anchors for p in prints], _LEAST_ANCHORS):
        alignment = _from_anchors(*(prints[i] for i in pair))
        if alignment is not None:
            add(pair, "anchors", shared, alignment)
    for pair, shared in _sharing([_telling(p.slices) for p in prints], _LEAST_SLICES):
        slices[pair] = shared
        if pair in found:
            found[pair]["found_by"].append("slices")
            continue
        # Equal slices say enough without one: transposed, say, and some of them missing.
        add(pair, "slices", shared, _from_slices(*(prints[i] for i in pair)))
    fits: dict[_Pair, float] = {}
    for way, pictures, least in (
        ("thumbnail", _bodies(prints), _LEAST_CORRELATION),
        ("overview", _fields(prints), _LEAST_OVERVIEW_CORRELATION),
    ):
        for pair in _alike([picture.cells for picture in pictures]):
            fit = _from_boxes(*(pictures[i] for i in pair))
            if fit is None or fit[1] < least:
                continue
            alignment, correlation = fit
            add(pair, way, 0, alignment)
            # Of the two alignments the one whose pictures agree better.
            if pair in fits and correlation > fits[pair]:
                found[pair]["alignment"] = alignment
            if pair in fits or found[pair]["found_by"] == [way]:
                fits[pair] = max(correlation, fits.get(pair, correlation))
    return [
        {
            "pair_id": f"{names[a]}__{names[b]}",
            "a": names[a],
            "b": names[b],
            "found_by": row["found_by"],
            "shared": row["shared"],
            "slices": slices.get((a, b), 0),
            "alignment": row["alignment"] and row["alignment"].to_json(),
        }
        for (a, b), row in sorted(found.items())
    ]


def _equal(contents: Sequence[str]) -> Iterable[_Pair]:
    """Yield each scan with the first one of equal content."""
    first: dict[str, int] = {}
    for scan, content in enumerate(contents):
        if first.setdefault(content, scan) != scan:
            yield first[content], scan


def _sharing(hashes: Sequence[NDArray[np.uint64]], least: int) -> Iterable[tuple[_Pair, int]]:
    """Yield, in order, the pairs of scans with ``least`` hashes in common, and how many.

    Parameters
    ----------
    hashes
        Of each scan, each hash once.
    least
        Smallest number of common hashes.
    """
    values = np.concatenate([*hashes, np.empty(0, np.uint64)])
    scans = np.repeat(np.arange(len(hashes), dtype=np.int32), [len(part) for part in hashes])
    order = np.argsort(values, kind="stable")
    values, scans = values[order], scans[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if len(values) else order
    counts = np.diff(np.r_[starts, len(values)])
    kept = np.repeat((counts > 1) & (counts <= _MOST_SCANS), counts)
    columns = np.repeat(np.arange(len(counts)), counts)[kept]
    if not len(columns):
        return []
    _, columns = np.unique(columns, return_inverse=True)
    # Scans by hashes; its product with itself counts what each pair has in common.
    ones = np.ones(len(columns), np.int32)
    incidence = csr_array(coo_array((ones, (scans[kept], columns))))
    incidence.resize(len(hashes), incidence.shape[1])
    common = coo_array(triu(incidence @ incidence.T, k=1))
    chosen = np.flatnonzero(common.data >= least)
    rows, others = common.coords[0][chosen], common.coords[1][chosen]
    chosen = chosen[np.lexsort((others, rows))]
    pairs = zip(
        common.coords[0][chosen].tolist(),
        common.coords[1][chosen].tolist(),
        common.data[chosen].tolist(),
        strict=True,
    )
    return [((a, b), shared) for a, b, shared in pairs]


def _telling(slices: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the hashes of slices that are not blank and occur once."""
    values, counts = np.unique(slices, return_counts=True)
    return values[(counts == 1) & (values != 0)]


def _from_anchors(a: Fingerprint, b: Fingerprint) -> Alignment | None:
    _, in_a, in_b = np.intersect1d(a.anchors, b.anchors, assume_unique=True, return_indices=True)
    return fit_alignment(a.places[in_a], b.places[in_b])


def _from_slices(a: Fingerprint, b: Fingerprint) -> Alignment | None:
    """Align along z by the equal slices, which may be every other one; in-plane by thumbnails.

    Slices alone leave open how they are flipped. None where they have other sides.
    """
    if a.shape[1:] != b.shape[1:]:
        return None
    common = np.intersect1d(_telling(a.slices), _telling(b.slices), assume_unique=True)
    z_a, z_b = (
        np.argsort(scan.slices)[np.searchsorted(np.sort(scan.slices), common)] for scan in (a, b)
    )
    order = np.argsort(z_a)
    z_a, z_b = z_a[order], z_b[order]
    scale = float(np.median(np.diff(z_b) / np.diff(z_a)))
    if scale == 0:
        return None
    shift = float(np.median(z_b - scale * z_a))
    flip = _best_flip(a.thumbnail.astype(np.float64), b.thumbnail.astype(np.float64))[0]
    signs = [-1 if step.step == -1 else 1 for step in flip]
    shifts = [n - 1 if sign < 0 else 0 for n, sign in zip(a.shape, signs, strict=True)]
    return Alignment.of((0, 1, 2), (scale, *signs[1:]), (shift, *shifts[1:]))


@dataclass(frozen=True)
class _Picture:
    """A small picture of a part of a scan: ``cells`` (16, 16, 16) of ``box`` (3, 2)."""

    cells: NDArray[np.float64]
    box: NDArray[np.float64]


def _bodies(prints: Sequence[Fingerprint]) -> list[_Picture]:
    """Return the pictures of the bodies, alike in copies cut to the body."""
    return [_Picture(p.thumbnail.astype(np.float64), p.box.astype(np.float64)) for p in prints]


def _fields(prints: Sequence[Fingerprint]) -> list[_Picture]:
    """Return the pictures of the fields of view, alike in copies that kept the field."""
    boxes = [np.stack([np.zeros(3), np.array(p.shape, np.float64)], axis=1) for p in prints]
    return [
        _Picture(p.overview.astype(np.float64), box) for p, box in zip(prints, boxes, strict=True)
    ]


def _alike(pictures: Sequence[NDArray[np.float64]]) -> list[_Pair]:
    """Return the pairs of scans whose pictures are alike in whatever flip, in order.

    A flip along an axis only changes signs of cosine coefficients, so their sizes are one
    point for all flips; pairs are neighbors of such points.
    """
    if len(pictures) < 2:
        return []
    points = np.stack([_descriptor(picture) for picture in pictures])
    tree = cKDTree(points)
    count = min(_NEIGHBORS + 1, len(pictures))
    distances, others = tree.query(points, count, distance_upper_bound=_RADIUS)
    scans = np.repeat(np.arange(len(pictures)), count)
    near = np.isfinite(distances.ravel()) & (others.ravel() != scans)
    pairs = np.sort(np.stack([scans[near], others.ravel()[near]], axis=1), axis=1)
    return [(a, b) for a, b in np.unique(pairs, axis=0).tolist()]


def _descriptor(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sizes of the low cosine coefficients of a picture, of length one."""
    sizes = np.abs(dctn(picture, norm="ortho"))
    low = sum(np.ogrid[tuple(slice(n) for n in sizes.shape)]) <= _FREQUENCIES
    # Rounded, so that the last bits of a transform cannot decide which scans are near.
    return np.round(sizes[low] / max(1e-6, float(np.linalg.norm(sizes[low]))), 6)


def _best_flip(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[tuple[slice, ...], float]:
    """Return the flip of the first picture that correlates most, and the correlation."""
    first, second = first - first.mean(), second - second.mean()
    spread = float(np.sqrt((first**2).sum() * (second**2).sum())) or 1.0
    values = [float((first[flip] * second).sum()) / spread for flip in _FLIPS]
    best = int(np.argmax(values))
    return _FLIPS[best], values[best]


def _from_boxes(a: _Picture, b: _Picture) -> tuple[Alignment, float] | None:
    """Align box with box in the flip of the pictures, and correlate; None for an empty box."""
    flip, correlation = _best_flip(a.cells, b.cells)
    scales, shifts = [], []
    boxes = zip(a.box, b.box, flip, strict=True)
    for (low_a, high_a), (low_b, high_b), step in boxes:
        if high_a <= low_a or high_b <= low_b:
            return None
        if step.step == -1:
            low_a, high_a = high_a, low_a
        scale = (high_b - low_b) / (high_a - low_a)
        scales.append(scale)
        # Boxes are measured from the outer face of the first voxel, indices from its center.
        shifts.append(low_b - scale * (low_a - 0.5) - 0.5)
    return Alignment.of((0, 1, 2), scales, shifts), correlation
