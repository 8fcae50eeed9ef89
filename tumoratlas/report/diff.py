"""The report on what changed between two releases, and who changed it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tumoratlas.core.files import write_text
from tumoratlas.release.diff.facts import UNKNOWN, Change, CountRow, ReleaseDiff
from tumoratlas.release.diff.text import NAMES, effects_in_words, named, short_events, verdict
from tumoratlas.report.page import render_page

_MOST_ROWS = 300
_NUMBERS = ("before", "added", "removed", "moved_in", "moved_out", "after")
_SECTIONS = (
    ("What is defined, and for whom", ("target_changed", "definition_changed",
     "class_map_changed", "licence_changed", "model_changed")),
    ("Cases", ("case_added", "case_withdrawn", "case_reimaged")),
    ("Splits", ("split_moved",)),
    ("Organ masks", ("organ_masks_changed",)),
    ("Tumor masks", ("mask_state", "mask_changed", "tumors_renumbered", "volume_changed",
     "events_lost")),
    ("Tumors", ("tumor_added", "tumor_removed", "tumor_resized", "tumor_reshaped",
     "tumor_changed", "tumor_reviewed")),
)  # fmt: skip


def write_diff_report(path: Path, diff: ReleaseDiff, template: Path) -> None:
    """Write the page about the difference of two releases; equal inputs give equal bytes.

    Parameters
    ----------
    path
        HTML file to write.
    diff
        Result of `tumoratlas.release.diff.releases.diff_releases`.
    template
        Jinja template of the page, with ``style.css`` beside it.
    """
    effects = diff.effects()
    people = [event for event in diff.events if event["role"] != "source"]
    acting = [event for event in diff.events if effects[event["event_id"]]]
    values = {
        "diff": diff,
        "old": named(diff.old, diff.new),
        "new": named(diff.new, diff.old),
        "verdict": verdict(diff),
        "unexplained": [_shown(change) for change in diff.unexplained[:_MOST_ROWS]],
        "counts": _count_sections(diff.counts),
        "sections": [
            {"title": title, "rows": list(map(_shown, rows[:_MOST_ROWS])), "total": len(rows)}
            for title, kinds in _SECTIONS
            if (rows := diff.of(*kinds))
        ],
        "events": [_event(event, effects[event["event_id"]]) for event in acting[:_MOST_ROWS]],
        "acting": len(acting),
        "idle": len(diff.events) - len(acting),
        "decisions": len(people),
        "labels": len(diff.events) - len(people),
    }
    write_text(path, render_page(template, values))


def _shown(change: Change) -> dict[str, Any]:
    """Return a change as the page shows it."""
    return {
        "kind": NAMES[change.kind][0],
        "case_id": change.case_id,
        "organ": change.organ,
        "tumor_id": change.tumor_id,
        "what": change.what,
        "before": change.before,
        "after": change.after,
        "cause": change.cause.text,
        "is_unknown": change.cause.kind == UNKNOWN,
        "events": short_events(change.cause.events),
        "signers": ", ".join(change.cause.signers),
    }


def _event(event: Mapping[str, Any], effects: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": short_events([event["event_id"]]),
        "decision": event["decision"],
        "reason": event.get("reason") or "",
        "reviewer": f"{event['reviewer_id']} ({event['role']})",
        "time": event.get("time") or "",
        "case_id": event["case_id"],
        "organ": event["organ"],
        "effects": effects_in_words(effects),
    }


def _count_sections(counts: Iterable[CountRow]) -> list[dict[str, Any]]:
    """Return per organ its sum over the size classes and the classes themselves."""
    organs: dict[str, list[CountRow]] = defaultdict(list)
    for row in counts:
        organs[row.organ].append(row)
    return [
        {
            "organ": organ,
            "rows": [
                {"size_class": row.size_class, **{name: getattr(row, name) for name in _NUMBERS}}
                for row in rows
                if any(getattr(row, name) for name in _NUMBERS)
            ],
            "differs": any(r.added or r.removed or r.moved_in or r.moved_out for r in rows),
        }
        for organ, rows in organs.items()
    ]
