"""The step of review that takes in what readers sent back."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from tumoratlas.core.errors import ReviewError
from tumoratlas.review.bases import Base, BaseKey
from tumoratlas.review.cases import Bases, ReviewCase, shown_base
from tumoratlas.review.ledger import Event
from tumoratlas.review.returns.read import RULE, read_returns

_LIKE_BATCH = re.compile(r"b\d+")


def returned_events(
    returns: Path,
    cases: Sequence[ReviewCase],
    *,
    organs: Sequence[str],
    reviewers: pd.DataFrame,
    batches: Sequence[Mapping[str, Any]],
    issued: Mapping[BaseKey, Base],
    store: Path,
    now: datetime,
) -> tuple[list[Event], list[dict[str, str]], list[Base]]:
    """Read what reviewers sent back, one folder per batch below ``returns``.

    Parameters
    ----------
    batches
        Lines of ``records/batches.jsonl``.
    issued
        Every candidate map that was ever shown.

    Returns
    -------
    Events not yet in a ledger; ``excluded`` rows for the lines that cannot be taken in; the
    present maps that decisions without a batch speak about, to be recorded like those of batches.
    """
    if not returns.is_dir():
        return [], [], []
    bases = Bases(cases, organs)
    by_id = {case.case_id: case for case in cases}
    columns = ["candidate_id", "number", "case_id", "organ"]
    rows = [row for case_id, organ in bases for row in by_id[case_id].rows(organ)]
    events, excluded = [], []
    names = {line["batch"] for line in batches}
    for batch in sorted(returns.iterdir()):
        if batch.is_file() and batch.name.startswith("."):  # what desktops leave behind
            continue
        if told := _misplaced(batch, names):
            excluded.append(told.excluded_row(_shown(batch.name), RULE))
            continue
        found, bad = read_returns(
            batch,
            batch=batch.name,
            candidates=pd.DataFrame(rows, columns=columns),
            bases=bases,
            grids={case.case_id: case.grid for case in cases},
            reviewers=reviewers,
            store=store,
            now=now,
            batches=batches,
            issued=issued,
        )
        events += found
        excluded += bad
    spoken_of = {(e.case_id, e.organ, e.base_sha256) for e in events if e.base_sha256}
    new = [shown_base(by_id[key[0]], key[1], store) for key in sorted(spoken_of - issued.keys())]
    return events, excluded, new


def _shown(name: str) -> str:
    """Return a name that can be written, whatever its encoding was."""
    return name.encode("utf-8", "backslashreplace").decode()


def _misplaced(path: Path, batches: Collection[str]) -> ReviewError | None:
    """Return why something below ``returns`` is no folder of returned work, if it is none."""
    name = _shown(path.name)
    if not path.is_dir():
        return ReviewError(
            "FILE_IGNORED", name, "it was not read: it lies outside every folder of a batch",
            remedy="Put it into records/returns/<batch>/",
        )  # fmt: skip
    is_like = _LIKE_BATCH.fullmatch(name.strip().lower()) and path.name not in batches
    if is_like or name != path.name:
        return ReviewError(
            "BATCH_OTHER", name, "no batch of this name was issued",
            remedy="Give the folder the name of its batch, or one that is not like a batch's",
        )  # fmt: skip
    return None
