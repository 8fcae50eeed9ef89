"""What identifies a scan's content, whatever its header and axis order say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumoratlas.core.files import sha256_bytes
from tumoratlas.ingest.readers import ScanVolume, label_hashes


@dataclass(frozen=True)
class Turn:
    """Axis order and flips that bring a volume into the order of its content.

    Two copies of a scan that differ by axis order or flips become equal arrays, so a label of
    one can be carried onto the other through both turns.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Turn":
        """Find the turn of a (z, y, x) volume from its voxels alone.

        Each axis has a profile, the sums over its planes. An axis is flipped where the
        reversed profile comes first in the order of numbers; axes are sorted by length and
        profile. Integer sums make this exact. Only a volume with two equal profiles or a
        symmetric one is ambiguous; noise rules that out for real scans, and an ambiguous copy
        is at worst not recognised.
        """
        profiles = [
            array.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.int64).tolist()
            for axis in range(3)
        ]
        flips = tuple(profile[::-1] < profile for profile in profiles)
        turned = [p[::-1] if flip else p for p, flip in zip(profiles, flips, strict=True)]
        axes = sorted(range(3), key=lambda axis: (len(turned[axis]), turned[axis]))
        return cls(tuple(axes), flips)

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn a volume into content order (a view)."""
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array[steps].transpose(self.axes)

    def undo(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn a volume in content order back (a view)."""
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array.transpose(np.argsort(self.axes))[steps]


def voxel_sha256(hu: NDArray[np.int16]) -> str:
    """Return the hash of a scan's voxels, equal for copies with other axes, flips or header.

    Parameters
    ----------
    hu
        int16 (z, y, x).
    """
    content = np.ascontiguousarray(Turn.of(hu).apply(hu), dtype="<i2")
    shape = ",".join(map(str, content.shape)).encode()
    return sha256_bytes(shape + b":" + content.tobytes())


def _quantiles(hu: NDArray[np.int16], shares: tuple[float, ...]) -> list[int]:
    """Return, for each share, the smallest value that at least this share of voxels reaches.

    Counted slice by slice: sorting a whole scan would cost seconds and gigabytes.
    """
    counts = np.zeros(1 << 16, np.int64)
    for part in hu:
        counts += np.bincount(part.ravel().view(np.uint16), minlength=1 << 16)
    counts = np.roll(counts, 1 << 15)  # from two's complement to ascending order
    ranks = [max(1, int(np.ceil(share * hu.size))) for share in shares]
    return [int(n) - (1 << 15) for n in np.searchsorted(counts.cumsum(), ranks)]


def fingerprint_scan(scan: Mapping[str, Any], volume: ScanVolume) -> dict[str, Any]:
    """Return a scan's facts for the ``scans`` table, and the hashes of its label files."""
    low, p01, p99, high = _quantiles(volume.hu, (0.0, 0.01, 0.99, 1.0))
    codes = [finding.code for finding in volume.findings]
    return {
        "scan_id": scan["scan_id"],
        "source": scan["source"],
        "source_case": scan["source_case"],
        "patient_key": scan["patient_key"],
        "image_path": scan["image_path"],
        "label_paths": [path for label in scan["labels"] for path in label["paths"]],
        "label_sha256": label_hashes(scan),
        "file_sha256": volume.sha256,
        "voxel_sha256": voxel_sha256(volume.hu),
        "shape": list(volume.hu.shape),
        "spacing_mm": list(volume.grid.spacing_mm),
        "orientation": volume.stored_orientation,
        "hu_min": float(low),
        "hu_max": float(high),
        "hu_p01": float(p01),
        "hu_p99": float(p99),
        "slices": volume.hu.shape[0],
        "licence": scan["licence"],
        "warnings": codes,
        "false_spacing": scan["false_spacing"],
        **volume.facts,
    }
