"""The check of a whole release, from nothing but its folder.

Problems are collected, one line each, ``CODE: what: why``, so that one look at the list tells
what a copy is worth.
"""

import json
import multiprocessing
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from tumoratlas.core.errors import TumorAtlasError
from tumoratlas.core.files import sha256_file
from tumoratlas.core.structures import tumor_structures
from tumoratlas.core.tables import read_rows_of, write_csv
from tumoratlas.release.build import MODEL_COLUMNS, SUMS, class_map_facts, write_counts
from tumoratlas.release.leakage import audit_leakage
from tumoratlas.release.splits import RESERVED, SCHEMES
from tumoratlas.release.tables import LOCAL_PATH, ORDER, released_schema
from tumoratlas.release.verify_case import ReleasedCase, verify_case

_SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_CASE_ID = re.compile(r"BDMAP_\d{8}")
_HEX = re.compile(r"[0-9a-f]{16}")
_FORMULA = re.compile(r'(?:^|,)"?[=@\t\r]|(?:^|,)"?[+-](?![\d.])', re.MULTILINE)
_TEXT_SUFFIXES = (".csv", ".json", ".md")
_DEFINITIONS = ("size_edges_mm", "early_diameter_mm", "minimum_volume_mm3", "connectivity")
_COUNTS = ("tumors_by_size", "tumors_by_source")
_NEEDED = (
    *("README.md", "class_map.json", "definitions.json", "models.csv"),
    *(f"counts/{name}.csv" for name in _COUNTS),
    *(f"tables/{name}.{suffix}" for name in ORDER for suffix in ("parquet", "csv")),
)


@dataclass(frozen=True)
class Verification:
    """What a release was found to be.

    Attributes
    ----------
    files, cases, tumors
        How many of each were checked; tumors are all rows of the table.
    problems
        One line each; none means that every promise holds.
    """

    files: int
    cases: int
    tumors: int
    problems: list[str]


def verify_release(folder: Path, *, processes: int = 1) -> Verification:
    """Check a release: bytes, volumes, masks, sizes, states, ids, splits, counts and texts.

    Parameters
    ----------
    folder
        Any copy of a release.
    processes
        Cases checked at the same time.
    """
    release = _Release(folder)
    release.check_folder()
    release.check_texts()
    if release.read_tables():
        release.check_ids()
        release.check_scans()
        release.check_splits()
        release.check_leakage()
        slices = release.check_cases(processes)
        release.check_counts(slices)
    tumors = len(release.tables.get("tumors", []))
    return Verification(len(release.sums), len(release.case_ids), tumors, sorted(release.problems))


class _Release:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.definitions: dict[str, Any] = {}
        self.sums = self._read_sums()
        places = [place.split("/") for place in self.sums]
        self.case_ids = sorted({p[1] for p in places if p[0] in ("ct", "label") and len(p) > 2})

    def report(self, code: str, subject: str, reason: str) -> None:
        self.problems.append(f"{code}: {subject}: {reason}")

    def _read_sums(self) -> dict[str, str]:
        path = self.folder / SUMS
        sums: dict[str, str] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self.report("SUMS", SUMS, f"cannot be read: {type(error).__name__}")
            return sums
        for number, line in enumerate(lines, 1):
            match = _SUM_LINE.fullmatch(line)
            if not match or ".." in match[2].split("/") or match[2].startswith("/"):
                self.report("SUMS", f"line {number}", "is not a hash and a path of this folder")
            elif match[2] in sums:
                self.report("SUMS", match[2], "is listed twice")
            else:
                sums[match[2]] = match[1]
        if list(sums) != sorted(sums):
            self.report("SUMS", SUMS, "is not sorted by path")
        return sums

    def check_folder(self) -> None:
        """Check that the listed files, and only they, are there; hash those outside cases."""
        found = set()
        for path in self.folder.rglob("*"):
            place = path.relative_to(self.folder).as_posix()
            if path.is_symlink():
                self.report("LINK", place, "is a symbolic link")
            elif path.is_file():
                found.add(place)
        for place in sorted(found - set(self.sums) - {SUMS}):
            self.report("NOT_LISTED", place, f"is not in {SUMS}")
        for place in sorted(set(_NEEDED) - set(self.sums)):
            self.report("NOT_LISTED", place, "the release needs this file")
        for place in sorted(set(self.sums) - found):
            self.report("MISSING", place, f"is in {SUMS} and not there")
        for place in sorted(set(self.sums) & found):
            # Volumes of cases are hashed as they are read.
            is_of_case = place.endswith(".nii.gz") and place.startswith(("ct/", "label/"))
            if not is_of_case and sha256_file(self.folder / place) != self.sums[place]:
                self.report("SHA256", place, "the bytes are not those that were released")

    def check_texts(self) -> None:
        """Look for local paths, and for cells that a spreadsheet would run."""
        for place in sorted(self.sums):
            path = self.folder / place
            if path.suffix not in _TEXT_SUFFIXES or not path.is_file():
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            if match := LOCAL_PATH.search(text):
                self.report("LOCAL_PATH", place, f"holds {match[0][:80]!r}")
            if path.suffix == ".csv" and (match := _FORMULA.search(text)):
                self.report("FORMULA", place, f"holds a cell that runs: {match[0]!r}")

    def read_tables(self) -> bool:
        """Read tables and definitions; tell whether the rest can be checked."""
        for name in ORDER:
            self._read_table(name)
        self.definitions = self._read_json("definitions.json")
        if missing := [key for key in _DEFINITIONS if key not in self.definitions]:
            self.report("DEFINITIONS", "definitions.json", f"lacks {', '.join(missing)}")
        if self._read_json("class_map.json") != class_map_facts():
            self.report("CLASS_MAP", "class_map.json", "is not the class map of this version")
        self._check_models()
        return set(self.tables) == set(ORDER) and not missing

    def _read_table(self, name: str) -> None:
        place = f"tables/{name}.parquet"
        schema = released_schema(name)
        try:
            rows = read_rows_of(self.folder / place)
            if rows and list(rows[0]) != schema.names:
                self.report("TABLE", place, f"has the columns {', '.join(rows[0])}")
                return
        except (OSError, pa.ArrowException) as error:
            self.report("TABLE", place, f"cannot be read: {type(error).__name__}")
            return
        self.tables[name] = rows
        self._compare_csv(f"tables/{name}.csv", rows, schema.names)

    def _compare_csv(self, place: str, rows: list[dict[str, Any]], columns: list[str]) -> None:
        path = self.folder / place
        with tempfile.TemporaryDirectory() as scratch:
            expected = Path(scratch) / "expected.csv"
            write_csv(expected, rows, columns)
            if path.is_file() and path.read_bytes() != expected.read_bytes():
                self.report("TABLE", place, "does not say what the Parquet file says")

    def _read_json(self, place: str) -> dict[str, Any]:
        try:
            value = json.loads((self.folder / place).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self.report("JSON", place, f"cannot be read: {type(error).__name__}")
            return {}
        return value if isinstance(value, dict) else {}

    def _check_models(self) -> None:
        path = self.folder / "models.csv"
        head = path.read_text(encoding="utf-8").splitlines()[:1] if path.is_file() else []
        if head != [",".join(MODEL_COLUMNS)]:
            self.report("TABLE", "models.csv", "does not have its columns")

    def check_ids(self) -> None:
        """Check that ids are well formed, used once, and of released cases."""
        for case_id in self.case_ids:
            if not _CASE_ID.fullmatch(case_id):
                self.report("ID", case_id, "is no case id")
        for table, key in (("tumors", "tumor_id"), ("candidates", "candidate_id")):
            ids = Counter((row["case_id"], row[key]) for row in self.tables[table])
            for (case_id, item_id), count in sorted(ids.items(), key=str):
                if count > 1 or not _HEX.fullmatch(item_id or ""):
                    self.report("ID", f"{case_id} {item_id}", f"{count} rows of {table}, or no id")
        numbers = Counter((t["case_id"], t["organ"], t["number"]) for t in self.tables["tumors"])
        for key, count in numbers.items():
            if count > 1 or key[1] not in tumor_structures():
                self.report("ID", " ".join(map(str, key)), f"{count} tumors, or no such organ")
        masks = Counter((row["case_id"], row["organ"]) for row in self.tables["masks"])
        wanted = {(case_id, organ) for case_id in self.case_ids for organ in tumor_structures()}
        for key in sorted(wanted ^ set(masks)) + [k for k, n in masks.items() if n > 1]:
            self.report("STATE", " ".join(key), "needs exactly one row in masks")
        for table in ("tumors", "candidates", "reviews", "masks", "splits", "crosswalk"):
            strangers = {row["case_id"] for row in self.tables[table]} - set(self.case_ids)
            for case_id in sorted(strangers, key=str):
                self.report("ID", f"{case_id}", f"is in {table} and has no files")

    def check_scans(self) -> None:
        """Check that every kept scan is released or excluded, and every case has one scan."""
        excluded = {row["id"].split("/")[-1] for row in self.tables["excluded"]}
        kept = Counter(row["case_id"] for row in self.tables["scans"] if row["kept"])
        for case_id in self.case_ids:
            if kept[case_id] != 1:
                self.report("SCANS", case_id, f"has {kept[case_id]} kept scans, not one")
        for row in self.tables["scans"]:
            names = {row["scan_id"], row["case_id"]}
            is_told = row["case_id"] in self.case_ids if row["kept"] else False
            if not is_told and not names & excluded:
                self.report("SCANS", row["scan_id"], "is neither released nor excluded")

    def check_splits(self) -> None:
        """Check that every scheme places every case once, and no patient on two sides."""
        patients = {
            row["case_id"]: row["patient_key"] for row in self.tables["scans"] if row["kept"]
        }
        for scheme in sorted({*SCHEMES, *(row["scheme"] for row in self.tables["splits"])}):
            rows = [row for row in self.tables["splits"] if row["scheme"] == scheme]
            placed = Counter(row["case_id"] for row in rows)
            for case_id in self.case_ids:
                if placed[case_id] != 1:
                    self.report("SPLIT", f"{scheme} {case_id}", f"{placed[case_id]} places")
            sides = defaultdict(set)
            for row in rows:
                sides["group", row["group"]].add(row["split"])
                sides["patient", patients.get(row["case_id"])].add(row["split"])
            for (kind, name), splits in sides.items():
                if len(splits) > 1 and name is not None:
                    self.report("LEAK", f"{scheme} {kind} {name}", f"is in {sorted(splits)}")

    def check_leakage(self) -> None:
        """Check that no case that touches a test set can be trained on, in any scheme."""
        touched = {row["case_id"] for row in self.tables["leakage"] if row["test_set"]}
        for row in self.tables["leakage"]:
            if row["is_leak"]:
                self.report("LEAK", row["case_id"], f"touches {row['test_set']} by {row['path']}")
        # Searched again: a table of leakage that lacks a row proves nothing.
        scans = [{**row, "links": []} for row in self.tables["scans"]]
        try:
            audit = audit_leakage(scans, self.tables["relations"], self.tables["splits"])
        except TumorAtlasError as error:
            self.report("LEAK", error.subject, error.reason)
            return
        touched |= {row["case_id"] for row in audit.cases if row["test_set"]}
        for row in audit.torn:
            self.report("LEAK", f"{row['scheme']} {row['cases']}", row["path"])
        for case_id in sorted(
            {r["case_id"] for r in audit.cases} - {r["case_id"] for r in self.tables["leakage"]}
        ):
            self.report("LEAK", case_id, "has no row in leakage")
        for row in self.tables["splits"]:
            if row["case_id"] in touched and row["split"] != RESERVED:
                self.report("LEAK", f"{row['scheme']} {row['case_id']}", f"is in {row['split']}")

    def check_cases(self, processes: int) -> dict[str, int]:
        """Check every case's volumes; return the slices of each."""
        cases = self._cases()
        work = partial(verify_case, self.folder)
        if processes == 1:
            found = list(map(work, cases))
        else:
            # Forked: a spawned process would run the calling script again.
            context = multiprocessing.get_context("fork")
            with ProcessPoolExecutor(processes, mp_context=context) as pool:
                found = list(pool.map(work, cases))
        self.problems += chain.from_iterable(findings.problems for findings in found)
        return {findings.case_id: findings.slices for findings in found}

    def _cases(self) -> list[ReleasedCase]:
        sums: dict[str, dict[str, str]] = defaultdict(dict)
        for place, sha256 in self.sums.items():
            parts = place.split("/")
            if parts[0] in ("ct", "label") and len(parts) > 2:
                sums[parts[1]][place] = sha256
        states = defaultdict(dict)
        for row in self.tables["masks"]:
            states[row["case_id"]][row["organ"]] = row["state"]
        tumors = defaultdict(list)
        for row in self.tables["tumors"]:
            tumors[row["case_id"]].append(row)
        return [
            ReleasedCase(case_id, sums[case_id], states[case_id], tumors[case_id], self.definitions)
            for case_id in self.case_ids
        ]

    def check_counts(self, slices: Mapping[str, int]) -> None:
        """Count again, and compare with the tables of counts byte by byte."""
        sources = {row["case_id"]: row["source"] for row in self.tables["scans"] if row["kept"]}
        cases = [
            {"case_id": case_id, "source": sources.get(case_id, ""), "slices": count}
            for case_id, count in slices.items()
        ]
        with tempfile.TemporaryDirectory() as scratch:
            try:
                write_counts(Path(scratch), self.tables["tumors"], self.tables["masks"], cases)
            except TumorAtlasError as error:
                self.report("COUNTS", "counts", f"cannot be computed: {error.reason}")
                return
            for name in _COUNTS:
                path = self.folder / "counts" / f"{name}.csv"
                expected = (Path(scratch) / f"{name}.csv").read_bytes()
                if path.is_file() and path.read_bytes() != expected:
                    self.report("COUNTS", f"counts/{name}.csv", "is not what the tables give")
