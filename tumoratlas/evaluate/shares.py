"""Numbers that never stand without what they were counted of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tumoratlas.review.numbers.intervals import Interval, bootstrap_interval, ratio, wilson


@dataclass(frozen=True)
class Share:
    """``hits`` of ``of``, with Wilson's 95 % interval.

    Examples
    --------
    >>> print(Share(9, 10), Share(0, 0), sep=", ")
    9/10 (90.0 %, 59.6 to 98.2), 0/0
    """

    hits: int
    of: int

    @property
    def value(self) -> float:
        """The share, 0 to 1; NaN of nothing."""
        return self.hits / self.of if self.of else math.nan

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval; None twice of nothing."""
        return wilson(self.hits, self.of)

    def __str__(self) -> str:
        low, high = self.interval
        if low is None:
            return f"{self.hits}/{self.of}"
        value, low, high = (100 * number for number in (self.value, low, high))
        return f"{self.hits}/{self.of} ({value:.1f} %, {low:.1f} to {high:.1f})"


@dataclass(frozen=True)
class Mean:
    """A sum over ``of`` cases, by case; its interval is from resampled patients.

    Attributes
    ----------
    total, of
        The sum of the values, and how many there are.
    interval
        2.5 and 97.5 percentiles; None twice with fewer than two patients.

    Examples
    --------
    >>> print(Mean(3.0, 4, (0.5, 1.0)), Mean(3.0, 4, (None, None)), sep=", ")
    0.750 of 4 (0.500 to 1.000), 0.750 of 4
    """

    total: float
    of: int
    interval: Interval

    @property
    def value(self) -> float:
        """The mean; NaN of nothing."""
        return self.total / self.of if self.of else math.nan

    def __str__(self) -> str:
        low, high = self.interval
        text = f"{self.value:.3f} of {self.of}" if self.of else "none of 0"
        return text if low is None else f"{text} ({low:.3f} to {high:.3f})"


def mean_by_case(
    totals: Mapping[str, tuple[float, int]],
    patients: Mapping[str, str],
    *,
    bootstrap: int,
    seed: int,
) -> Mean:
    """Join the sums and counts of cases into a mean with an interval.

    Parameters
    ----------
    totals
        Sum and number of values of each case, by case id.
    patients
        Patient of each case; a case that is not named is a patient of its own.
    bootstrap, seed
        Number and seed of the bootstrap samples.
    """
    by_patient: dict[str, list[tuple[float, int]]] = {}
    for case_id in sorted(totals):
        by_patient.setdefault(patients.get(case_id, case_id), []).append(totals[case_id])
    rows = [(math.fsum(t for t, _ in own), sum(n for _, n in own))
            for _, own in sorted(by_patient.items())]  # fmt: skip
    sums: NDArray[np.float64] = np.array(rows, float).reshape(-1, 2)
    return Mean(
        math.fsum(total for total, _ in rows),
        int(sums[:, 1].sum()),
        bootstrap_interval(sums, ratio, samples=bootstrap, seed=seed),
    )
