"""Find the scans of a source, and say what was found and not understood."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import InputError
from tumoratlas.ingest.sources import LabelLayout, Layout, Source

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".dcm", ".png", ".nrrd", ".mha", ".mhd", ".img", ".ima")
_RULE = "list_scans"


def list_scans(source: Source, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """List the scans below a source's folder.

    Returns
    -------
    ``scans``: one entry per scan with ``scan_id, source, source_case, patient_key, licence,
    tumor_free_means, format, image_path`` (file, or folder of a series), ``pattern`` (of the
    series' files), ``labels`` and ``stamp`` (count, bytes and latest change of its files, so
    that a replaced file is seen); ``excluded``: one row per file or series left out.

    Raises
    ------
    InputError
        ``SOURCE_EMPTY`` where no scan is found, ``SCAN_ID_TWICE`` where two scans have one name.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    names = {path: path.relative_to(folder).as_posix() for path in files}
    excluded = {path: row for path in files if (row := _exclude_by_name(source, names[path]))}
    scans, taken = _find_scans(source, folder, names, excluded)
    if not scans:
        raise InputError(
            "SOURCE_EMPTY",
            folder,
            f"no scan of {source.id} lies below this folder",
            remedy="Expected " + " or ".join(layout.images for layout in source.layouts),
        )
    left = [path for path in files if path not in taken and path not in excluded]
    return {
        "scans": sorted(scans, key=lambda scan: scan["scan_id"]),
        "excluded": [
            *excluded.values(),
            *_not_understood(source, names, left),
            *_not_followed(source, names),
        ],
    }


def _exclude_by_name(source: Source, name: str) -> dict[str, str] | None:
    if Path(name).name.startswith("._"):
        return _row(source, name, "APPLE_DOUBLE", "a macOS resource fork, not an image", "None")
    if not name.lower().endswith(IMAGE_SUFFIXES):
        return None
    for rule in source.excluded:
        if re.search(rule["pattern"], f"/{name}"):
            return _row(source, name, rule["code"], rule["reason"], "None: left out by design")
    return None


def _row(source: Source, name: str, code: str, reason: str, remedy: str) -> dict[str, str]:
    row = {"id": f"{source.id}/{name}", "rule": _RULE, "code": code, "reason": reason}
    return row | {"evidence": "", "remedy": remedy}


def _not_followed(source: Source, names: dict[Path, str]) -> list[dict[str, str]]:
    """Return one row per linked folder: the search does not enter it, since it may be a circle."""
    return [
        _row(source, names[path], "LINK_NOT_FOLLOWED", "a link to a folder is not entered",
             "Copy or mount the folder in place of the link")
        for path in names
        if path.is_symlink() and path.is_dir()
    ]  # fmt: skip


def _find_scans(
    source: Source, folder: Path, names: dict[Path, str], excluded: dict[Path, dict[str, str]]
) -> tuple[list[dict[str, Any]], set[Path]]:
    scans: dict[str, dict[str, Any]] = {}
    taken: set[Path] = set()
    for layout in source.layouts:
        found: dict[str, list[Path]] = {}
        patients: dict[str, str] = {}
        for path in sorted(folder.glob(layout.images)):
            match = layout.case.search(f"/{names.get(path)}")
            if path not in excluded and path not in taken and match:
                found.setdefault(match["case"], []).append(path)
                patients[match["case"]] = match.groupdict().get("patient") or match["case"]
        for case, images in found.items():
            if layout.format == "nifti" and len(images) > 1:
                _refuse_twice(source, case, images)
            scan = _scan(source, layout, case, patients[case], images)
            if scan["scan_id"] in scans:
                _refuse_twice(source, case, [Path(scans[scan["scan_id"]]["image_path"]), *images])
            scans[scan["scan_id"]] = scan
            taken |= {*images, *(Path(p) for label in scan["labels"] for p in label["paths"])}
    return list(scans.values()), taken


def _refuse_twice(source: Source, case: str, images: list[Path]) -> None:
    raise InputError(
        "SCAN_ID_TWICE",
        images[-1],
        f"{source.id} has two scans named {case}",
        evidence=str(images[0]),
        remedy="Keep one of the two files in the source's folder",
    )


def _scan(
    source: Source, layout: Layout, case: str, patient: str, images: list[Path]
) -> dict[str, Any]:
    labels = [_label(label, images[0].parent, case) for label in layout.labels]
    labels = [label for label in labels if label["paths"]]
    files = [*images, *(Path(path) for label in labels for path in label["paths"])]
    return {
        "scan_id": f"{source.id}_{re.sub(r'[^A-Za-z0-9-]', '_', case)}",
        "source": source.id,
        "source_case": case,
        "patient_key": f"{source.id}/{patient}",
        "licence": source.licence,
        "format": layout.format,
        "tumor_free_means": source.tumor_free_means,
        "image_path": str(images[0] if layout.format == "nifti" else images[0].parent),
        "pattern": Path(layout.images).name,
        "labels": labels,
        "false_spacing": case in source.false_spacing_cases,
        "stamp": _stamp(files),
    }


def _label(label: LabelLayout, image_folder: Path, case: str) -> dict[str, Any]:
    pattern = label.path.format(folder="", case=case).lstrip("/")
    start = image_folder
    while pattern.startswith("../"):
        start, pattern = start.parent, pattern[3:]
    paths = sorted(p for p in start.glob(pattern) if not p.name.startswith("._"))
    return {"format": label.format, "paths": [str(p) for p in paths], "values": dict(label.values)}


def _stamp(files: list[Path]) -> list[int]:
    """Return count, total bytes and latest change (ns); a dangling link counts as empty."""
    facts = [path.stat() for path in files if path.exists()]
    latest = max((f.st_mtime_ns for f in facts), default=0)
    return [len(files), sum(f.st_size for f in facts), latest]


def _not_understood(
    source: Source, names: dict[Path, str], left: Iterable[Path]
) -> list[dict[str, str]]:
    """Return one row per folder and suffix of image files that fit no layout."""
    groups: dict[tuple[str, str], list[str]] = {}
    for path in left:
        name = names[path]
        companion = any(pattern.search(f"/{name}") for pattern in source.companion_patterns)
        if name.lower().endswith(IMAGE_SUFFIXES) and not companion and not path.is_dir():
            groups.setdefault((str(Path(name).parent), path.suffix), []).append(name)
    remedy = "Compare with the layouts in resources/sources; rename, remove or describe the files"
    return [
        _row(source, found[0], "NOT_UNDERSTOOD", f"{len(found)} files fit no layout", remedy)
        for _, found in sorted(groups.items())
    ]
