"""Confidence intervals of shares and of statistics over clustered counts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

CONFIDENCE = 0.95
# Percentiles of an interval from resampling.
TAILS = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))
_BLOCK = 100

Interval = tuple[float, float] | tuple[None, None]


def wilson(hits: int, total: int) -> Interval:
    """Return Wilson's 95 % interval of ``hits / total`` (Wilson 1927); None of an empty total.

    Examples
    --------
    >>> [round(v, 4) for v in wilson(9, 10)]
    [0.5958, 0.9821]
    """
    if total == 0:
        return None, None
    z2 = float(norm.ppf((1 + CONFIDENCE) / 2)) ** 2
    share = hits / total
    center = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = np.sqrt(z2 * (share * (1 - share) / total + z2 / (4 * total**2))) / (1 + z2 / total)
    low = 0.0 if hits == 0 else float(center - half)
    high = 1.0 if hits == total else float(center + half)
    return low, high


def clopper_pearson(share: float, size: float) -> tuple[float, float]:
    """Return the exact 95 % interval of a share observed in ``size`` trials.

    The size need not be whole: with an effective size it is the interval of Korn and Graubard
    (1998) for weighted and clustered samples.
    """
    hits, tail = share * size, (1 - CONFIDENCE) / 2
    low = 0.0 if share <= 0 else float(beta.ppf(tail, hits, size - hits + 1))
    high = 1.0 if share >= 1 else float(beta.ppf(1 - tail, hits + 1, size - hits))
    return low, high


def upper_bound(share: float, size: float) -> float:
    """Return the exact one-sided 95 % upper bound; 0 of n gives ``1 - 0.05 ** (1 / n)``."""
    if share >= 1:
        return 1.0
    return float(beta.ppf(CONFIDENCE, share * size + 1, size - share * size))


def weighted_share(
    hits: Sequence[bool], weights: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[float, float]:
    """Return a weighted share and its effective sample size.

    The size is that of a simple random sample with the same variance, where each cluster
    (a patient) is drawn as a whole, and never above the Kish size of the weights. Where all or
    none are hits there is no variance to see: then the Kish size of the clusters, as if those
    of one patient were one observation.

    Parameters
    ----------
    hits, weights, clusters
        Outcome, weight and cluster of each observation; at least one, weights above 0.
    """
    hit = np.asarray(hits, float)
    weight = np.asarray(weights, float)
    _, members = np.unique(np.asarray(clusters, str), return_inverse=True)
    total = weight.sum()
    share = float(weight @ hit / total)
    by_cluster = np.bincount(members, weight)
    if hit.all() or not hit.any():
        return share, float(total**2 / (by_cluster @ by_cluster))
    residual = np.bincount(members, weight * (hit - share)) / total
    largest = float(total**2 / (weight @ weight))
    variance = float(residual @ residual)
    return share, min(largest, share * (1 - share) / variance if variance > 0 else largest)


def bootstrap_interval(
    counts: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    samples: int,
    seed: int,
) -> Interval:
    """Return the 2.5 and 97.5 percentiles of a statistic over resampled clusters.

    Parameters
    ----------
    counts
        (clusters, k): what each cluster adds to the sums; rows in a fixed order.
    statistic
        Maps sums (samples, k) to values (samples,); NaN where it is undefined, left out here.
    samples
        Number of bootstrap samples.
    seed
        Seed of the bootstrap.

    Returns
    -------
    None twice with fewer than two clusters, or if no sample has a value.
    """
    clusters = len(counts)
    if clusters < 2:
        return None, None
    rng = np.random.default_rng(seed)
    values = []
    for start in range(0, samples, _BLOCK):
        size = min(_BLOCK, samples - start)
        drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=size)
        values.append(statistic(drawn @ counts))
    found = np.concatenate(values)
    found = found[~np.isnan(found)]
    if not len(found):
        return None, None
    low, high = np.percentile(found, TAILS)
    return float(low), float(high)


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return column 0 over column 1, NaN where that is 0: a statistic for the bootstrap."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], np.nan)
