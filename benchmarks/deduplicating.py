"""Finding copies among the fingerprints of a whole pool, made on the spot with known relations.

Fingerprints are drawn, not measured: anchors are random hashes at random places of a body, of
which a copy keeps those inside it less the ones that noise cost it; thumbnails are a mean body
with smooth variation, about as alike as those of four real scans (correlation 0.5 to 0.75). What
resampling changes in a thumbnail was measured on real scans: descriptors move by 0.01 to 0.04.
The pool has the sources' overlaps: most scans have no copy, clusters have up to seven.
"""

import resource
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tumoratlas.ingest.alignment import Alignment
from tumoratlas.ingest.dedupe import Groups
from tumoratlas.ingest.fingerprint import Fingerprint, Turn
from tumoratlas.ingest.matching import match_scans

_STRAIGHT = Turn((0, 1, 2), (False, False, False))
_SIDE = 16
_VOXELS_PER_ANCHOR = 190_000
_LEAST_ANCHORS = 256
# Candidates of which a scan's anchors are the smallest; a small crop takes more of them.
_POOL = 6
# Copies of one scan by name of cluster: share of the pool's base scans, and what its copies are.
_CLUSTERS = {
    # LiTS = MSD = CT-ORG = AbdomenCT-1K = FLARE, parent crop, 3D-IRCADb without its spacing.
    "liver": (0.02, ("same", "same", "offset", "same", "crop", "spacing")),
    # KiTS = AbdomenCT-1K (flipped) = FLARE, parent crop.
    "kidney": (0.05, ("flip", "same", "crop")),
    # MSD = AbdomenCT-1K = PANORAMA; a resampled copy.
    "pancreas": (0.05, ("same", "slices", "resample")),
    "parent": (0.2, ("crop",)),
    "resampled": (0.05, ("resample",)),
    "clipped": (0.05, ("clip",)),
    # No copy: another phase of the patient, a candidate that voxels must refuse.
    "phases": (0.08, ("phase",)),
}
_MODES = 12
_PICTURES = ("thumbnail", "overview")
_NO_COPY = "phase"


@dataclass(frozen=True)
class _Scan:
    """A drawn fingerprint, all candidates for its anchors, and the scan that it is a copy of."""

    name: str
    base: str
    relation: str
    content: str
    fingerprint: Fingerprint


@dataclass(frozen=True)
class _Drawn:
    """What copies are cut from: candidates in ascending order, before any is dropped."""

    hashes: NDArray[np.uint64]
    places: NDArray[np.int32]
    fingerprint: Fingerprint


def match_pool(count: int, seed: int) -> str:
    """Match a drawn pool of about ``count`` scans; return time, memory, recall and precision.

    Raises
    ------
    ValueError
        If anchors join scans of different patients.
    """
    scans = {scan.name: scan for scan in _draw_pool(count, seed)}
    prints = {name: scan.fingerprint for name, scan in scans.items()}
    contents = {name: scan.content for name, scan in scans.items()}

    # Once: drawing and matching a pool of 12,000 scans takes a minute.
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    pairs, groups = match_scans(prints, contents), Groups()
    for pair in pairs:
        if Alignment.from_json(pair["alignment"]).is_exact:
            groups.join(pair["a"], pair["b"])
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    held_mb = sum(sum(a.nbytes for a in _arrays(p)) for p in prints.values()) / 1e6
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    lines = [
        f"### Find the copies among {len(scans)} scans",
        "",
        f"CPU {cpu_s:.1f} s, wall {wall_s:.1f} s. Fingerprints {held_mb:.0f} MB, peak of the "
        f"process {peak_mb:.0f} MB.",
        "",
        *_recall(scans, pairs, groups),
        "",
        *_precision(scans, pairs, groups),
    ]
    return "\n".join(lines)


def _recall(scans: dict[str, _Scan], pairs: list[dict], groups: Groups) -> list[str]:
    """Compare each copy with what was found; chains through true pairs count as found."""
    chains = Groups()
    for pair in pairs:
        if scans[pair["a"]].base == scans[pair["b"]].base:
            chains.join(pair["a"], pair["b"])
    total, joined, exact = Counter(), Counter(), Counter()
    for scan in scans.values():
        if scan.relation not in ("base", _NO_COPY):
            total[scan.relation] += 1
            joined[scan.relation] += chains.root(scan.name) == chains.root(scan.base)
            exact[scan.relation] += groups.root(scan.name) == groups.root(scan.base)
    rows = ["| copies by | number | candidates | joined by anchors alone |", "|---|---:|---:|---:|"]
    for relation, number in sorted(total.items()):
        shares = (f"{100 * found[relation] / number:.2f} %" for found in (joined, exact))
        rows.append(f"| {relation} | {number} | {' | '.join(shares)} |")
    return rows


def _precision(scans: dict[str, _Scan], pairs: list[dict], groups: Groups) -> list[str]:
    """Say how many candidates are wrong, and how many need voxels to be refused."""
    wrong = [pair for pair in pairs if scans[pair["a"]].base != scans[pair["b"]].base]
    anchored = [pair for pair in wrong if pair["found_by"][0] not in _PICTURES]
    if anchored:
        raise ValueError(f"anchors join different patients: {anchored[0]}")
    alike = [
        pair for pair in pairs if _NO_COPY in (scans[pair["a"]].relation, scans[pair["b"]].relation)
    ]
    by_picture = sum(pair["found_by"][0] in _PICTURES for pair in pairs)
    largest = Counter(groups.root(name) for name in scans).most_common(1)[0][1]
    return [
        f"{len(pairs)} candidates, {len(pairs) - by_picture} by equal voxels, anchors or slices "
        f"(none of different patients), {by_picture} by their pictures alone, whose voxels must "
        f"decide: {len(alike)} with other phases of a patient, {len(wrong)} of different patients. "
        f"Precision of candidates {100 * (1 - (len(wrong) + len(alike)) / len(pairs)):.1f} %. "
        f"Largest group {largest}."
    ]


def _arrays(scan: Fingerprint) -> list[NDArray]:
    return [scan.anchors, scan.places, scan.slices, scan.thumbnail, scan.overview, scan.box]


def _draw_pool(count: int, seed: int) -> Iterator[_Scan]:
    rng = np.random.default_rng(seed)
    copies = sum(share * len(kinds) for share, kinds in _CLUSTERS.values())
    bases = round(count / (1 + copies))
    kinds = [cluster for cluster in _CLUSTERS for _ in range(round(_CLUSTERS[cluster][0] * bases))]
    modes = np.stack([_smooth(rng, 3.0) for _ in range(_MODES)])
    mean = _smooth(rng, 3.0)
    common = rng.integers(0, 1 << 63, 2000, np.uint64)
    for number in range(bases):
        name = f"s{number:05d}"
        drawn = _draw_base(rng, mean, modes, common)
        yield _Scan(name, name, "base", name, _keep(rng, drawn))
        if number < len(kinds):
            for n, relation in enumerate(_CLUSTERS[kinds[number]][1]):
                other = f"{name}_{n}_{relation}"
                # Equal voxels have an equal hash.
                content = name if relation in ("same", "spacing") else other
                yield _Scan(other, name, relation, content, _copy(rng, drawn, relation))


def _smooth(rng: np.random.Generator, sigma: float) -> NDArray[np.float32]:
    """Return a smooth field of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(rng.standard_normal((_SIDE,) * 3), sigma, mode="nearest")
    return ((field - field.mean()) / field.std()).astype(np.float32)


def _draw_base(
    rng: np.random.Generator,
    mean: NDArray[np.float32],
    modes: NDArray[np.float32],
    common: NDArray[np.uint64],
) -> _Drawn:
    slices = int(np.clip(rng.lognormal(np.log(160), 0.7), 30, 900))
    shape = (slices, 512, 512)
    number = _POOL * max(_LEAST_ANCHORS, slices * 512 * 512 // _VOXELS_PER_ANCHOR)
    low = np.array([3, *rng.integers(50, 130, 1), *rng.integers(20, 80, 1)])
    high = np.array([slices - 3, *rng.integers(380, 460, 1), *rng.integers(430, 490, 1)])
    places = rng.integers(low, high, (number, 3)).astype(np.int32)
    hashes = rng.integers(0, 1 << 63, number, np.uint64)
    # A few hashes that many scans hold, at any place: tables, tubes.
    hashes[: rng.integers(0, 4)] = rng.choice(common)
    order = np.argsort(hashes)
    weights = rng.standard_normal(_MODES).astype(np.float32) / np.sqrt(_MODES)
    varied = 0.85 * np.tensordot(weights, modes, 1) + 0.35 * _smooth(rng, 1.2)
    thumbnail = np.clip(-50 + 100 * (mean + varied), -200, 300)
    box = np.stack([low, high], axis=1).astype(np.float32)
    telling = rng.integers(1, 1 << 63, slices, np.uint64)
    empty, thumbnail = np.empty(0, np.uint64), thumbnail.astype(np.float32)
    view = _overview(thumbnail, box, shape)
    scan = Fingerprint(shape, empty, places[:0], telling, thumbnail, box, view, _STRAIGHT)
    return _Drawn(hashes[order], places[order], scan)


def _overview(
    thumbnail: NDArray[np.float32], box: NDArray[np.float32], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Draw the picture of a field of view: a body of oval section in air."""
    cells = [(np.arange(_SIDE) + 0.5) / _SIDE * n for n in shape]
    inside = [(place - low) / (high - low) for place, (low, high) in zip(cells, box, strict=True)]
    z, y, x = np.meshgrid(*inside, indexing="ij")
    at = [part * _SIDE - 0.5 for part in (z, y, x)]
    body = ndimage.map_coordinates(thumbnail, at, order=1, mode="nearest")
    return np.where((y - 0.5) ** 2 + (x - 0.5) ** 2 < 0.25, body, -200).astype(np.float32)


def _keep(
    rng: np.random.Generator, drawn: _Drawn, box: NDArray[np.integer] | None = None
) -> Fingerprint:
    """Choose the anchors of a scan, or of the part of it in a box of (first, end) per axis."""
    scan = drawn.fingerprint
    inside = np.ones(len(drawn.hashes), np.bool_)
    shape = np.array(scan.shape)
    if box is not None:
        inside = ((drawn.places >= box[:, 0] + 3) & (drawn.places < box[:, 1] - 3)).all(axis=1)
        shape = box[:, 1] - box[:, 0]
    number = max(_LEAST_ANCHORS, int(shape.prod()) // _VOXELS_PER_ANCHOR)
    chosen = np.flatnonzero(inside)[:number]
    chosen = chosen[rng.random(len(chosen)) > rng.uniform(0, 0.1)]
    hashes, first = np.unique(drawn.hashes[chosen], return_index=True)
    places = drawn.places[chosen][first] - (0 if box is None else box[:, 0])
    return replace(
        scan,
        shape=tuple(int(n) for n in shape),
        anchors=hashes,
        places=places.astype(np.int32),
    )


def _copy(rng: np.random.Generator, drawn: _Drawn, relation: str) -> Fingerprint:
    """Draw the fingerprint of a copy."""
    scan = drawn.fingerprint
    others = rng.integers(1, 1 << 63, len(scan.slices), np.uint64)
    if relation in ("same", "spacing"):
        return _keep(rng, drawn)
    if relation in ("offset", "clip"):
        # With 1024 HU more nothing is left of a thumbnail that is cut at 300 HU.
        thumbnail = scan.thumbnail * 0 + 300 if relation == "offset" else scan.thumbnail
        view = scan.overview * 0 + 300 if relation == "offset" else scan.overview
        return replace(_keep(rng, drawn), slices=others, thumbnail=thumbnail, overview=view)
    if relation == "flip":
        kept = _keep(rng, drawn)
        places = kept.places.copy()
        places[:, 2] = scan.shape[2] - 1 - places[:, 2]
        box = scan.box.copy()
        box[2] = scan.shape[2] - box[2, ::-1]
        pictures = (picture[:, :, ::-1] for picture in (scan.thumbnail, scan.overview))
        return replace(kept, places=places, box=box, **dict(zip(_PICTURES, pictures, strict=True)))
    if relation == "crop":  # to the body, clipped
        box = np.array([[0, scan.shape[0]], *np.rint(scan.box[1:] + [-8, 8]).astype(int)])
        moved = scan.box - box[:, :1]
        cut = _keep(rng, drawn, box)
        return _seen(replace(cut, slices=others, box=moved), _moved(rng, scan.thumbnail, 0.002))
    if relation == "slices":
        count = scan.shape[0]
        first = int(count * rng.uniform(0, 0.5))
        end = first + max(12, int(count * rng.uniform(0.1, 0.5)))
        box = np.array([[first, min(end, count)], [0, 512], [0, 512]])
        cut = _keep(rng, drawn, box)
        cut = replace(cut, slices=scan.slices[first:end])
        return _seen(cut, _moved(rng, scan.thumbnail, 0.5))
    # Resampled, or another phase: no hash is left.
    fresh = rng.integers(0, 1 << 63, _LEAST_ANCHORS, np.uint64)
    spread = rng.uniform(0.01, 0.05) if relation == "resample" else rng.uniform(0.03, 0.3)
    if relation == "resample" and rng.random() < 0.05:
        spread = 0.15  # slices of 10 mm
    shape = (scan.shape[0] * 2, 256, 256)
    other = replace(
        scan,
        shape=shape,
        anchors=np.sort(fresh),
        places=rng.integers(0, 250, (len(fresh), 3)).astype(np.int32),
        slices=rng.integers(1, 1 << 63, shape[0], np.uint64),
        box=(scan.box * [[2], [0.5], [0.5]]).astype(np.float32),
    )
    return _seen(other, _moved(rng, scan.thumbnail, spread))


def _seen(scan: Fingerprint, thumbnail: NDArray[np.float32]) -> Fingerprint:
    """Set both pictures of a scan."""
    view = _overview(thumbnail, scan.box, scan.shape)
    return replace(scan, thumbnail=thumbnail, overview=view)


def _moved(
    rng: np.random.Generator, thumbnail: NDArray[np.float32], spread: float
) -> NDArray[np.float32]:
    """Add a smooth change of this share of the thumbnail's own standard deviation."""
    return thumbnail + np.float32(spread * thumbnail.std()) * _smooth(rng, 1.2)
