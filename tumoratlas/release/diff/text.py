"""The difference of two releases in words: for a terminal and for the changelog."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tumoratlas.release.diff.facts import Change, ReleaseDiff, Side

# What each kind of change is called, for one and for several.
NAMES = {
    "events_lost": ("organ lost ledger events", "organs lost ledger events"),
    "target_changed": ("other target", "other targets"),
    "definition_changed": ("definition changed", "definitions changed"),
    "class_map_changed": ("entry of the class map changed", "entries of the class map changed"),
    "model_changed": ("model or threshold changed", "models or thresholds changed"),
    "licence_changed": ("change of licences", "changes of licences"),
    "case_added": ("case added", "cases added"),
    "case_withdrawn": ("case withdrawn", "cases withdrawn"),
    "case_reimaged": ("case with another image", "cases with another image"),
    "split_moved": ("move between splits", "moves between splits"),
    "organ_masks_changed": ("change of organ masks", "changes of organ masks"),
    "mask_state": ("mask with another state", "masks with another state"),
    "mask_changed": ("mask with other facts", "masks with other facts"),
    "tumor_added": ("tumor added", "tumors added"),
    "tumor_removed": ("tumor removed", "tumors removed"),
    "tumor_resized": ("tumor resized", "tumors resized"),
    "tumor_reshaped": ("tumor redrawn at equal size", "tumors redrawn at equal size"),
    "tumor_changed": ("tumor with other facts", "tumors with other facts"),
    "tumor_reviewed": ("tumor with another review", "tumors with other reviews"),
    "tumors_renumbered": ("organ with other tumor numbers", "organs with other tumor numbers"),
    "volume_changed": ("volume changed for no known reason", "volumes changed for no known reason"),
}  # fmt: skip
_LISTED = 20
_SHORT = 12
_MARKDOWN = re.compile(r"([\\`*\[\]<>|&])")


def subject(change: Change) -> str:
    """Return what a change is about."""
    return " ".join(filter(None, (change.case_id, change.organ, change.tumor_id, change.what)))


def named(side: Side, other: Side) -> str:
    """Return a release's version, with its target where the two differ in it."""
    return side.version if side.target == other.target else f"{side.version} ({side.target})"


def tallies(diff: ReleaseDiff) -> Iterator[tuple[int, str]]:
    """Yield how many changes there are of each kind that occurs, and what they are called."""
    counted = Counter(change.kind for change in diff.changes)
    for kind, names in NAMES.items():
        if counted[kind]:
            yield counted[kind], names[counted[kind] > 1]


def verdict(diff: ReleaseDiff) -> str:
    """Return the difference in one sentence."""
    if diff.is_empty:
        return "No difference: every file is the same."
    if not diff.changes:
        files = sum(group.added + group.removed + group.changed for group in diff.files)
        return f"No case, mask, tumor, split or definition differs; {_files(files)}."
    told = ", ".join(f"{count} {name}" for count, name in tallies(diff))
    return f"{told[:1].upper()}{told[1:]}."


def summary_text(diff: ReleaseDiff) -> str:
    """Return the difference as plain text: totals, new events, what nobody can explain."""
    old, new = named(diff.old, diff.new), named(diff.new, diff.old)
    lines = [
        f"{old} -> {new}: {verdict(diff)}",
        f"cases {diff.old.cases} -> {diff.new.cases}, "
        f"tumors {diff.old.tumors} -> {diff.new.tumors}",
    ]
    for change in diff.changes[:_LISTED]:
        arrow = " -> ".join(filter(None, (change.before, change.after)))
        lines.append(f"  {change.kind}: {subject(change)}: {arrow} [{change.cause.text}]")
    if len(diff.changes) > _LISTED:
        lines.append(f"  and {len(diff.changes) - _LISTED} more; --csv writes all")
    idle = sum(not effects for effects in diff.effects().values())
    if diff.events:
        lines.append(f"new ledger events: {len(diff.events)}, {idle} of them changed nothing")
    lines += [f"not compared: {note}" for note in diff.notes]
    if diff.unexplained:
        lines.append(f"cause unknown: {len(diff.unexplained)} of {len(diff.changes)} changes")
    return "\n".join(_plain(line) for line in lines)


def changelog_text(diff: ReleaseDiff) -> str:
    """Return the section of a release's ``CHANGELOG.md`` that tells what changed; Markdown."""
    lines = [f"## {_markdown(diff.new.version)}", ""]
    lines += [f"Compared with {_markdown(named(diff.old, diff.new))}: {verdict(diff)}", ""]
    totals = (("Cases", "cases"), ("Tumors", "tumors"))
    for title, name in totals:
        lines.append(f"* {title}: {getattr(diff.old, name):,} → {getattr(diff.new, name):,}")
    if diff.unexplained:
        lines.append(f"* **Cause unknown**: {len(diff.unexplained)} of the changes")
    people = [event for event in diff.events if event["role"] != "source"]
    if people:
        names = ", ".join(sorted({event["reviewer_id"] for event in people}))
        lines.append(f"* New decisions: {len(people):,}, by {_markdown(names)}")
    lines += [f"* Not compared: {_markdown(note)}" for note in diff.notes]
    lines += _count_lines(diff)
    for title, kinds in (
        ("Cases withdrawn", ("case_withdrawn",)),
        ("Cases added", ("case_added",)),
        ("Images", ("case_reimaged",)),
        ("Splits", ("split_moved",)),
        ("States of masks", ("mask_state",)),
        ("Tumors", ("tumor_added", "tumor_removed", "tumor_resized", "tumor_reshaped")),
        ("Definitions, licences and models", ("target_changed", "definition_changed",
         "class_map_changed", "licence_changed", "model_changed")),
    ):  # fmt: skip
        lines += _change_lines(title, diff.of(*kinds))
    return "\n".join(lines) + "\n"


def _count_lines(diff: ReleaseDiff) -> Iterator[str]:
    rows = [r for r in diff.counts if r.added or r.removed or r.moved_in or r.moved_out]
    if rows:
        yield from ("", "| organ | size | before | added | removed | in | out | after |")
        yield "|---|---|---|---|---|---|---|---|"
    for r in rows:
        numbers = (r.before, r.added, r.removed, r.moved_in, r.moved_out, r.after)
        yield f"| {' | '.join((r.organ, r.size_class, *map(str, numbers)))} |"


def _change_lines(title: str, changes: Sequence[Change]) -> Iterator[str]:
    if not changes:
        return
    yield from ("", f"### {title}", "")
    for change in changes[:_LISTED]:
        arrow = " → ".join(filter(None, (change.before, change.after)))
        what = f"{NAMES[change.kind][0]}, {_markdown(subject(change))}"
        yield f"* {what}: {_markdown(arrow)} ({_markdown(change.cause.text)})"
    if len(changes) > _LISTED:
        yield f"* and {len(changes) - _LISTED:,} more"


def short_events(events: Iterable[str]) -> str:
    """Return the first digits of event ids, those of the first events."""
    ids = list(events)
    told = " ".join(event_id[:_SHORT] for event_id in ids[:3])
    return told + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


def effects_in_words(effects: Mapping[str, int]) -> str:
    """Return what an event changed."""
    told = (f"{n} {NAMES[kind][n > 1]}" for kind, n in effects.items())
    return ", ".join(told) or "nothing"


def _files(count: int) -> str:
    return f"{count} file{'s' if count > 1 else ''} {'do' if count > 1 else 'does'}"


def _plain(text: str) -> str:
    """Return text in one line, without control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", _plain(text))
