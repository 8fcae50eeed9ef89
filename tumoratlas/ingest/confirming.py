"""Whether two scans that may be copies are copies, from their voxels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.ingest.alignment import Alignment, Shape
from tumoratlas.ingest.registration import noise_correlation, refine_alignment

if TYPE_CHECKING:
    from tumoratlas.ingest.fingerprint import Fingerprint

# Ways of `match_scans` that need no equal voxel.
_PICTURES = {"thumbnail", "overview"}
# Of the voxels that say something. Exact copies reach 1, unrelated scans 0.004, one anatomy under
# two draws of noise of 4 HU 0.08.
COPY_SHARE = 0.9
PARTLY_SHARE = 0.2
# Measured on three real scans: copies at 1 to 3 mm reach 0.97, at 3 mm with smoothing 0.70. One
# smoothed anatomy under two draws of noise reaches 0.33 at 8 HU and 0.62 at 4 HU: scans of so
# little noise and the very same position are not told apart. No two real phases were at hand.
COPY_CORRELATION = 0.6
_AIR_HU = -1000
_LEAST_VOXELS = 1000
_SAMPLE = 1_000_000
_CHUNK_VOXELS = 1 << 22
# A refined alignment this close to whole voxels, anywhere in the scan, is taken as exact.
_NEAR_VOXELS = 0.2


def same_from_turns(a: str, print_a: Fingerprint, b: str, print_b: Fingerprint) -> dict[str, Any]:
    """Return the confirmed relation of two scans of equal voxel hash, without their voxels.

    Parameters
    ----------
    a, b
        Scan ids.
    print_a, print_b
        Their fingerprints.
    """
    if a > b:
        return same_from_turns(b, print_b, a, print_a)
    alignment = Alignment.from_turns(print_a.turn, print_a.shape, print_b.turn, print_b.shape)
    return {
        "pair_id": f"{a}__{b}",
        "a": a,
        "b": b,
        "relation": "same",
        "outer": None,
        "found_by": ["voxels"],
        "shared": len(print_a.anchors),
        "alignment": alignment.to_json(),
        "offset_hu": 0.0,
        "equal_share": 1.0,
        "correlation": None,
        "evidence": "equal voxel hashes",
    }


def confirm_pair(
    hu_a: NDArray[np.int16], hu_b: NDArray[np.int16], pair: Mapping[str, Any]
) -> dict[str, Any]:
    """Name the relation of two scans from their voxels at the alignment that was found.

    ``same``: equal voxels over one field of view, up to flips, clipping, padding, slices that
    occur twice, and a constant added to all values. ``crop``: one has voxels of its own around
    the common ones. ``overlap``: both have, or only part of the common voxels is equal: one
    patient, but no copy; so are scans with many equal slices at no common shift, as where slices
    are missing. ``resample``: the noise of both correlates although their grids
    differ. ``none``: anything else, such as another phase of the same patient.

    Parameters
    ----------
    hu_a, hu_b
        int16 HU (z, y, x) in canonical axes.
    pair
        A candidate of `tumoratlas.ingest.matching.match_scans`.

    Returns
    -------
    ``pair_id, a, b, found_by, shared`` of the candidate; ``relation``; ``outer``, the scan that
    holds the other (crop) or None; ``alignment``; ``offset_hu``, what b's values have more;
    ``equal_share`` of the voxels above air and within both ranges (None if resampled);
    ``correlation`` of the noise (None unless resampled); ``evidence``.
    """
    row = _compare(hu_a, hu_b, pair)
    slices, least = pair.get("slices", 0), PARTLY_SHARE * min(len(hu_a), len(hu_b))
    if row["relation"] == "none" and slices >= least:
        told = f"{slices} slices are equal; {row['evidence']}"
        row |= {"relation": "overlap", "evidence": told}
    return row


def _compare(
    hu_a: NDArray[np.int16], hu_b: NDArray[np.int16], pair: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare two scans at the alignment that was found; see `confirm_pair`."""
    row = {key: pair[key] for key in ("pair_id", "a", "b", "found_by", "shared")}
    row |= {"relation": "none", "outer": None, "alignment": pair["alignment"]}
    row |= {"offset_hu": None, "equal_share": None, "correlation": None}
    if pair["alignment"] is None:
        return row | {"evidence": "no alignment fits"}
    alignment = Alignment.from_json(pair["alignment"])
    if alignment.is_exact:
        found = _compare_voxels(hu_a, hu_b, alignment, pair)
        # Pictures may suggest whole shifts too; other values there, as after smoothing or lossy
        # compression, are still no proof against a copy.
        if found["relation"] != "none" or not _PICTURES.issuperset(pair["found_by"]):
            return row | found
    alignment = refine_alignment(hu_a, hu_b, alignment)
    if alignment is None:
        return row | {"evidence": "no alignment fits"}
    exact = _nearest_exact(alignment, hu_a.shape)
    if exact is not None:
        found = _compare_voxels(hu_a, hu_b, exact, pair)
        if found["relation"] != "none":
            return row | found
    correlation, offset = noise_correlation(hu_a, hu_b, alignment)
    row |= {"correlation": correlation, "offset_hu": offset, "alignment": alignment.to_json()}
    is_copy = correlation >= COPY_CORRELATION
    row["relation"] = "resample" if is_copy else "none"
    scales = " x ".join(f"{abs(scale):.4g}" for scale in alignment.scales)
    return row | {
        "evidence": f"noise correlates by {correlation:.3f} (copies: {COPY_CORRELATION} or more) "
        f"at {scales} voxels of b per voxel of a (z, y, x)"
    }


def _nearest_exact(alignment: Alignment, shape_a: Shape) -> Alignment | None:
    """Return the exact alignment that lies within a fifth of a voxel everywhere, or None."""
    signs = [1 if scale > 0 else -1 for scale in alignment.scales]
    shifts = []
    for axis, scale, sign, shift in zip(
        alignment.axes, alignment.scales, signs, alignment.shifts, strict=True
    ):
        last = shape_a[axis] - 1
        ends = shift, shift + (scale - sign) * last
        whole = round(sum(ends) / 2)
        if max(abs(end - whole) for end in ends) > _NEAR_VOXELS:
            return None
        shifts.append(whole)
    return Alignment.of(alignment.axes, signs, shifts)


def _compare_voxels(
    hu_a: NDArray[np.int16],
    hu_b: NDArray[np.int16],
    alignment: Alignment,
    pair: Mapping[str, Any],
) -> dict[str, Any]:
    """Compare voxel by voxel at an exact alignment."""
    view = alignment.turned(hu_a)[0]
    of_a, of_b = alignment.common(hu_a.shape, hu_b.shape)
    first, second = view[of_a], hu_b[of_b]
    if not first.size:
        return {"relation": "none", "evidence": "no voxel in common"}
    offset = _offset(first, second)
    # Air is padded and clipped in many ways; with a constant added it lies that much higher.
    air = _AIR_HU + max(offset, 0)
    low = max(int(first.min()) + offset, int(second.min()), air)
    high = min(int(first.max()) + offset, int(second.max()))
    known = equal = outside = 0
    for part in _chunks(first.shape):
        here, there = first[part].astype(np.int32) + offset, second[part].astype(np.int32)
        says = (here > low) & (there > low) & ((here < high) | (there < high))
        known += int(np.count_nonzero(says))
        equal += int(np.count_nonzero(says & (np.minimum(here, high) == np.minimum(there, high))))
        outside += int(np.count_nonzero((here > low) != (there > low)))
    if known < _LEAST_VOXELS:
        return {"relation": "none", "evidence": f"only {known} voxels to compare"}
    share = equal / known
    own_a = _has_own(view, of_a, air - offset)
    own_b = _has_own(hu_b, of_b, air)
    relation, outer = "none", None
    if share >= COPY_SHARE:
        relation = {(0, 0): "same", (1, 1): "overlap"}.get((own_a, own_b), "crop")
        outer = (pair["a"] if own_a else pair["b"]) if relation == "crop" else None
    elif share >= PARTLY_SHARE:
        relation = "overlap"
    text = f"{100 * share:.4g} % of {known} voxels in ({low}, {high}] HU are equal"
    if offset:
        text += f", b has {offset:+d} HU"
    if outside:
        text += f", {outside} are tissue in one and air in the other"
    return {
        "relation": relation,
        "outer": outer,
        "alignment": alignment.to_json(),
        "offset_hu": float(offset),
        "equal_share": share,
        "evidence": text,
    }


def _offset(first: NDArray[np.int16], second: NDArray[np.int16]) -> int:
    """Return the median difference of a sample, without voxels at the ends of either's range."""
    step = max(1, round((first.size / _SAMPLE) ** (1 / 3)))
    thin = (slice(None, None, step),) * 3
    a, b = (part[thin].astype(np.int32).ravel() for part in (first, second))
    inner = (a > a.min()) & (a < a.max()) & (b > b.min()) & (b < b.max())
    return int(np.median((b - a)[inner])) if inner.any() else 0


def _has_own(hu: NDArray[np.int16], common: tuple[slice, ...], air: int) -> int:
    """Return 1 where a scan has content outside of the common part, else 0.

    Padding is none, nor is a plane that occurs among the common ones too (appended slices).
    Judged on every seventh voxel of a plane.
    """
    for axis, span in enumerate(common):
        planes = np.moveaxis(hu, axis, 0)[:, ::7, ::7]
        outer = [*range(span.start), *range(span.stop, len(planes))]
        if not outer:
            continue
        inner = {plane.tobytes() for plane in planes[span]}
        for place in outer:
            plane = planes[place]
            low, high = plane.min(), plane.max()
            if low < high and high > air and plane.tobytes() not in inner:
                return 1
    return 0


def _chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut the first axis into pieces of about four million voxels."""
    step = max(1, _CHUNK_VOXELS // max(1, shape[1] * shape[2]))
    return (slice(start, start + step) for start in range(0, shape[0], step))
