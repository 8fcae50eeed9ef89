"""The check of a release's files: which there are, their bytes, and what their texts say."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tumoratlas.core.files import sha256_file
from tumoratlas.release.build import SUMS
from tumoratlas.release.counts.files import COUNTS
from tumoratlas.release.privacy.search import find_phi
from tumoratlas.release.tables import LOCAL_PATH, ORDER
from tumoratlas.release.verify.problems import Problems

VOXEL_HASHES = "voxel_hashes.csv"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([^\x00-\x1f\x7f]+)")
_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d.])")
_TEXT_SUFFIXES = (".csv", ".json", ".md", ".cff", ".svg")
NEEDED = (
    *("README.md", "CHANGELOG.md", "CITATION.cff", "datasheet.md", "croissant.json"),
    *("KNOWN_ISSUES.csv", "withdrawn.csv", "licences.csv", VOXEL_HASHES),
    *("class_map.json", "definitions.json", "models.csv"),
    *(f"counts/{name}" for name in COUNTS),
    *(f"tables/{name}.{suffix}" for name in ORDER for suffix in ("parquet", "csv")),
)


def is_volume(place: str) -> bool:
    """Return whether a path below the release is a volume of a case."""
    parts = place.split("/")
    return parts[0] in ("ct", "label") and len(parts) > 2 and place.endswith(".nii.gz")


class Files:
    """The files of a release, as listed and as they are.

    Attributes
    ----------
    folder
        The release.
    sums
        Listed SHA-256 by path below it.
    found
        Paths of the files that are there, `SUMS` among them.
    intact
        Those that are no volumes of cases and whose bytes are the listed ones.
    """

    def __init__(self, folder: Path, problems: Problems) -> None:
        self.folder = folder
        self.problems = problems
        self.found = set(self._walk())
        self.sums = self._read_sums()
        self.intact: set[str] = set()

    @property
    def case_ids(self) -> list[str]:
        """Names of the folders of cases that files are listed in, sorted."""
        places = [place.split("/") for place in self.sums]
        return sorted({p[1] for p in places if p[0] in ("ct", "label") and len(p) > 2})

    def _walk(self) -> Iterator[str]:
        with self.problems.guard("folder"):
            for path in self.folder.rglob("*"):
                place = path.relative_to(self.folder).as_posix()
                if path.is_symlink():
                    self.problems.add("LINK", place, "is a symbolic link")
                elif path.is_file():
                    yield place
                elif not path.is_dir():
                    self.problems.add("LINK", place, "is no regular file")

    def _read_sums(self) -> dict[str, str]:
        sums: dict[str, str] = {}
        try:
            # Not by lines of text: those end at signs that a damaged line feed may have become.
            text = (self.folder / SUMS).read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.problems.add("SUMS", SUMS, f"cannot be read: {type(error).__name__}")
            return sums
        *lines, rest = text.split("\n")
        if rest or not lines:
            self.problems.add("SUMS", SUMS, "is cut: its last line has no end")
        for number, line in enumerate(lines, 1):
            match = _SUM_LINE.fullmatch(line)
            if not match or not {"", ".", ".."}.isdisjoint(match[2].split("/")):
                reason = "is not a hash and a path of this folder"
                self.problems.add("SUMS", f"{SUMS} line {number}", reason)
            elif match[2] in sums:
                self.problems.add("SUMS", f"{SUMS} line {number}", f"lists {match[2]} again")
            else:
                sums[match[2]] = match[1]
        if list(sums) != sorted(sums):
            self.problems.add("SUMS", SUMS, "is not sorted by path")
        return sums

    def check_bytes(self, tell: Callable[[str], None]) -> None:
        """Check that the listed files, and only they, are there; hash all but volumes."""
        for place in sorted(self.found - set(self.sums) - {SUMS}):
            self.problems.add("NOT_LISTED", place, f"is not in {SUMS}")
        for place in sorted(set(NEEDED) - set(self.sums)):
            self.problems.add("NOT_LISTED", place, f"the release needs this file, {SUMS} lacks it")
        for place in sorted(set(self.sums) - self.found):
            self.problems.add("MISSING", place, f"is in {SUMS} and not there")
        for place in sorted(set(self.sums) & self.found):
            if not is_volume(place):
                with self.problems.guard(place):
                    if sha256_file(self.folder / place) == self.sums[place]:
                        self.intact.add(place)
                    else:
                        self.problems.add("SHA256", place, f"its bytes are not those of {SUMS}")
                tell(place)

    def check_texts(self, public_words: Iterable[str]) -> None:
        """Look for local paths, private words, and cells that a spreadsheet would run."""
        for place in sorted(self.intact):
            with self.problems.guard(place):
                self._check_text(place)
        with self.problems.guard("private words"):
            for hit in find_phi(self.folder, (), allow=public_words):
                self.problems.add("PHI", hit.place, f"holds what looks like a {hit.kind}")

    def _check_text(self, place: str) -> None:
        suffix = Path(place).suffix
        if suffix not in _TEXT_SUFFIXES:
            return
        text = (self.folder / place).read_bytes().decode("utf-8")
        if match := LOCAL_PATH.search(text):
            self.problems.add("LOCAL_PATH", place, f"holds {match[0][:80]!r}")
        if suffix == ".json":
            self.read_json(place)
        elif suffix == ".csv":
            for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), 1):
                for cell in row:
                    if _FORMULA.match(cell):
                        told = f"row {number} holds a cell that runs: {cell[:40]!r}"
                        self.problems.add("FORMULA", place, told)

    def read_json(self, place: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return the value in a JSON file whose bytes are the listed ones, else None."""
        if place not in self.intact:
            return None
        try:
            return json.loads((self.folder / place).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            self.problems.add("JSON", place, f"is no JSON: {type(error).__name__}")
            return None

    def read_csv(self, place: str, columns: list[str]) -> list[dict[str, str]] | None:
        """Return the rows of a CSV file with just these columns, or None and a problem."""
        if place not in self.intact:
            return None
        try:
            text = (self.folder / place).read_bytes().decode("utf-8")
            head, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        except (OSError, ValueError, csv.Error) as error:
            self.problems.add("TABLE", place, f"is no table: {type(error).__name__}")
            return None
        if head != columns or any(len(row) != len(head) for row in rows):
            self.problems.add("TABLE", place, f"does not have the columns {', '.join(columns)}")
            return None
        return [dict(zip(head, row, strict=True)) for row in rows]
