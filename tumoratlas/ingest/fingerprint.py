"""What identifies a scan's content, whatever its header and axis order say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tumoratlas.core.files import replacing, sha256_bytes
from tumoratlas.core.results import read_result
from tumoratlas.images.anchors import find_anchors
from tumoratlas.images.checks import refusal
from tumoratlas.images.grid import Grid
from tumoratlas.images.statistics import VolumeStatistics
from tumoratlas.images.thumbnail import body_box, coarse_means
from tumoratlas.ingest.labels import label_hashes
from tumoratlas.ingest.readers import StoredScan

FINGERPRINT = "fingerprint.safetensors"


@dataclass(frozen=True)
class Turn:
    """Flips, then another axis order.

    Attributes
    ----------
    axes
        For each axis of the turned volume, the axis that it was.
    flips
        For each axis of the volume before, whether it is flipped.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def to_ras(cls, grid: Grid) -> Turn:
        """Return the turn of `to_canonical`: to indices that grow toward RAS+."""
        orientation = nib.io_orientation(grid.affine)  # per x, y, z: its RAS axis and direction
        axes, flips = [0, 0, 0], [False, False, False]
        for xyz, (ras, direction) in enumerate(orientation):
            axes[2 - int(ras)] = 2 - xyz
            flips[2 - xyz] = bool(direction < 0)
        return cls((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn a volume (a view)."""
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array[steps].transpose(self.axes)

    def undo(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn a turned volume back (a view)."""
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array.transpose(np.argsort(self.axes))[steps]

    def after(self, other: Turn) -> Turn:
        """Return the turn that does to ``other``'s result what this one does without it."""
        place = [other.axes.index(axis) for axis in range(3)]  # of the old axis in the result
        axes = [place[axis] for axis in self.axes]
        flips = [self.flips[axis] != other.flips[axis] for axis in other.axes]
        return Turn((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))


@dataclass(frozen=True)
class Fingerprint:
    """What a scan is recognised by, in index (z, y, x) of the scan turned to RAS+.

    Attributes
    ----------
    shape
        Voxels along z, y, x.
    anchors
        uint64, ascending: `tumoratlas.images.anchors.find_anchors`.
    places
        int32 (n, 3): the voxel of each anchor.
    slices
        uint64 (z,): hash of each axial slice from feet to head, 0 for blank ones.
    thumbnail
        float32 (16, 16, 16): mean HU of the cells of the body box.
    box
        float32 (3, 2): where the body begins and ends, measured from the outer face of the
        first voxel, so that voxel ``i`` spans ``i`` to ``i + 1``.
    overview
        float32 (16, 16, 16): as the thumbnail, of the whole field of view.
    turn
        Brings scans of equal `voxel_sha256` to equal arrays.
    """

    shape: tuple[int, int, int]
    anchors: NDArray[np.uint64]
    places: NDArray[np.int32]
    slices: NDArray[np.uint64]
    thumbnail: NDArray[np.float32]
    box: NDArray[np.float32]
    overview: NDArray[np.float32]
    turn: Turn


def fingerprint_of(hu: NDArray[np.int16], grid: Grid, statistics: VolumeStatistics) -> Fingerprint:
    """Take the fingerprint of a scan in stored voxel order; only small results are turned.

    Parameters
    ----------
    hu
        int16 HU (z, y, x) as stored.
    grid
        Its grid.
    statistics
        `measure_volume` of ``hu``.
    """
    to_ras = Turn.to_ras(grid)
    anchors, places = find_anchors(np.ascontiguousarray(hu))
    counts = np.array(hu.shape)
    box = body_box(statistics)
    thumbnail = coarse_means(hu, box)
    overview = coarse_means(hu, np.stack([np.zeros(3), counts], axis=1))
    flips = np.array(to_ras.flips)
    places = np.where(flips, counts - 1 - places, places)
    box = np.where(flips[:, None], counts[:, None] - box[:, ::-1], box)
    axes = list(to_ras.axes)
    slices = statistics.slices
    return Fingerprint(
        _three(counts[axes]),
        anchors,
        np.ascontiguousarray(places[:, axes], np.int32),
        np.ascontiguousarray(slices[::-1] if flips[statistics.slice_axis] else slices),
        np.ascontiguousarray(to_ras.apply(thumbnail)),
        np.ascontiguousarray(box[axes], np.float32),
        np.ascontiguousarray(to_ras.apply(overview)),
        _content(statistics)[1].after(to_ras),
    )


def voxel_sha256(statistics: VolumeStatistics) -> str:
    """Return the hash of a scan's voxels, equal for copies with other flips or header.

    Copies may be flipped along any axis and have the axes within their slices exchanged. The
    hash is SHA-256 over the shape and, slice by slice, the digest and the in-plane turn
    relative to the whole scan, in the direction and turn that come first in the order of
    bytes.
    """
    return sha256_bytes(_content(statistics)[0])


def _content(statistics: VolumeStatistics) -> tuple[bytes, Turn]:
    """Return the bytes that stand for a volume's voxels and the turn of the volume to them."""
    axis = statistics.slice_axis
    rows, columns = (a for a in range(3) if a != axis)
    sides = statistics.shape[rows], statistics.shape[columns]
    # Slices of unequal sides are hashed with the shorter one first, so the volume is turned so.
    transposes = (False, True) if sides[0] == sides[1] else (sides[0] > sides[1],)
    entries = np.empty(len(statistics.digests), [("digest", ">u8"), ("turns", "u1")])
    entries["digest"] = statistics.digests
    best: tuple[bytes, Turn] | None = None
    for transpose in transposes:
        for code in range(4 * transpose, 4 * transpose + 4):
            entries["turns"] = _RELATIVE[code][statistics.turns]
            for flip in (False, True):
                text = (entries[::-1] if flip else entries).tobytes()
                if best is None or text < best[0]:
                    axes = (axis, columns, rows) if transpose else (axis, rows, columns)
                    flips = {axis: flip, rows: bool(code & 2), columns: bool(code & 1)}
                    best = text, Turn(axes, (flips[0], flips[1], flips[2]))
    text, turn = best
    shape = ",".join(str(statistics.shape[a]) for a in turn.axes)
    return shape.encode() + b":" + text, turn


def _then(first: int, second: int) -> int:
    """Return the code of two in-plane turns after one another (`VolumeStatistics.turns`)."""
    rows, columns = second >> 1 & 1, second & 1
    if first >> 2:
        rows, columns = columns, rows
    return (first ^ second) & 4 | (first ^ (rows << 1 | columns)) & 3


def _relative_turns() -> NDArray[np.uint8]:
    """Return, for each turn of the whole scan, what becomes of every set of a slice's turns."""
    table = np.zeros((8, 256), np.uint8)
    for whole in range(8):
        back = next(code for code in range(8) if _then(whole, code) == 0)
        for code in range(8):
            bit = 1 << _then(back, code)
            table[whole][np.arange(256) >> code & 1 == 1] |= bit
    return table


_RELATIVE = _relative_turns()


def write_fingerprint(path: Path, fingerprint: Fingerprint) -> None:
    """Write a fingerprint as safetensors: equal fingerprints give equal bytes."""
    tensors = {
        "shape": np.array(fingerprint.shape, np.int32),
        "anchors": fingerprint.anchors,
        "places": fingerprint.places,
        "slices": fingerprint.slices,
        "thumbnail": fingerprint.thumbnail,
        "box": fingerprint.box,
        "overview": fingerprint.overview,
        "turn": np.array([fingerprint.turn.axes, fingerprint.turn.flips], np.int32),
    }
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors))


def read_fingerprint(path: Path) -> Fingerprint:
    """Read what `write_fingerprint` wrote.

    Raises
    ------
    InputError
        ARRAY_DAMAGED: the file is cut or holds something else.
    """
    try:
        tensors = load(read_result(Path(path)))
        axes, flips = tensors.pop("turn")
        shape = _three(tensors.pop("shape"))
        turn = Turn(_three(axes), (bool(flips[0]), bool(flips[1]), bool(flips[2])))
        return Fingerprint(shape, **tensors, turn=turn)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise refusal("ARRAY_DAMAGED", path, str(error)) from error


def _three(values: NDArray[np.integer]) -> tuple[int, int, int]:
    return int(values[0]), int(values[1]), int(values[2])


def scan_row(listed: Mapping[str, Any], scan: StoredScan) -> dict[str, Any]:
    """Return a scan's facts for the ``scans`` table, and the hashes of its label files.

    Parameters
    ----------
    listed
        The scan as `list_scans` found it.
    scan
        The same as read.
    """
    statistics = scan.statistics
    to_ras = Turn.to_ras(scan.grid)
    shape = [scan.grid.shape[axis] for axis in to_ras.axes]
    # Spacings are along x, y, z, the reverse of array axes.
    spacing_mm = [scan.grid.spacing_mm[2 - axis] for axis in to_ras.axes[::-1]]
    return {
        "scan_id": listed["scan_id"],
        "source": listed["source"],
        "source_case": listed["source_case"],
        "patient_key": listed["patient_key"],
        "role": listed["role"],
        "reserved": listed["reserved"],
        "links": list(scan.links),
        "image_path": listed["image_path"],
        "source_file": listed["source_file"],
        "label_paths": [path for label in listed["labels"] for path in label["paths"]],
        "label_sha256": label_hashes(listed),
        "file_sha256": scan.sha256,
        "voxel_sha256": voxel_sha256(statistics),
        "shape": shape,
        "spacing_mm": spacing_mm,
        "orientation": scan.grid.orientation,
        "hu_min": float(statistics.low),
        "hu_max": float(statistics.high),
        "hu_p01": float(statistics.p01),
        "hu_p99": float(statistics.p99),
        "slices": shape[0],
        "licence": listed["licence"],
        "repairs": [f"{r.name}: {r.before} -> {r.after}" for r in scan.repairs],
        "warnings": [finding.code for finding in scan.findings],
        "false_spacing": listed["false_spacing"]
        and all(repair.name != "spacing" for repair in scan.repairs),
        **scan.facts,
    }
