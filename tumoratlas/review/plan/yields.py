"""How good an order of review is: tumors found per reviewed minute."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumoratlas.review.numbers.intervals import TAILS


@dataclass(frozen=True)
class YieldCurve:
    """Tumors found against time, in one order of reading.

    Attributes
    ----------
    curve
        ``minutes, tumors, tumors_per_minute`` after each case-organ read.
    area
        Area under the curve of the share of tumors found over the share of time.
    relative_area
        That over the area of the best order; 1 where no order differs.
    random_mean, random_low, random_high
        Mean, 2.5 and 97.5 percentile of ``relative_area`` over random orders.
    """

    curve: pd.DataFrame
    area: float
    relative_area: float
    random_mean: float
    random_low: float
    random_high: float


def yield_curve(
    order: Sequence[Hashable],
    found_tumors: Mapping[Hashable, int],
    seconds: Mapping[Hashable, float],
    *,
    random_orders: int,
    seed: int,
) -> YieldCurve:
    """Measure an order by the tumors that it finds per reviewed minute.

    A tumor counts from the moment when its case-organ has been read. The best order is that of
    falling tumors per second, which no order beats (Smith 1956).

    Parameters
    ----------
    order
        The case-organs in the order of reading.
    found_tumors
        Tumors that review found in each; none where it is not named.
    seconds
        Time that each took, above 0.
    random_orders, seed
        Random orders to compare with, and their seed.
    """
    tumors = np.array([found_tumors.get(key, 0) for key in order], float)
    time = np.array([seconds[key] for key in order], float)
    minutes, found = time.cumsum() / 60, tumors.cumsum()
    curve = pd.DataFrame({"minutes": minutes, "tumors": found})
    curve["tumors_per_minute"] = curve["tumors"] / curve["minutes"]
    best = np.argsort(-tumors / time, kind="stable")
    largest = _area(tumors[best], time[best])
    rng = np.random.default_rng(seed)
    areas = [
        _relative(_area(tumors[mixed], time[mixed]), largest)
        for mixed in (rng.permutation(len(order)) for _ in range(random_orders))
    ]
    low, high = np.percentile(areas, TAILS)
    area = _area(tumors, time)
    return YieldCurve(
        curve=curve,
        area=area,
        relative_area=_relative(area, largest),
        random_mean=float(np.mean(areas)),
        random_low=float(low),
        random_high=float(high),
    )


def _area(tumors: NDArray[np.float64], time: NDArray[np.float64]) -> float:
    total = tumors.sum() * time.sum()
    return float(tumors @ (time.sum() - time.cumsum()) / total) if total else 0.0


def _relative(area: float, largest: float) -> float:
    return area / largest if largest else 1.0
