"""What brought a difference of two releases about.

Ledger events come first: they are what somebody decided. Where no new event speaks of the
organ, the releases themselves tell what else differs: the scan, the source's label, licences,
the candidates, the definitions. What none of these explains has an unknown cause, and says so.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from tumoratlas.release.cases import CT
from tumoratlas.release.diff.facts import UNKNOWN, Cause
from tumoratlas.release.diff.folder import Pair, Row

_SIGNATURES = ("sign_off", "withdraw")
_LINKING = ("split", "merge")
_MEASURE = ("connectivity", "minimum_volume_mm3", "size_edges_mm", "early_diameter_mm")
_MODEL = ("model_id", "threshold")
_EVENT = ("event_id", "case_id", "organ", "reviewer_id", "role", "decision")
# Columns of `masks` that come from a source.
_LINEAGE = {"origin", "reviewers", "events"}
_OF_SOURCE = ("origin", "source", "label_licence")

NOTHING = Cause(UNKNOWN, "cause unknown: neither the ledger nor the two releases tell")


def reviewed(events: Sequence[Mapping[str, Any]], why: str = "") -> Cause:
    """Return the cause that ledger events are; those of sources count as their labels."""
    people = [event for event in events if event["role"] != "source"]
    signed = [event for event in people if event["decision"] in _SIGNATURES]
    words: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for event in events:
        words[event["decision"], event["reviewer_id"], event["role"]].append(
            event.get("time") or ""
        )
    said = [
        f"{f'{len(times)} × ' if len(times) > 1 else ''}{decision} by {reviewer} ({role})"
        + (f", {max(times)}" if max(times) else "")
        for (decision, reviewer, role), times in words.items()
    ]
    return Cause(
        kind="review" if people else "source",
        text="; ".join(filter(None, (why, *said))),
        events=tuple(event["event_id"] for event in events),
        signers=tuple(sorted({event["reviewer_id"] for event in signed or people or events})),
    )


class Causes:
    """What may have brought a difference about, from two releases.

    Attributes
    ----------
    events
        Rows of ``reviews`` that only the new release has, in ledger order.
    lost
        Rows of ``reviews`` about cases of both releases that only the old one has.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        before, after = pair.tables("reviews", _EVENT) or ([], [])
        known, kept = ({row["event_id"] for row in rows} for rows in (before, after))
        self.events = [row for row in after if row["event_id"] not in known]
        self.lost = [
            row
            for row in before
            if row["event_id"] not in kept and row["case_id"] in pair.common_cases
        ]
        self._links = {row["event_id"]: row for row in after if row["decision"] in _LINKING}
        self._new: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self.events:
            self._new[row["case_id"], row["organ"]].append(row)

    def parents(self, tumor: Mapping[str, Any]) -> dict[str, str]:
        """Return the candidates that a tumor was split off or merged from, and by which."""
        links = (self._links.get(event_id) for event_id in tumor.get("events") or ())
        return {link["candidate_id"]: link["decision"] for link in links if link}

    def of_tumor(
        self,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
        columns: Collection[str],
        mask: tuple[Row | None, Row | None],
    ) -> Cause:
        """Return what brought a tumor, took it away or changed it.

        Parameters
        ----------
        before, after
            Its rows of the table ``tumors``, in a case of both releases.
        columns
            The columns that differ.
        mask
            Rows of its case and organ in the table ``masks``.
        """
        row = after or before or {}
        case_id, organ = row["case_id"], row["organ"]
        events = self._own_events(case_id, organ, before, after)
        if not self._named(events, before, after):
            file = "pooled" if row.get("origin") == "pooled" else organ
            is_same = self._pair.same_voxels(f"label/{case_id}/instances/{file}.nii.gz")
            is_told = set(columns) <= _LINEAGE and events
            if before and after and is_same and not self._has_other_scan(case_id) and not is_told:
                return self._measured_anew(case_id, organ, columns)
            if told := self._by_nobody(case_id, mask):
                return told
        if events:
            return reviewed(events)
        return self._without_events(row["case_id"], row["organ"], mask)

    def of_mask(self, before: Row | None, after: Row | None) -> Cause:
        """Return what changed the state of a case's organ: rows of the table ``masks``."""
        row = after or before or {}
        return self.of_organ(row["case_id"], row["organ"], (before, after))

    def of_organ(self, case_id: str, organ: str, mask: tuple[Row | None, Row | None]) -> Cause:
        """Return what changed an organ's tumors as a whole."""
        if told := self._by_nobody(case_id, mask):
            return told
        if own := self._new.get((case_id, organ)):
            return reviewed(own)
        return self._without_events(case_id, organ, mask)

    def of_files(self, case_id: str, files: Iterable[str]) -> Cause | None:
        """Return what the table of licences tells of files of a case, if anything."""
        for file in files:
            before, after = (licences.get((case_id, file)) for licences in self._licences)
            if not before or not after:
                continue
            target = self._pair.new.target
            if before.get(self._pair.old.target) != after.get(target):
                reasons = "; ".join(after.get("reasons") or before.get("reasons") or ())
                return Cause("licence", f"may be in {target}: {after.get(target)}. {reasons}")
            if before["sources"] != after["sources"]:
                labels = [" and ".join(row["sources"] or ()) for row in (before, after)]
                return Cause(
                    "source", f"the label comes from {labels[1]}, it came from {labels[0]}"
                )
        return None

    def tumor_events(self, tumor: Mapping[str, Any]) -> list[Row]:
        """Return the new events that speak of a tumor of an added case."""
        return self._own_events(tumor["case_id"], tumor["organ"], None, tumor)

    def _own_events(
        self, case_id: str, organ: str, before: Mapping | None, after: Mapping | None
    ) -> list[Row]:
        """Return the new events on a tumor with their signatures; else all on its organ."""
        events = self._new.get((case_id, organ), [])
        own = self._named(events, before, after)
        return [
            row
            for row in events
            if not own or row["event_id"] in own or row["decision"] in _SIGNATURES
        ]

    def _named(
        self, events: Iterable[Row], before: Mapping | None, after: Mapping | None
    ) -> set[str]:
        """Return the ids of those events that name a tumor, or what was decided on it."""
        tumor_id = (after or before or {})["tumor_id"]
        lineage = set((after or {}).get("events") or ())
        earlier = set((before or {}).get("events") or ())
        return {
            row["event_id"]
            for row in events
            if row.get("candidate_id") == tumor_id
            or row["event_id"] in lineage
            or (row["decision"] == "undo" and row.get("base_sha256") in earlier)
        }

    def _by_nobody(self, case_id: str, mask: tuple[Row | None, Row | None]) -> Cause | None:
        """Return what changed an organ that no review can change, if anything."""
        before, after = mask
        if self._has_other_scan(case_id):
            return Cause("image", "the case's scan is another one: see its own row")
        if before and after and before.get("origin") == after.get("origin"):
            if any(before.get(key) != after.get(key) for key in _OF_SOURCE):
                told = [
                    " ".join(str(row[k]) for k in _OF_SOURCE if row.get(k)) or "nothing"
                    for row in (before, after)
                ]
                return Cause("source", f"the mask comes from {told[1]}, it came from {told[0]}")
        return None

    def _measured_anew(self, case_id: str, organ: str, columns: Collection[str]) -> Cause:
        """Return why numbers differ that come from the same scan and instance map."""
        if changed := self._changed_definitions():
            return Cause("definitions", f"definitions changed: {changed}")
        if set(columns) <= {"side"} and any(
            f"/{organ}" in place for place in self._pair.changed_volumes.get(case_id, ())
        ):
            return Cause("image", "the organ's mask changed")
        return Cause("code", "other code: the scan, the instance map and the definitions are equal")

    def _without_events(
        self, case_id: str, organ: str, mask: tuple[Row | None, Row | None]
    ) -> Cause:
        """Return what changed an organ of a case of both releases, other than a new event."""
        before, after = mask
        if self._has_other_scan(case_id):
            return Cause("image", "the case's scan is another one: see its own row")
        if before and after and before.get("released") != after.get("released"):
            files = (f"instances/{organ}.nii.gz",)
            told = self.of_files(case_id, files)
            return told or Cause("licence", "the target or a licence of the mask changed")
        if before and after and any(before.get(k) != after.get(k) for k in _OF_SOURCE):
            told = [
                " ".join(str(row[k]) for k in _OF_SOURCE if row.get(k)) or "nothing"
                for row in (before, after)
            ]
            return Cause("source", f"the mask comes from {told[1]}, it came from {told[0]}")
        excluded = self._new_excluded(case_id, organ)
        if excluded:
            return Cause("source", f"left out: {excluded['code']}: {excluded['reason']}")
        if self._candidates[0].get((case_id, organ)) != self._candidates[1].get((case_id, organ)):
            return Cause("model", f"other candidates: {self._model_change(organ)}")
        if changed := self._changed_definitions():
            return Cause("definitions", f"definitions changed: {changed}")
        return NOTHING

    def _has_other_scan(self, case_id: str) -> bool:
        """Return whether both releases hold the scan, and not the same; its header counts too."""
        place = f"ct/{case_id}/{CT}"
        hashes = {release.sums.get(place) for release in (self._pair.old, self._pair.new)}
        return len(hashes - {None}) == 2

    def _changed_definitions(self) -> str:
        before, after = self._pair.old.definitions, self._pair.new.definitions
        changed = [key for key in _MEASURE if before.get(key) != after.get(key)]
        return ", ".join(f"{key} {before.get(key)} → {after.get(key)}" for key in changed)

    def _model_change(self, organ: str) -> str:
        before, after = (
            next((row for row in release.csv("models.csv") if row.get("organ") == organ), {})
            for release in (self._pair.old, self._pair.new)
        )
        changed = [key for key in _MODEL if before.get(key) != after.get(key)]
        told = (f"{k} {before.get(k) or 'none'} → {after.get(k) or 'none'}" for k in changed)
        return ", ".join(told) or "model and threshold are the same"

    def _new_excluded(self, case_id: str, organ: str) -> Row | None:
        """Return the row that tells why an organ of a case is left out now, if there is one."""
        wanted = (f"{case_id}/{organ}", f"{organ}/{case_id}")
        return next((row for row in self.excluded_anew if row["id"] in wanted), None)

    @property
    def excluded_anew(self) -> list[Row]:
        """Return the rows of ``excluded`` that only the new release has."""
        return self._excluded[1]

    @property
    def excluded_before(self) -> list[Row]:
        """Return the rows of ``excluded`` that only the old release has."""
        return self._excluded[0]

    @cached_property
    def _excluded(self) -> tuple[list[Row], list[Row]]:
        key = ("id", "rule", "code", "reason")
        before, after = self._pair.tables("excluded", key) or ([], [])
        known, kept = ({tuple(row[k] for k in key) for row in rows} for rows in (before, after))
        return (
            [row for row in before if tuple(row[k] for k in key) not in kept],
            [row for row in after if tuple(row[k] for k in key) not in known],
        )

    @cached_property
    def _licences(self) -> tuple[dict[tuple[str, str], Row], ...]:
        tables = self._pair.tables("licences", ("case_id", "file", "sources")) or ([], [])
        return tuple({(row["case_id"], row["file"]): row for row in rows} for rows in tables)

    @cached_property
    def _candidates(self) -> tuple[dict[tuple[str, str], Counter], ...]:
        """Return the candidates of every case and organ; nothing where the tables are equal."""
        place = "tables/candidates.parquet"
        if self._pair.old.sums.get(place) == self._pair.new.sums.get(place):
            return {}, {}
        common = set(self._pair.columns("candidates"))
        if not {"case_id", "organ"} <= common:
            return {}, {}
        wanted = ("candidate_id", "case_id", "organ", "voxels", *_MODEL)
        found = []
        for release in (self._pair.old, self._pair.new):
            columns = [column for column in wanted if column in common]
            by_organ: dict[tuple[str, str], Counter] = defaultdict(Counter)
            for row in release.table("candidates", columns) or ():
                facts = tuple(row[column] for column in columns)
                by_organ[row["case_id"], row["organ"]][facts] += 1
            found.append(dict(by_organ))
        return tuple(found)
