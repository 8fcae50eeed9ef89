"""Differences of two releases in their tumor masks and tumors, and the counts that follow."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tumoratlas.core.structures import tumor_structures
from tumoratlas.measure.counts import HEADLINE_KINDS
from tumoratlas.measure.instances import SIZE_CLASSES
from tumoratlas.release.diff.causes import Causes, reviewed
from tumoratlas.release.diff.facts import Cause, Change, CountRow
from tumoratlas.release.diff.folder import Pair, Row, by_key

NOT_COUNTED = "not counted"
_KEY = ("case_id", "organ", "tumor_id")
_COUNTED = ("lesion_kind", "size_class", "is_fragment", "voxels", "volume_mm3")
_MASK = ("case_id", "organ", "state")
_SIZE = ("voxels", "volume_mm3")
_PLACE = ("bbox", "centroid_lps_mm", "mean_hu", "sd_hu")
_LINEAGE = ("origin", "reviewers", "events")
# Numbers that another machine may compute with another last digit are equal.
_TOLERANCE = 1e-9
Key = tuple[str, ...]


class TumorDiff:
    """Compares the tables ``masks`` and ``tumors`` of two releases.

    Parameters
    ----------
    pair
        The releases.
    causes
        What may have brought their differences about.
    of_added, of_withdrawn
        Give the cause of a case that only one of them has.
    """

    def __init__(
        self,
        pair: Pair,
        causes: Causes,
        of_added: Callable[[str], Cause],
        of_withdrawn: Callable[[str], Cause],
    ) -> None:
        self._pair, self._causes = pair, causes
        self._of_added, self._of_withdrawn = of_added, of_withdrawn
        masks = pair.tables("masks", _MASK) or ([], [])
        self._masks = tuple(by_key(rows, _MASK[:2], "table masks") for rows in masks)
        tumors = pair.tables("tumors", (*_KEY, *_COUNTED)) or ([], [])
        self._tumors = tuple(by_key(rows, _KEY, "table tumors") for rows in tumors)

    def changes(self) -> Iterator[Change]:
        """Yield every change."""
        yield from self._mask_changes()
        before, after = self._tumors
        children = self._children()
        for key in sorted(after.keys() - before.keys()):
            yield self._added(key)
        for key in sorted(before.keys() - after.keys()):
            yield self._removed(key, children.get(key, {}))
        columns = [c for c in self._pair.columns("tumors") if c not in (*_KEY, "number")]
        renumbered: Counter[Key] = Counter()
        for key in sorted(before.keys() & after.keys()):
            yield from self._changed(before[key], after[key], columns)
            renumbered[key[:2]] += before[key].get("number") != after[key].get("number")
        for (case_id, organ), count in sorted(renumbered.items()):
            if count:
                cause = self._causes.of_organ(case_id, organ, self._mask((case_id, organ)))
                what = f"{count} in the instance map"
                yield Change("tumors_renumbered", cause, case_id, organ, what=what)

    def counts(self) -> list[CountRow]:
        """Return the tumors of every organ and size class, before, after and in between."""
        columns: dict[Key, Counter[str]] = defaultdict(Counter)
        before, after = self._tumors
        for key in before.keys() | after.keys():
            old, new = (
                _class(row) if row else None for row in map(lambda t: t.get(key), self._tumors)
            )
            if old:
                columns[old]["before"] += 1
                columns[old]["removed" if not new else "moved_out"] += old != new
            if new:
                columns[new]["after"] += 1
                columns[new]["added" if not old else "moved_in"] += old != new
        organs = dict.fromkeys((*tumor_structures(), *sorted(organ for organ, _ in columns)))
        names = ("before", "added", "removed", "moved_in", "moved_out", "after")
        return [
            CountRow(organ, size, **{name: columns[organ, size][name] for name in names})
            for organ in organs
            for size in (*SIZE_CLASSES, NOT_COUNTED)
        ]

    def _mask(self, key: Key) -> tuple[Row | None, Row | None]:
        return self._masks[0].get(key), self._masks[1].get(key)

    def _mask_changes(self) -> Iterator[Change]:
        columns = [c for c in self._pair.columns("masks") if c not in _MASK]
        for key in sorted(self._masks[0].keys() | self._masks[1].keys()):
            before, after = self._mask(key)
            if key[0] not in self._pair.common_cases:
                continue
            states = [row["state"] if row else "not listed" for row in (before, after)]
            rows = (before or {}, after or {})
            changed = [c for c in columns if not _equal(rows[0].get(c), rows[1].get(c))]
            if states[0] != states[1]:
                cause = self._causes.of_mask(before, after)
                yield Change("mask_state", cause, *key, before=states[0], after=states[1])
            elif changed:
                told = [_listed(row, changed) for row in rows]
                yield Change(
                    "mask_changed", self._causes.of_mask(before, after), *key,
                    what=", ".join(changed), before=told[0], after=told[1],
                )  # fmt: skip

    def _added(self, key: Key) -> Change:
        row = self._tumors[1][key]
        parents = self._parents(row)
        verbs = {"split": "split from", "merge": "merged from"}
        what = "; ".join(
            f"{verb} {', '.join(sorted(ids))}"
            for decision, verb in verbs.items()
            if (ids := [name for name, linked in parents.items() if linked == decision])
        )
        if key[0] in self._pair.old.cases:
            cause = self._causes.of_tumor(None, row, (), self._mask(key[:2]))
        else:
            cause = self._of_added(key[0])
            if events := self._causes.tumor_events(row):
                cause = reviewed(events, f"the case is new: {cause.text}")
        return Change("tumor_added", cause, *key, what=what, after=_described(row))

    def _removed(self, key: Key, children: Mapping[str, str]) -> Change:
        row = self._tumors[0][key]
        verbs = {"split": "split into", "merge": "merged into"}
        what = "; ".join(
            f"{verb} {', '.join(sorted(ids))}"
            for decision, verb in verbs.items()
            if (ids := [name for name, linked in children.items() if linked == decision])
        )
        if key[0] in self._pair.new.cases:
            cause = self._causes.of_tumor(row, None, (), self._mask(key[:2]))
        else:
            cause = self._of_withdrawn(key[0])
        return Change("tumor_removed", cause, *key, what=what, before=_described(row))

    def _changed(self, before: Row, after: Row, columns: Iterable[str]) -> Iterator[Change]:
        changed = [c for c in columns if not _equal(before[c], after[c])]
        if not changed:
            return
        kind = "tumor_reviewed" if set(changed) <= set(_LINEAGE) else "tumor_changed"
        told = _listed(before, changed), _listed(after, changed)
        if set(changed) & set(_SIZE):
            kind, told = "tumor_resized", (_described(before), _described(after))
        elif set(changed) & set(_PLACE):
            kind = "tumor_reshaped"
        key = tuple(after[column] for column in _KEY)
        cause = self._causes.of_tumor(before, after, changed, self._mask(key[:2]))
        yield Change(kind, cause, *key, what=", ".join(changed), before=told[0], after=told[1])

    def _parents(self, row: Row) -> dict[str, str]:
        """Return the tumors of the old release that a new one was split off or merged from."""
        where = row["case_id"], row["organ"]
        before = self._tumors[0]
        return {
            parent: decision
            for parent, decision in self._causes.parents(row).items()
            if (*where, parent) in before
        }

    def _children(self) -> dict[Key, dict[str, str]]:
        """Return the new tumors that each tumor of the old release was split or merged into."""
        children: dict[Key, dict[str, str]] = defaultdict(dict)
        for key in self._tumors[1].keys() - self._tumors[0].keys():
            for parent, decision in self._parents(self._tumors[1][key]).items():
                children[(*key[:2], parent)][key[2]] = decision
        return children


def _class(row: Mapping[str, Any]) -> Key:
    """Return the organ and size class that a tumor counts in."""
    counts = row["lesion_kind"] in HEADLINE_KINDS and not row["is_fragment"]
    return row["organ"], row["size_class"] if counts else NOT_COUNTED


def _equal(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=_TOLERANCE) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


def _described(row: Mapping[str, Any]) -> str:
    """Return a tumor's size in words."""
    words = [f"{row['voxels']} voxels", f"{row['volume_mm3']:.6g} mm³", row["size_class"]]
    words += ["fragment"] if row["is_fragment"] else []
    words += [row["lesion_kind"]] if row["lesion_kind"] != "tumor" else []
    words += ["early"] if row.get("is_early") else []
    return ", ".join(words)


def _listed(row: Mapping[str, Any], columns: Iterable[str]) -> str:
    return "; ".join(f"{column} {_text(row.get(column))}" for column in columns)


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value)) or "none"
    return (
        "none"
        if value in (None, "")
        else f"{value:.8g}"
        if isinstance(value, float)
        else str(value)
    )
