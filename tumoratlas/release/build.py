"""The release: one folder with scans, masks, tables, documents and the hash of every file."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.files import read_json, sha256_file, sync, write_text
from tumoratlas.core.runner import read_record
from tumoratlas.core.structures import structures, tumor_structures
from tumoratlas.core.tables import csv_text
from tumoratlas.ingest.sources import Source
from tumoratlas.release.cases import class_map, link_file, tumor_class_map
from tumoratlas.release.counts.files import write_counts
from tumoratlas.release.diff.releases import changelog_text, diff_releases
from tumoratlas.release.documents import document_files, place_of
from tumoratlas.release.facts import ReleaseFacts, Rows
from tumoratlas.release.layouts.croissant import croissant_files
from tumoratlas.release.layouts.huggingface import huggingface_files
from tumoratlas.release.layouts.monai import monai_files
from tumoratlas.release.layouts.nnunet import nnunet_files
from tumoratlas.release.licences.decide import licence_files
from tumoratlas.release.tables import released_tables, write_released
from tumoratlas.release.texts import json_text
from tumoratlas.release.viewer import viewer_files

SUMS = "SHA256SUMS"
CHANGES = "CHANGELOG.md"
MODEL_COLUMNS = [
    "organ",
    "model_id",
    "plans_sha256",
    "fold_sha256",
    "threshold",
    "hit_rule",
    "target_sensitivity",
    "is_target_reached",
    "sensitivity",
    "sensitivity_low",
    "sensitivity_high",
    "lesions",
    "fp_per_scan",
]


# Each writes further files from what the release holds; the later may name the earlier.
PRODUCERS = (
    document_files,
    licence_files,
    nnunet_files,
    monai_files,
    viewer_files,
    huggingface_files,
    croissant_files,
)


def build_release(
    folder: Path,
    *,
    version: str,
    target: str,
    cases: Mapping[str, Path],
    tables: Mapping[str, Rows],
    sources: Sequence[Source],
    models: Sequence[Mapping[str, Any]],
    thresholds: Mapping[str, Mapping[str, Any]],
    definitions: Mapping[str, Any],
    resources: Path,
    segs: Mapping[str, Path] | None = None,
    previous: Path | None = None,
) -> None:
    """Build the release ``folder``; an older one is replaced as a whole, at the end.

    Files of cases are second names (hard links) of the runner's, and their hashes come from
    its records, so that no scan is read. Equal inputs give equal bytes.

    Parameters
    ----------
    folder
        Folder of the release; its parent holds releases of other versions.
    version
        Version of the dataset.
    target
        One of `tumoratlas.release.facts.TARGETS`.
    cases
        Finished folders of the rule that calls `tumoratlas.release.cases.write_case`, by case.
    tables
        Rows of ``scans, masks, tumors, candidates, reviews, splits, excluded, licences``.
    sources
        Sources of the scans.
    models
        Lines of the model registry in force (`register_model`).
    thresholds
        Chosen threshold per organ (`ThresholdChoice` as a mapping, with ``model_id``).
    definitions
        Configuration ``connectivity, minimum_volume_mm3, size_edges_mm, early_diameter_mm``.
    resources
        Folder of the templates.
    segs
        Finished folders of the rule that calls `tumoratlas.release.seg.write.write_seg`, by case.
    previous
        Release that the changelog goes on from.

    Raises
    ------
    ReleaseError
        ``NO_CASES``; ``PREVIOUS_TARGET``; ``PRIVATE_TEXT`` (`released_tables`).
    """
    rows = {case_id: read_record(path) for case_id, path in sorted(cases.items())}
    rows = {case_id: record for case_id, record in rows.items() if record["outputs"]}
    if not rows:
        raise ReleaseError(
            "NO_CASES",
            folder,
            f"no case is finished, or none may be in the target {target!r}",
            remedy="See the tables of excluded scans and of licences",
        )
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    sums = {}
    for case_id, record in rows.items():
        for name, facts in record["outputs"].items():
            place = place_of(case_id, name)
            link_file(cases[case_id] / name, building / place)
            sums[place] = facts["sha256"]
    for case_id, path in sorted((segs or {}).items()):
        if case_id in rows:
            for name, facts in read_record(path)["outputs"].items():
                place = f"seg/{case_id}{Path(name).suffix}"
                link_file(path / name, building / place)
                sums[place] = facts["sha256"]
    released = released_tables(tables, rows, target=target)
    case_rows = [record["row"] for record in rows.values()]
    write_released(building / "tables", released)
    write_counts(building / "counts", tables=released, cases=case_rows, definitions=definitions)
    for path in [*(building / "tables").iterdir(), *(building / "counts").iterdir()]:
        sums[path.relative_to(building).as_posix()] = sha256_file(path)
    named = {scan["source"] for scan in released["crosswalk"]}
    named |= {name for row in released["licences"] for name in row["sources"]}
    choices = [_model_row(model, thresholds) for model in sorted(models, key=_organ)]
    texts = {
        "class_map.json": json_text(class_map_facts()),
        "definitions.json": json_text({"version": version, "target": target, **definitions}),
        "models.csv": csv_text(choices, MODEL_COLUMNS),
    }
    facts = ReleaseFacts(
        version=version,
        target=target,
        cases=case_rows,
        tables=released,
        sources=[source for source in sources if source.id in named],
        definitions=definitions,
        sums=sums,
        resources=resources,
    )
    _write(building, texts, sums)
    for produce in PRODUCERS:
        _write(building, produce(facts), sums)
    _write_sums(building, sums)
    _write(building, {CHANGES: _changes(building, version, target, previous)}, sums)
    _write_sums(building, sums)
    _replace(building, folder)


def _write(building: Path, texts: Mapping[str, str], sums: dict[str, str]) -> None:
    for place, text in texts.items():
        write_text(building / place, text)
        sums[place] = sha256_file(building / place)


def _write_sums(building: Path, sums: Mapping[str, str]) -> None:
    write_text(building / SUMS, "".join(f"{sums[place]}  {place}\n" for place in sorted(sums)))


def _changes(building: Path, version: str, target: str, previous: Path | None) -> str:
    """Return the changelog: the previous release's, and before it what differs from that."""
    if previous is None:
        return f"# Changes\n\n## {version}\n\nFirst release.\n"
    told = read_json(previous / "definitions.json").get("target", "internal")
    if target not in ("internal", told):
        raise ReleaseError(
            "PREVIOUS_TARGET",
            previous,
            f"is of the target {told!r}, whose changes may not be told in {target!r}",
            remedy="Set `release.previous` to the earlier release of the same target",
        )
    path = previous / CHANGES
    earlier = path.read_text(encoding="utf-8") if path.exists() else ""
    earlier = earlier.removeprefix("# Changes\n")
    return f"# Changes\n\n{changelog_text(diff_releases(previous, building))}{earlier}"


def class_map_facts() -> dict[str, Any]:
    """Return what ``class_map.json`` holds."""
    return {
        "combined_labels": {str(index): name for index, name in class_map().items()},
        "tumor_labels": {str(value): name for value, name in tumor_class_map().items()},
        "tumors": {organ: row.name for organ, row in tumor_structures().items()},
        "binary_only": [row.name for row in structures().values() if row.index not in class_map()],
    }


def _organ(model: Mapping[str, Any]) -> str:
    return model["organ"]


def _model_row(
    model: Mapping[str, Any], thresholds: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    row = {key: model[key] for key in ("organ", "model_id", "plans_sha256")}
    row["fold_sha256"] = [fold["sha256"] for fold in model["folds"]]
    choice = thresholds.get(model["organ"], {})
    if choice.get("model_id") == model["model_id"]:
        row |= {key: choice[key] for key in MODEL_COLUMNS if key in choice}
        row |= {"hit_rule": choice["rule"], "target_sensitivity": choice["target"]}
    return row


def _replace(building: Path, folder: Path) -> None:
    """Put the new folder in the old one's place; a kill in between leaves the old one beside."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(building, folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
