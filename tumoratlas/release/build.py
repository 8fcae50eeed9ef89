"""The release: one folder with scans, masks, tables, a data card and the hash of every file."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.files import sha256_file, sync, to_json, write_text
from tumoratlas.core.runner import read_record
from tumoratlas.core.structures import structures, tumor_structures
from tumoratlas.core.tables import SCHEMAS, write_csv
from tumoratlas.ingest.sources import Source
from tumoratlas.measure.counts import count_sources, count_tumors
from tumoratlas.release.cases import CT, class_map, link_file
from tumoratlas.release.tables import Rows, released_tables, write_released

SUMS = "SHA256SUMS"
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


def build_release(
    target: Path,
    *,
    version: str,
    cases: Mapping[str, Path],
    tables: Mapping[str, Rows],
    sources: Sequence[Source],
    models: Sequence[Mapping[str, Any]],
    thresholds: Mapping[str, Mapping[str, Any]],
    definitions: Mapping[str, Any],
    card: Path,
) -> None:
    """Build the folder ``target``; an older one is replaced as a whole, at the end.

    Files of cases are second names (hard links) of the runner's, and their hashes come from
    its records, so that no scan is read. Equal inputs give equal bytes.

    Parameters
    ----------
    target
        Folder of the release; its parent holds releases of other versions.
    version
        Version of the dataset.
    cases
        Finished folders of the rule that calls `tumoratlas.release.cases.write_case`, by case.
    tables
        Rows of ``scans, masks, tumors, candidates, reviews, splits, excluded``.
    sources
        Sources of the scans.
    models
        Lines of the model registry in force (`register_model`).
    thresholds
        Chosen threshold per organ (`ThresholdChoice` as a mapping, with ``model_id``).
    definitions
        Configuration ``connectivity, minimum_volume_mm3, size_edges_mm, early_diameter_mm``.
    card
        Jinja template of ``README.md``.

    Raises
    ------
    ReleaseError
        ``NO_CASES``; ``PRIVATE_TEXT`` (`released_tables`).
    """
    if not cases:
        raise ReleaseError(
            "NO_CASES", target, "no case is finished", remedy="See the table of excluded scans"
        )
    building = target.with_name(f".{target.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    rows, sums = [], {}
    for case_id, folder in sorted(cases.items()):
        record = read_record(folder)
        rows.append(record["row"])
        for name, facts in record["outputs"].items():
            place = f"ct/{case_id}/{CT}" if name == CT else f"label/{case_id}/{name}"
            link_file(folder / name, building / place)
            sums[place] = facts["sha256"]
    released = released_tables(tables, cases)
    write_released(building / "tables", released)
    named = {scan["source"] for scan in released["crosswalk"]}
    counts = write_counts(building / "counts", released["tumors"], released["masks"], rows)
    _write_json(building / "class_map.json", class_map_facts())
    _write_json(building / "definitions.json", {"version": version, **definitions})
    model_rows = [_model_row(model, thresholds) for model in sorted(models, key=_organ)]
    write_csv(building / "models.csv", model_rows, MODEL_COLUMNS)
    write_text(
        building / "README.md",
        _render(
            card,
            version=version,
            cases=len(cases),
            total=counts["tumors_by_source"].iloc[-1],
            classes=class_map(),
            tumor_structures=tumor_structures(),
            sources=[s for s in sources if s.id in named],
            **definitions,
        ),
    )
    for path in building.rglob("*"):
        place = path.relative_to(building).as_posix()
        if path.is_file() and place not in sums:
            sums[place] = sha256_file(path)
    write_text(building / SUMS, "".join(f"{sums[place]}  {place}\n" for place in sorted(sums)))
    _replace(building, target)


def write_counts(folder: Path, tumors: Rows, masks: Rows, cases: Rows) -> dict[str, pd.DataFrame]:
    """Write ``tumors_by_size.csv`` and ``tumors_by_source.csv``; return both tables."""
    table = pd.DataFrame(tumors, columns=SCHEMAS["tumors"].names)
    states = pd.DataFrame(masks, columns=SCHEMAS["masks"].names)
    facts = pd.DataFrame(cases, columns=["case_id", "source", "slices"])
    counts = {
        "tumors_by_size": count_tumors(table),
        "tumors_by_source": count_sources(table, states, facts),
    }
    for name, counted in counts.items():
        write_csv(folder / f"{name}.csv", counted.to_dict("records"), list(counted.columns))
    return counts


def class_map_facts() -> dict[str, Any]:
    """Return what ``class_map.json`` holds."""
    return {
        "combined_labels": {str(index): name for index, name in class_map().items()},
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


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    # One line per key for people; `to_json` keeps its order by key.
    lines = [f"  {to_json(key)}: {to_json(part)}" for key, part in sorted(value.items())]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _render(template: Path, **facts: object) -> str:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown, from our own tables
    )
    return environment.from_string(template.read_text(encoding="utf-8")).render(facts)


def _replace(building: Path, target: Path) -> None:
    """Put the new folder in the old one's place; a kill in between leaves the old one beside."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(building, target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)
