"""The roster of reviewers, ``records/reviewers.csv``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tumoratlas.core.errors import ReviewError


def read_roster(path: Path) -> pd.DataFrame:
    """Return the reviewers (``reviewer_id``, ``role``) of a CSV file; none where it is absent."""
    columns = ["reviewer_id", "role"]
    if not path.exists():
        return pd.DataFrame(columns=columns)
    roster = pd.read_csv(path, dtype=str, encoding="utf-8-sig", keep_default_na=False)
    if not set(columns) <= set(roster.columns):
        raise ReviewError(
            "ROSTER_INVALID", path, "the roster lacks a column",
            remedy="Give it the columns reviewer_id and role",
            evidence=", ".join(map(str, roster.columns)),
        )  # fmt: skip
    return roster[columns]


def roles(reviewers: pd.DataFrame) -> dict[str, str]:
    """Return the role of each reviewer of `read_roster`.

    Raises
    ------
    ReviewError
        ROSTER_INVALID: an unknown role, or a reviewer twice.
    """
    roles = dict(zip(reviewers["reviewer_id"], reviewers["role"], strict=True))
    wrong = sorted(set(roles.values()) - {"senior", "junior"})
    if wrong or len(roles) != len(reviewers):
        raise ReviewError(
            "ROSTER_INVALID", "reviewers.csv", "a role is unknown or a reviewer stands twice",
            remedy="Give each reviewer_id one row with the role senior or junior",
            evidence=", ".join(map(str, wrong)),
        )  # fmt: skip
    return roles
