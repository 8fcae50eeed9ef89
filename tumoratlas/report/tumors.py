"""The contact sheet: tumors of every organ and size class, outlined (Figure 9 of the paper)."""

import base64
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tumoratlas.core.files import sha256_json, write_text
from tumoratlas.core.structures import tumor_structures
from tumoratlas.core.tables import read_table
from tumoratlas.images.nifti import read_nifti
from tumoratlas.measure.counts import headline_tumors
from tumoratlas.measure.instances import SIZE_CLASSES
from tumoratlas.measure.pooled import UNASSIGNED
from tumoratlas.report.page import render_page
from tumoratlas.report.pictures import HIGH_HU, LOW_HU, tumor_picture

SHOWN = 4
_MOST_VOXELS = 2**31

Row = Mapping[str, Any]


def write_contact_sheet(path: Path, *, release: Path, seed: int, template: Path) -> None:
    """Write the contact sheet of a release; equal inputs give equal bytes.

    Parameters
    ----------
    path
        HTML file to write.
    release
        Folder of the release.
    seed
        Which tumors of a class are shown; the choice of one class depends on no other.
    template
        Jinja template of the page.
    """
    tumors = headline_tumors(read_table(release / "tables/tumors.parquet")).to_dict("records")
    classes: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in tumors:
        classes[row["organ"], row["size_class"]].append(row)
    shown = list(tumor_structures())
    shown += [UNASSIGNED] if any(organ == UNASSIGNED for organ, _ in classes) else []
    chosen = {
        (organ, name): choose_tumors(classes[organ, name], seed)
        for organ in shown
        for name in SIZE_CLASSES
    }
    pictures = _pictures(release, [row for rows in chosen.values() for row in rows])
    definitions = json.loads((release / "definitions.json").read_text(encoding="utf-8"))
    organs = [
        {
            "name": organ,
            "classes": [
                {
                    "name": name,
                    "count": len(classes[organ, name]),
                    "tumors": [
                        {**row, "map": _map_name(row), "picture": pictures.get(row["tumor_id"])}
                        for row in chosen[organ, name]
                    ],
                }
                for name in SIZE_CLASSES
            ],
        }
        for organ in shown
    ]
    values = {
        "definitions": definitions,
        "organs": organs,
        "has_pictures": bool(pictures),
        "shown": SHOWN,
        "window": (LOW_HU, HIGH_HU),
    }
    write_text(path, render_page(template, values))


def choose_tumors(rows: Sequence[Row], seed: int) -> list[Row]:
    """Return at most `SHOWN` tumors, of different cases as long as there are any.

    The order is a hash of seed and tumor, so that another tumor's coming moves none.
    """
    order = sorted(rows, key=lambda row: sha256_json([seed, row["case_id"], row["tumor_id"]]))
    first: dict[str, Row] = {}
    for row in order:
        first.setdefault(row["case_id"], row)
    rest = [row for row in order if first[row["case_id"]] is not row]
    return [*first.values(), *rest][:SHOWN]


def _pictures(release: Path, tumors: Sequence[Row]) -> dict[str, str]:
    """Return the picture of each tumor whose image is released, as a data address."""
    by_case: dict[str, list[Row]] = defaultdict(list)
    for row in tumors:
        by_case[row["case_id"]].append(row)
    pictures = {}
    for case_id, rows in sorted(by_case.items()):
        path = release / "ct" / case_id / "ct.nii.gz"
        if not path.is_file():
            continue
        ct = read_nifti(path, max_voxels=_MOST_VOXELS)
        for name in sorted({_map_name(row) for row in rows}):
            place = release / "label" / case_id / "instances" / f"{name}.nii.gz"
            instances = read_nifti(place, max_voxels=_MOST_VOXELS).array
            for row in (row for row in rows if _map_name(row) == name):
                png = tumor_picture(ct.array, instances, row["number"], tuple(row["bbox"]), ct.grid)
                text = base64.b64encode(png).decode("ascii")
                pictures[row["tumor_id"]] = f"data:image/png;base64,{text}"
    return pictures


def _map_name(tumor: Row) -> str:
    return "pooled" if tumor["lesion_kind"] == "lesion" else tumor["organ"]
