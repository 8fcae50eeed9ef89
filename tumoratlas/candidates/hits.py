"""Which lesions are hit by which findings, and which findings are false.

The two hit rules of the FROC curve (see `tumoratlas.candidates.froc`) and of every evaluation:
``any`` shared voxel, many to many; ``iou``, one to one, at least `MINIMUM_IOU`.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

MINIMUM_IOU = 0.1


def shared_voxels(
    lesions: NDArray[np.integer], findings: NDArray[np.integer], counts: tuple[int, int]
) -> NDArray[np.int64]:
    """Count the voxels that lesions and findings have in common.

    Parameters
    ----------
    lesions, findings
        Number of the lesion and of the finding at each voxel of the truth, (n,); 0 is truth too
        small to be a lesion, and no finding.
    counts
        Number of lesions and of findings.

    Returns
    -------
    int64 (lesions + 1, findings + 1).
    """
    rows, columns = counts[0] + 1, counts[1] + 1
    pairs = lesions.astype(np.int64) * columns + findings
    return np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)


def match_findings(
    rule: str,
    shared: NDArray[np.int64],
    lesion_voxels: NDArray[np.int64],
    finding_voxels: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say which lesions are hit and which findings are false.

    Parameters
    ----------
    rule
        ``any`` or ``iou``.
    shared
        Of `shared_voxels`. A finding that touches only what is too small to be a lesion (row 0)
        is not false.
    lesion_voxels, finding_voxels
        Voxels of each lesion and of each finding.

    Returns
    -------
    Two bool arrays: hit lesions, false findings.
    """
    common = shared[1:, 1:]
    beside_fragment = shared[0, 1:] > 0
    if rule == "any":
        touching = common > 0
        hit = touching.any(axis=1)
    else:
        union = lesion_voxels[:, None] + finding_voxels[None, :] - common
        iou = common / np.maximum(union, 1)
        touching = (iou >= MINIMUM_IOU) & (common > 0)
        # What is added makes one more pair worth more than all overlaps together.
        weights = np.where(touching, iou + min(touching.shape), 0)
        lesions, findings = linear_sum_assignment(weights, maximize=True)
        hit = np.zeros(len(common), bool)
        hit[lesions] = touching[lesions, findings]
        beside_fragment &= ~(common > 0).any(axis=0)
    return hit, ~touching.any(axis=0) & ~beside_fragment
