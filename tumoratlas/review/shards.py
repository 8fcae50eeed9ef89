"""What was said of the cases of one shard, so that merging reads nothing of the other shards."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tumoratlas.core.files import read_json
from tumoratlas.core.runner import finished_folders
from tumoratlas.review.bases import Base, BaseKey
from tumoratlas.review.ledger import Event


@dataclass(frozen=True)
class Said:
    """What was said of some cases, and shown of them.

    Attributes
    ----------
    events
        Events of the ledger, in its order.
    bases
        All maps that were ever shown.
    blinded
        Those batches of the events whose readers see nobody else's decisions.
    """

    events: list[Event]
    bases: list[Base]
    blinded: set[str]


def said_by_shard(
    harmonized: Iterable[Path],
    events: Iterable[Event],
    bases: Mapping[BaseKey, Base],
    blinded: Collection[str],
) -> dict[str, dict[str, Any]]:
    """Return what was said of each shard's cases, as JSON values (see `read_said`).

    Parameters
    ----------
    harmonized
        Manifests of harmonize_scans, which bear the names of the shards and list their cases.
    events
        The ledger.
    bases
        `tumoratlas.review.bases.read_bases`.
    blinded
        `tumoratlas.review.cases.blinded_batches`.
    """
    shards = {
        case_id: Path(manifest).stem
        for manifest in harmonized
        for case_id in finished_folders([manifest])
    }
    parts: dict[str, dict[str, Any]] = {shard: _nothing() for shard in shards.values()}
    # Of cases that were withdrawn nothing is merged.
    for event in (event for event in events if event.case_id in shards):
        parts[shards[event.case_id]]["events"].append(asdict(event))
    for key in sorted(key for key in bases if key[0] in shards):
        parts[shards[key[0]]]["bases"].append(asdict(bases[key]))
    for part in parts.values():
        part["blinded"] = sorted({event["batch"] for event in part["events"]} & set(blinded))
    return parts


def read_said(path: Path) -> Said:
    """Read what was said of a shard's cases; nothing was said of a shard without cases."""
    part = _nothing() | read_json(path)
    return Said(
        [Event(**event) for event in part["events"]],
        [_base(base) for base in part["bases"]],
        set(part["blinded"]),
    )


def _nothing() -> dict[str, Any]:
    return {"events": [], "bases": [], "blinded": []}


def _base(base: Mapping[str, Any]) -> Base:
    names = {int(number): name for number, name in base["candidates"].items()}
    return Base(**{**base, "candidates": names})
