"""Find the scans of a source, and say what was found and not understood."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import InputError
from tumoratlas.images.checks import CHECKS
from tumoratlas.images.dicom_series import split_series
from tumoratlas.ingest.pseudonyms import pseudonym
from tumoratlas.ingest.sources import INTERNAL, PLACEHOLDER, LabelLayout, Layout, Source
from tumoratlas.ingest.tree import FileTree, glob_regex, join, split_glob

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".dcm", ".png", ".nrrd", ".mha", ".mhd", ".img", ".ima")
_RULE = "list_scans"


def list_scans(
    source: Source, folder: Path, key: bytes | None = None
) -> dict[str, list[dict[str, Any]]]:
    """List the scans below a source's folder, in one pass over its files.

    Parameters
    ----------
    source
        Its description.
    folder
        Where it lies.
    key
        Key of the pseudonyms (`tumoratlas.ingest.pseudonyms`) that stand for the names of cases
        and patients of a source with the licence ``internal``.

    Returns
    -------
    ``scans``: one entry per scan, by id:

    * ``scan_id, source, source_case, patient_key, role, reserved`` (name of the test set that it
      belongs to, or empty), ``licence, tumor_free_means, format``;
    * ``image_path`` (file, or folder of a series), ``source_file`` (the same below ``folder``,
      empty for internal sources), ``pattern`` (of the series' files) and
      ``files`` (paths below ``image_path``; empty where the pattern tells them);
    * ``labels``: ``format, paths, values, partial, header, licence`` each;
    * ``repairs`` (``name`` and parameter each), ``suspects`` (codes), ``false_spacing``;
    * ``stamp``: count, bytes and latest change of its files, so that a replaced file is seen.

    ``excluded``: one row per file, series or case left out. Rows of internal sources hold no path
    and no name.

    Raises
    ------
    InputError
        ``SOURCE_EMPTY`` where no scan is found, ``SCAN_ID_TWICE`` where two scans have one name,
        ``PSEUDONYM_KEY`` for an internal source without a key, ``UNREADABLE`` folders.
    """
    tree = FileTree.read(folder)
    if source.licence == INTERNAL and key is None and tree.files:
        raise InputError(
            "PSEUDONYM_KEY",
            source.id,
            "names of an internal source need the key of their pseudonyms",
            remedy="Make a key once, and keep it: python -m tumoratlas key <file>",
        )
    search = _Search(source, tree, key or b"")
    search.exclude_by_name()
    found = search.find_images()
    if not found:
        raise InputError(
            "SOURCE_EMPTY",
            folder,
            f"no scan of {source.id} lies below this folder",
            remedy="Expected " + " or ".join(layout.images for layout in source.layouts),
        )
    scans: dict[str, dict[str, Any]] = {}
    for images in found.values():
        for series in images.series:
            scan = search.scan_of(images, series)
            if (scan_id := scan["scan_id"]) in scans:
                search.refuse_twice(images, scans[scan_id]["image_path"])
            scans[scan_id] = scan
    search.tell_leftovers(found)
    return {
        "scans": [scans[scan_id] for scan_id in sorted(scans)],
        "excluded": sorted(search.rows, key=lambda row: (row["id"], row["code"])),
    }


@dataclass(frozen=True)
class _Series:
    """The files of one scan, below the source's folder."""

    key: str
    files: list[str]


@dataclass(frozen=True)
class _Images:
    """What lies under the name of one case."""

    layout: Layout
    case: str
    groups: dict[str, str]
    files: list[str]
    series: list[_Series] = field(default_factory=list)


@dataclass
class _Search:
    """One source's files: what is taken, what is left out and why.

    Paths are those below the source's folder.
    """

    source: Source
    tree: FileTree
    key: bytes
    taken: set[str] = field(default_factory=set)
    by_name: set[str] = field(default_factory=set)
    rows: list[dict[str, str]] = field(default_factory=list)

    # Files

    def exclude_by_name(self) -> None:
        """Leave out resource forks and files of the source's rules."""
        for folder, names in self.tree.files.items():
            for name in names:
                path = join(folder, name)
                if name.startswith("._"):
                    self._leave(path, "APPLE_DOUBLE", "a macOS resource fork, not an image", "None")
                elif self.source.excluded and name.lower().endswith(IMAGE_SUFFIXES):
                    for rule in self.source.excluded:
                        if rule.pattern.search(f"/{path}"):
                            self._leave(path, rule.code, rule.reason, "None: left out by design")
                            break

    def _leave(self, path: str, code: str, reason: str, remedy: str) -> None:
        self.by_name.add(path)
        self._row(self._file_id(path), code, reason, remedy)

    def _file_id(self, path: str) -> str:
        is_internal = self.source.licence == INTERNAL
        return f"{self.source.id}/{pseudonym(self.key, path) if is_internal else path}"

    def _row(self, row_id: str, code: str, reason: str, remedy: str, evidence: str = "") -> None:
        row = {"id": row_id, "rule": _RULE, "code": code, "reason": reason}
        self.rows.append(row | {"evidence": evidence, "remedy": remedy})

    def find_images(self) -> dict[str, _Images]:
        """Return the image files by case; the first layout that matches a file takes it."""
        found: dict[str, _Images] = {}
        for layout in self.source.layouts:
            for images in self._images_of(layout):
                if images.case in found:
                    self.refuse_twice(images, self._absolute(found[images.case].files[0]))
                found[images.case] = images
                self.taken.update(images.files)
                if layout.split_series:
                    self._split(images)
                else:
                    images.series.append(_Series("", images.files))
        return found

    def _images_of(self, layout: Layout) -> Iterable[_Images]:
        place, pattern = split_glob(layout.images)
        in_folder = re.compile(glob_regex(f"{place}/" if place else ""))
        named = re.compile(glob_regex(pattern))
        found: dict[str, _Images] = {}
        for folder, names in self.tree.files.items():
            if not in_folder.fullmatch(join(folder, "")):
                continue
            paths = [join(folder, name) for name in names if named.fullmatch(name)]
            paths = [path for path in paths if path not in self.taken and path not in self.by_name]
            # All files of a series have one case, and there may be a million of them.
            groups = [paths] if layout.format == "dicom" and paths else [[path] for path in paths]
            for files in groups:
                match = layout.case.search(f"/{files[0]}")
                if not match:
                    continue
                texts = {name: text or "" for name, text in match.groupdict().items()}
                images = _Images(layout, texts["case"], texts, files)
                if images.case not in found:
                    found[images.case] = images
                elif layout.split_series:
                    found[images.case].files.extend(files)
                else:
                    self.refuse_twice(images, self._absolute(found[images.case].files[0]))
        return found.values()

    def refuse_twice(self, images: _Images, other: str) -> None:
        """Refuse a source in which two scans have one name."""
        raise InputError(
            "SCAN_ID_TWICE",
            self._absolute(images.files[0]),
            f"{self.source.id} has two scans named {images.case}",
            evidence=other,
            remedy="Keep one of the two in the source's folder, or rename one",
        )

    def _absolute(self, path: str) -> str:
        return str(self.tree.root / path)

    def _split(self, images: _Images) -> None:
        root = self.tree.root
        for one in split_series([root / path for path in images.files]):
            if one.refusal is None:
                files = [path.relative_to(root).as_posix() for path in one.files]
                images.series.append(_Series(one.key, files))
                continue
            code, reason = one.refusal
            check = CHECKS.get(code)
            if self.source.licence == INTERNAL:
                # The reason may hold a description that somebody typed, or a path.
                reason = check.meaning if check else "the series is no scan"
            scan_id, _ = self._names(images.case, one.key)
            remedy = check.remedy if check else "None"
            self._row(scan_id, code, reason, remedy, f"{len(one.files)} files")

    # Scans

    def scan_of(self, images: _Images, series: _Series) -> dict[str, Any]:
        """Return the listed scan of a series or file."""
        source, layout, case = self.source, images.layout, images.case
        series_key = series.key if len(images.series) > 1 else ""
        scan_id, source_case = self._names(case, series_key)
        _, patient = self._names(images.groups.get("patient") or case, "")
        folders = {split_glob(path)[0] for path in series.files}
        folder = os.path.commonpath(folders)
        path, files = series.files[0], []
        if layout.format == "dicom":
            path = folder
            if series_key or len(folders) > 1 or len(series.files) < len(images.files):
                files = [file.removeprefix(join(folder, "")) for file in series.files]
        labels = [self._label(label, images, folder, series_key) for label in layout.labels]
        labels = [label for label in labels if label["paths"]]
        used = [self._absolute(file) for file in series.files]
        used += [file for label in labels for file in label["paths"]]
        return {
            "scan_id": scan_id,
            "source": source.id,
            "source_case": source_case,
            "patient_key": f"{source.id}/{patient}",
            "role": source.role,
            "reserved": source.reserved_as(case, layout),
            "licence": source.licence,
            "tumor_free_means": source.tumor_free_means,
            "format": layout.format,
            "image_path": self._absolute(path),
            "source_file": "" if source.licence == INTERNAL else path,
            "pattern": split_glob(layout.images)[1],
            "files": files,
            "labels": labels,
            "repairs": source.repairs_of(case),
            "suspects": source.suspects_of(case),
            "false_spacing": case in source.false_spacing_cases,
            "stamp": _stamp(used),
        }

    def _names(self, case: str, series: str) -> tuple[str, str]:
        """Return scan id and shown name of a case."""
        name = pseudonym(self.key, case) if self.source.licence == INTERNAL else case
        name += f"_{series}" if series else ""
        return f"{self.source.id}_{re.sub(r'[^A-Za-z0-9-]', '_', name)}", name

    def _label(
        self, label: LabelLayout, images: _Images, folder: str, series: str
    ) -> dict[str, Any]:
        """Return the files that the first path finds; those of later paths are replaced."""
        chosen: list[str] = []
        texts = {**images.groups, "series": series}
        for path in label.path:
            # Masks beside several series do not say which of them they belong to.
            if (series != "") != ("{series}" in path):
                continue
            start = folder if path.startswith("{folder}/") else ""
            pattern = path.removeprefix("{folder}/")
            while pattern.startswith("../"):
                start, pattern = split_glob(start)[0], pattern[3:]
            for name, text in texts.items():
                pattern = pattern.replace(f"{{{name}}}", _literal(text))
            found = [
                file
                for file in self.tree.find(join(_literal(start), pattern))
                if file not in self.by_name and _shows_structure(label, file)
            ]
            self.taken.update(found)
            chosen = chosen or found
        return {
            "format": label.format,
            "paths": [self._absolute(path) for path in chosen],
            "values": {value: list(names) for value, names in label.values.items()},
            "partial": label.partial,
            "header": label.header,
            "licence": label.licence or self.source.licence,
        }

    # What is left

    def tell_leftovers(self, found: dict[str, _Images]) -> None:
        """Leave out labels without an image, files that fit no layout, and linked folders."""
        patterns = [
            (layout, label, *_label_pattern(layout, path))
            for layout in self.source.layouts
            for label in layout.labels
            for path in label.path
        ]
        lost: dict[tuple[str, str], list[str]] = {}
        strange: dict[tuple[str, str], list[str]] = {}
        for folder, names in self.tree.files.items():
            for path in (join(folder, name) for name in names):
                if path in self.taken or path in self.by_name:
                    continue
                if any(pattern.search(f"/{path}") for pattern in self.source.companions):
                    continue
                case = _case_of_label(patterns, path)
                count = len(found[case].series) if case in found else 0
                if case is not None and count != 1:
                    code = "LABEL_SERIES" if count else "IMAGE_MISSING"
                    lost.setdefault((case, code), []).append(path)
                elif path.lower().endswith(IMAGE_SUFFIXES):
                    strange.setdefault((folder, Path(path).suffix), []).append(path)
        for (case, code), paths in lost.items():
            reason, remedy = _LOST[code]
            scan_id, name = self._names(case, "")
            is_internal = self.source.licence == INTERNAL
            row_id = scan_id if is_internal else self._file_id(paths[0])
            self._row(row_id, code, f"{name}: {reason}", remedy, f"{len(paths)} files")
        remedy = "Compare with the layouts in resources/sources; rename, remove or describe them"
        for paths in strange.values():
            reason = f"{len(paths)} files fit no layout"
            self._row(self._file_id(paths[0]), "NOT_UNDERSTOOD", reason, remedy)
        for path in self.tree.linked_folders:
            self._row(
                self._file_id(path),
                "LINK_NOT_FOLLOWED",
                "a link to a folder is not entered",
                "Copy or mount the folder in place of the link",
            )


_LOST = {
    "IMAGE_MISSING": (
        "label files lie there without a readable image",
        "Download the image; until then the labels are not used",
    ),
    "LABEL_SERIES": (
        "label files do not say to which of the case's series they belong",
        "Put them into a folder named after the series (s3), see the source's description",
    ),
}


def _literal(text: str) -> str:
    """Return a glob for a text that may hold signs of a glob."""
    return re.sub(r"[*{}]", "?", text)


def _shows_structure(label: LabelLayout, path: str) -> bool:
    """Return whether a mask is of use: where folders name structures, one of the described."""
    if label.format != "dicom_masks":
        return True
    structure = path.rpartition("/")[0].rpartition("/")[2]
    return any(re.fullmatch(value, structure) for value in label.values)


def _label_pattern(layout: Layout, path: str) -> tuple[re.Pattern[str], str]:
    """Return the pattern of a label's path, and what leads from its group ``above`` to the image.

    The group ``case`` is there if the path tells the case.
    """
    above: list[str] = []
    place, image = split_glob(layout.images)
    rest = path.removeprefix("{folder}/")
    if path.startswith("{folder}/"):
        above = place.split("/") if place else []
        while rest.startswith("../"):
            if above and above[-1] != "**":
                image = join(above.pop(), image)
            rest = rest[3:]
    regex = glob_regex("".join(f"{part}/" for part in above))
    regex, has_case = f"(?P<above>{regex})", False
    for n, part in enumerate(PLACEHOLDER.split(rest)):
        if n % 2 == 0:
            regex += glob_regex(part)
        elif part != "case":
            regex += "[^/]+?"
        else:
            regex += "(?P=case)" if has_case else "(?P<case>[^/]+?)"
            has_case = True
    return re.compile(regex), image


def _case_of_label(
    patterns: Iterable[tuple[Layout, LabelLayout, re.Pattern[str], str]], path: str
) -> str | None:
    """Return the case that a label file belongs to by its name, or None if it is no label."""
    for layout, label, pattern, image in patterns:
        match = pattern.fullmatch(path)
        if match and _shows_structure(label, path):
            if "case" in pattern.groupindex:
                return match["case"]
            # The image's path, as it would be, tells the case.
            named = layout.case.search(f"/{match['above']}{image}")
            if named:
                return named["case"]
    return None


def _stamp(paths: Iterable[str]) -> list[int]:
    """Return count, total bytes and latest change (ns); a dangling link counts as empty."""
    count = total = latest = 0
    for path in paths:
        count += 1
        try:
            facts = os.stat(path)
        except OSError:
            continue
        total += facts.st_size
        latest = max(latest, facts.st_mtime_ns)
    return [count, total, latest]
