"""What the comparison of two releases says."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Every kind of change, in the order in which changes are told.
KINDS = (
    "events_lost",
    "target_changed",
    "definition_changed",
    "class_map_changed",
    "model_changed",
    "licence_changed",
    "case_added",
    "case_withdrawn",
    "case_reimaged",
    "split_moved",
    "organ_masks_changed",
    "mask_state",
    "mask_changed",
    "tumor_added",
    "tumor_removed",
    "tumor_resized",
    "tumor_reshaped",
    "tumor_changed",
    "tumor_reviewed",
    "tumors_renumbered",
    "volume_changed",
)
# What brings a change about. A change of unknown cause asks for somebody to look into it.
CAUSES = (
    "review",
    "source",
    "scan",
    "image",
    "leakage",
    "licence",
    "model",
    "definitions",
    "code",
    "unknown",
)
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Cause:
    """What brought a change about.

    Attributes
    ----------
    kind
        One of `CAUSES`.
    text
        In words.
    events
        Ids of the ledger events, in ledger order; none where it was no event.
    signers
        Who signed or withdrew the organ in these events; where nobody did, who decided them.
    """

    kind: str
    text: str
    events: tuple[str, ...] = ()
    signers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """One difference.

    Attributes
    ----------
    kind
        One of `KINDS`.
    case_id, organ, tumor_id
        What it is about; empty where it is about more.
    what
        What of it changed: columns, scheme, structures, or where a tumor came from or went.
    before, after
        In words.
    cause
        What brought it about.
    """

    kind: str
    cause: Cause
    case_id: str = ""
    organ: str = ""
    tumor_id: str = ""
    what: str = ""
    before: str = ""
    after: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """Return the place among all changes."""
        place = KINDS.index(self.kind)
        return place, self.case_id, self.organ, self.tumor_id, self.what, self.after


@dataclass(frozen=True)
class CountRow:
    """Headline tumors of an organ and size class: before + added - removed + in - out = after.

    Attributes
    ----------
    organ, size_class
        The class; ``not counted`` are cysts and fragments.
    before, after
        Tumors in the old and in the new release.
    added, removed
        Tumors that only the new, only the old release has.
    moved_in, moved_out
        Tumors of both releases that were, or are now, in another class.
    """

    organ: str
    size_class: str
    before: int
    added: int
    removed: int
    moved_in: int
    moved_out: int
    after: int


@dataclass(frozen=True)
class FileGroup:
    """Files of one kind that differ by ``SHA256SUMS``.

    Attributes
    ----------
    kind
        ``image``, ``organ mask``, ``tumor mask``, ``table`` or another part of the tree.
    added, removed, changed
        Number of files.
    same_voxels
        Changed files whose voxels are known to be equal: another header or packing.
    examples
        The first places.
    """

    kind: str
    added: int
    removed: int
    changed: int
    same_voxels: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class TableRows:
    """A table that differs, and its number of rows (None: the release lacks it)."""

    name: str
    before: int | None
    after: int | None


@dataclass(frozen=True)
class Side:
    """One of the two releases: version, target, cases and headline tumors."""

    version: str
    target: str
    cases: int
    tumors: int


@dataclass(frozen=True)
class ReleaseDiff:
    """All differences of two releases.

    Attributes
    ----------
    old, new
        The releases.
    changes
        Every change with its cause, in the order of `KINDS`.
    counts
        Headline tumors by organ and size class.
    files, tables
        What differs in the folders.
    events
        Rows of ``reviews`` that only the new release has, in ledger order.
    notes
        What could not be compared, and why.
    definitions
        ``definitions.json`` of the new release.
    """

    old: Side
    new: Side
    changes: tuple[Change, ...]
    counts: tuple[CountRow, ...]
    files: tuple[FileGroup, ...]
    tables: tuple[TableRows, ...]
    events: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    definitions: Mapping[str, Any]

    @property
    def is_empty(self) -> bool:
        """Return whether the two releases hold the same files, byte for byte."""
        return not self.files and not self.changes

    @property
    def unexplained(self) -> tuple[Change, ...]:
        """Return the changes of unknown cause."""
        return tuple(change for change in self.changes if change.cause.kind == UNKNOWN)

    def of(self, *kinds: str) -> tuple[Change, ...]:
        """Return the changes of some kinds."""
        return tuple(change for change in self.changes if change.kind in kinds)

    def effects(self) -> dict[str, Counter[str]]:
        """Return how many changes of each kind every new event brought about."""
        effects: dict[str, Counter[str]] = {row["event_id"]: Counter() for row in self.events}
        for change in self.changes:
            for event_id in change.cause.events:
                if event_id in effects:
                    effects[event_id][change.kind] += 1
        return effects
