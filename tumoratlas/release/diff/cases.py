"""Differences of two releases in their cases: which there are, their scans, organs and splits."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tumoratlas.core.structures import tumor_structures
from tumoratlas.release.cases import CT
from tumoratlas.release.diff.causes import NOTHING, Causes
from tumoratlas.release.diff.facts import Cause, Change
from tumoratlas.release.diff.folder import Pair, Row, by_key
from tumoratlas.release.splits.scaling import REST

_FOLDER = "segmentations/"
_SUFFIX = ".nii.gz"
# What of the configuration places the cases of each scheme.
_IID = ("seed", "test_fraction", "validation_fraction")
_USED = {
    "iid": _IID,
    "ood": ("seed", "validation_fraction", "ood_sources"),
    "fold": ("seed", "folds"),
    "scaling": (*_IID, "scaling_sizes"),
}
_SCAN = ("scan_id", "source", "file_sha256")


class CaseDiff:
    """Compares the cases of two releases.

    Parameters
    ----------
    pair
        The releases.
    causes
        What may have brought their differences about.
    """

    def __init__(self, pair: Pair, causes: Causes) -> None:
        self._pair, self._causes = pair, causes
        crosswalks = pair.tables("crosswalk", ("case_id", "scan_id", "source")) or ([], [])
        self._scans = tuple(_by_case(rows) for rows in crosswalks)
        tables = pair.tables("scans", ("scan_id", "source"))
        self._sources = tables and tuple(
            {row["scan_id"]: row["source"] for row in rows} for rows in tables
        )
        self._case_before = {
            row["scan_id"]: row["case_id"] for row in (tables or ([],))[0] if row.get("case_id")
        }
        self._repairs = tuple(
            _repairs_by_id(rows) for rows in pair.tables("repairs", ("id", "name")) or ([], [])
        )
        leakage = pair.tables("leakage", ("case_id", "test_set")) or ([], [])
        self._test_sets = tuple(_test_sets(rows) for rows in leakage)

    def changes(self) -> Iterator[Change]:
        """Yield every change."""
        for case_id in sorted(self._pair.new.cases - self._pair.old.cases):
            yield Change(
                "case_added", self.of_added(case_id), case_id, after=self._told(1, case_id)
            )
        for case_id in sorted(self._pair.old.cases - self._pair.new.cases):
            cause = self.of_withdrawn(case_id)
            yield Change("case_withdrawn", cause, case_id, before=self._told(0, case_id))
        for case_id in sorted(self._pair.common_cases):
            yield from self._image(case_id)
            yield from self._organ_masks(case_id)
        yield from self._splits()

    def of_added(self, case_id: str) -> Cause:
        """Return why the new release has a case that the old one lacks."""
        kept = _kept(self._scans[1].get(case_id, ()))
        if not kept or not self._sources:
            return NOTHING
        scan_id, source = kept["scan_id"], kept["source"]
        if source not in self._sources[0].values():
            return Cause("scan", f"source {source} is new")
        if scan_id not in self._sources[0]:
            return Cause("scan", f"scan {scan_id} is new")
        for row in self._causes.excluded_before:
            if row["id"] in (scan_id, case_id):
                text = f"{scan_id} was left out before: {row['code']}: {row['reason']}"
                return Cause("scan", text)
        before = self._case_before.get(scan_id, case_id)
        if before != case_id:
            return Cause("scan", f"{scan_id} was a scan of {before}")
        return self._of_target(case_id)

    def of_withdrawn(self, case_id: str) -> Cause:
        """Return why the new release lacks a case of the old one."""
        for row in self._pair.new.csv("withdrawn.csv"):
            if row.get("case_id") == case_id and not row.get("organ"):
                return Cause("scan", f"{row.get('code', '')}: {row.get('reason', '')}")
        scans = self._scans[0].get(case_id, ())
        ids = {case_id, *(scan["scan_id"] for scan in scans if scan.get("kept", True))}
        told = [
            f"{row['code']}: {row['reason']}"
            for row in self._causes.excluded_anew
            if row["id"] in ids
        ]
        if told:
            return Cause("scan", "; ".join(dict.fromkeys(told)))
        kept = _kept(scans)
        if kept and self._sources:
            if kept["source"] not in self._sources[1].values():
                return Cause("scan", f"source {kept['source']} is not there any more")
            if kept["scan_id"] not in self._sources[1]:
                return Cause("scan", f"scan {kept['scan_id']} is not there any more")
        return self._of_target(case_id)

    def _of_target(self, case_id: str) -> Cause:
        old, new = self._pair.old.target, self._pair.new.target
        if old != new:
            return Cause("licence", f"the release is for {new}, it was for {old}")
        return self._causes.of_files(case_id, (CT,)) or NOTHING

    def _told(self, side: int, case_id: str) -> str:
        """Return the scans of a case in words, the kept one first."""
        scans = self._scans[side].get(case_id, ())
        ids = sorted((not scan.get("kept", True), scan["scan_id"]) for scan in scans)
        return ", ".join(scan_id for _, scan_id in ids)

    def _image(self, case_id: str) -> Iterator[Change]:
        place = f"ct/{case_id}/{CT}"
        hashes = [release.sums.get(place) for release in (self._pair.old, self._pair.new)]
        if hashes[0] == hashes[1]:
            return
        what, cause = "voxels", self._of_image(case_id)
        if None in hashes:
            what = "file"
            cause = self._of_target(case_id)
        elif self._pair.same_voxels(place):
            what = "header or packing; the voxels are equal"
        told = [value[:16] if value else "no file" for value in hashes]
        yield Change("case_reimaged", cause, case_id, what=what, before=told[0], after=told[1])

    def _of_image(self, case_id: str) -> Cause:
        kept = [_kept(scans.get(case_id, ())) for scans in self._scans]
        if not all(kept):
            return NOTHING
        before, after = ([scan.get(key) for key in _SCAN] for scan in kept)
        if before[0] != after[0]:
            return Cause("scan", f"the image comes from {after[0]}, it came from {before[0]}")
        if before[2] != after[2]:
            return Cause("scan", f"the file of {after[0]} is another one")
        repairs = [repairs.get(after[0], set()) for repairs in self._repairs]
        if repairs[0] != repairs[1]:
            names = ", ".join(sorted({name for name, _ in repairs[0] ^ repairs[1]}))
            return Cause("image", f"repairs of {after[0]} differ: {names}")
        return Cause("code", f"other code: the file of {after[0]} is the same")

    def _organ_masks(self, case_id: str) -> Iterator[Change]:
        """Yield a change for all structures that share a cause and came, went or changed."""
        of_tumors = {row.name for row in tumor_structures().values()}
        groups: dict[tuple[str, Cause], list[str]] = defaultdict(list)
        for place in self._pair.changed_volumes.get(case_id, ()):
            file = place.removeprefix(f"label/{case_id}/")
            name = file.removeprefix(_FOLDER).removesuffix(_SUFFIX)
            if not file.startswith(_FOLDER) or name in of_tumors or name.endswith("_cyst"):
                continue
            was, there = self._pair.old.holds(place), self._pair.new.holds(place)
            action = "changed" if was and there else "added" if there else "removed"
            groups[action, self._of_structure(case_id, file, name)].append(name)
        for (action, cause), names in groups.items():
            yield Change(
                "organ_masks_changed",
                cause,
                case_id,
                what=", ".join(names),
                before="" if action == "added" else "there",
                after={"added": "added", "removed": "gone", "changed": "other voxels"}[action],
            )

    def _of_structure(self, case_id: str, file: str, name: str) -> Cause:
        place = f"ct/{case_id}/{CT}"
        hashes = {release.sums.get(place) for release in (self._pair.old, self._pair.new)}
        if len(hashes - {None}) == 2:
            return Cause("image", "the case's scan is another one: see its own row")
        if told := self._causes.of_files(case_id, (file,)):
            return told
        before, after = ({s["scan_id"] for s in scans.get(case_id, ())} for scans in self._scans)
        if before != after:
            verbs = (("joined", after - before), ("left", before - after))
            told = "; ".join(f"{', '.join(sorted(ids))} {verb}" for verb, ids in verbs if ids)
            return Cause("source", f"scans of the case: {told}")
        for mask in sorted(f"{scan_id}/{name}" for scan_id in after):
            if self._repairs[0].get(mask) != self._repairs[1].get(mask):
                return Cause("image", f"repairs of {mask} differ")
        return NOTHING

    def _splits(self) -> Iterator[Change]:
        tables = self._pair.tables("splits", ("scheme", "case_id", "split"))
        if tables is None:
            return
        before, after = (by_key(rows, ("scheme", "case_id"), "table splits") for rows in tables)
        schemes = [{scheme for scheme, _ in rows} for rows in (before, after)]
        for scheme in sorted(schemes[0] ^ schemes[1]):
            side = "older" if scheme in schemes[0] else "newer"
            self._pair.notes.append(f"split {scheme}: only the {side} release has it")
        for key in sorted(before.keys() | after.keys()):
            scheme, case_id = key
            is_of_both = scheme in schemes[0] & schemes[1] and case_id in self._pair.common_cases
            places = [rows.get(key, {}).get("split") or "nowhere" for rows in (before, after)]
            if is_of_both and places[0] != places[1]:
                cause = self._of_split(before.get(key, {}), after.get(key, {}), case_id, scheme)
                if cause == NOTHING and places[0] == REST and places[1].startswith("scaling_"):
                    cause = Cause("scan", "enough cases were placed to show the set")
                yield Change(
                    "split_moved", cause, case_id, what=scheme, before=places[0], after=places[1]
                )

    def _of_split(
        self, before: Mapping[str, Any], after: Mapping[str, Any], case_id: str, scheme: str
    ) -> Cause:
        groups = [row.get("group") or case_id for row in (before, after)]
        for ids in ((case_id, case_id), groups):  # the case's own chains, then its group's
            gone, come = (
                self._test_sets[a].get(ids[a], set()) - self._test_sets[b].get(ids[b], set())
                for a, b in ((0, 1), (1, 0))
            )
            verbs = (("touches", come), ("no longer touches", gone))
            told = [f"{verb} {', '.join(sorted(names))}" for verb, names in verbs if names]
            if told:
                whose = "it" if ids[0] == case_id else "its group"
                return Cause("leakage", f"{whose} {' and '.join(told)}")
        if before.get("group") != after.get("group"):
            text = f"its group is {after.get('group')}, it was {before.get('group')}"
            return Cause("leakage", text)
        settings = [
            {key: (release.definitions.get("splits") or {}).get(key) for key in _USED[scheme]}
            for release in (self._pair.old, self._pair.new)
            if scheme in _USED and release.definitions.get("splits")
        ]
        if len(settings) == 2 and settings[0] != settings[1]:
            return Cause("definitions", "the configuration of the splits changed")
        return NOTHING


def _repairs_by_id(rows: Iterable[Row]) -> dict[str, set[tuple[str, str]]]:
    repairs = defaultdict(set)
    for row in rows:
        repairs[row["id"]].add((row["name"], f"{row.get('before')} -> {row.get('after')}"))
    return dict(repairs)


def _test_sets(rows: Iterable[Row]) -> dict[str, set[str]]:
    """Return the test sets that each case touches."""
    sets = defaultdict(set)
    for row in rows:
        if row["test_set"]:
            sets[row["case_id"]].add(row["test_set"])
    return dict(sets)


def _by_case(rows: Iterable[Row]) -> dict[str, list[Row]]:
    scans = defaultdict(list)
    for row in rows:
        scans[row["case_id"]].append(row)
    return dict(scans)


def _kept(scans: Iterable[Row]) -> Row | None:
    """Return the scan whose image is released."""
    return next((scan for scan in scans if scan.get("kept", True)), None)
