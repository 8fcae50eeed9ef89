"""The offline triage page: one HTML file per batch in which a radiologist reads candidates.

The page holds what it shows: crops of the CT around each candidate, or whole scans. Every volume
is a NIfTI file, gzipped and in base64, in a script tag that the browser does not run; only the
volume that is looked at is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from tumoratlas.core.files import replacing, sha256_bytes, sha256_json, to_json
from tumoratlas.core.structures import RESOURCES
from tumoratlas.images.components import label_statistics
from tumoratlas.images.grid import Grid
from tumoratlas.review.packets.packed import PackedVolumes, cropped, widened
from tumoratlas.review.plan.assignments import KINDS

ROLES = ("senior", "junior")
TOOL = "triage page 1"
# What is cut out around a candidate's box, along (x, y, z): enough to know the neighbourhood.
MARGIN_MM = (50.0, 50.0, 30.0)
# Bits of the map of outlines.
THIS, OTHER, ORGAN = 1, 2, 4

NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"


@dataclass(frozen=True)
class TriageCase:
    """A case's organ in a triage page.

    Attributes
    ----------
    case_id, organ
        What it is about.
    ct
        int16 HU (z, y, x) on ``grid``: the native grid, or for kind ``full`` the model grid.
    grid
        Where the voxels lie, of axes near the patient's.
    candidates
        uint16 (z, y, x) on ``grid``, 0 or a candidate's number.
    rows
        One mapping per candidate with ``candidate_id``, ``number``, ``volume_mm3``,
        ``radius_mm`` and ``max_p``; a candidate that is lost on the model grid may be missing
        in ``candidates`` for kind ``full``.
    organ_mask
        bool (z, y, x) on ``grid``, or None where the organ is unknown.
    base_sha256
        Hash of the candidate map on the native grid, which returned decisions carry.
    rank
        Place of the case in the batch: lower is read first.
    """

    case_id: str
    organ: str
    ct: NDArray[np.int16]
    grid: Grid
    candidates: NDArray[np.uint16]
    rows: Sequence[Mapping[str, Any]]
    organ_mask: NDArray[np.bool_] | None
    base_sha256: str
    rank: int


def write_triage_page(
    path: Path,
    *,
    batch: str,
    kind: str,
    reviewer_id: str,
    role: str,
    cases: Iterable[TriageCase],
) -> None:
    """Write the page of one batch; equal cases give equal bytes.

    Parameters
    ----------
    path
        HTML file to write.
    batch, reviewer_id, role
        The batch, its reader, and whether the reader is ``senior`` or ``junior``.
    kind
        ``candidates`` and ``adjudicate`` show each candidate in a crop at native resolution,
        ``full`` whole scans, to look for tumors that are no candidates.
    cases
        The batch's cases and organs, taken one after the other: only one is held in memory.
        The page orders them by rank, case and organ.

    Raises
    ------
    ValueError
        A kind, role or array that does not fit, or for a crop a candidate without voxels.
    """
    if kind not in KINDS or role not in ROLES:
        raise ValueError(f"{batch}: kind {kind!r} or role {role!r} is none of {KINDS}, {ROLES}")
    niivue = _read("vendor/niivue/niivue.umd.js")
    if sha256_bytes(niivue.encode()) != NIIVUE_SHA256:
        raise ValueError("resources/vendor/niivue/niivue.umd.js is not the file of its README")
    volumes = PackedVolumes()
    organs: list[dict[str, Any]] = []

    def blobs() -> Iterator[dict[str, str]]:
        """Yield the packed volumes as the template writes them; ``organs`` fills up."""
        for case in cases:
            _check(case)
            organs.append(_whole_scan(case, volumes) if kind == "full" else _crops(case, volumes))
            yield from volumes.take()

    def content() -> Markup:
        """Return all that the page knows besides volumes; it comes last."""
        facts: dict[str, Any] = {
            "batch": batch,
            "kind": kind,
            "reviewer_id": reviewer_id,
            "role": role,
            "tool": TOOL,
            "organs": sorted(organs, key=lambda o: (o["rank"], o["case_id"], o["organ"])),
        }
        return _json_in_script(facts | {"content": sha256_json(facts)})

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(RESOURCES / "review"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("triage.html.jinja").stream(
        batch=batch,
        kind=kind,
        blobs=blobs(),
        content=content,
        style=Markup(_read("review/triage.css")),
        script=Markup(_read("review/triage.js")),
        niivue=Markup(niivue),
        licence=Markup(_read("vendor/niivue/LICENSE")),
    )
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for part in page:
            file.write(part.encode())


def _check(case: TriageCase) -> None:
    arrays = {"ct": case.ct, "candidates": case.candidates, "organ_mask": case.organ_mask}
    dtypes = {"ct": np.int16, "candidates": np.uint16, "organ_mask": np.bool_}
    for name, array in arrays.items():
        if array is not None and (array.shape != case.grid.shape or array.dtype != dtypes[name]):
            raise ValueError(
                f"{case.case_id} {case.organ}: {name} {array.dtype} {array.shape} is not "
                f"{np.dtype(dtypes[name])} on its grid {case.grid.shape}"
            )


def _crops(case: TriageCase, volumes: PackedVolumes) -> dict[str, Any]:
    """Pack a crop for each candidate, and return what the page tells of the organ."""
    places = _places(case.candidates)
    candidates = []
    for row in _by_number(case.rows):
        number = int(row["number"])
        if number not in places:
            raise ValueError(f"{case.case_id} {case.organ}: no voxel of {row['candidate_id']}")
        box = widened(places[number].box, case.grid, MARGIN_MM)
        grid = cropped(case.grid, box)
        ct = volumes.add(case.ct[box], grid)
        outlines = volumes.add(_outlines(case, box, number), grid)
        facts = _facts(case.grid, row, places[number])
        candidates.append(facts | {"ct": ct, "outlines": outlines})
    return _head(case) | {"candidates": candidates}


def _whole_scan(case: TriageCase, volumes: PackedVolumes) -> dict[str, Any]:
    """Pack the scan and all outlines, and return what the page tells of the organ."""
    places = _places(case.candidates)
    rows = [row for row in _by_number(case.rows) if int(row["number"]) in places]
    start = np.array(case.grid.shape) // 2
    if case.organ_mask is not None and case.organ_mask.any():
        start = _places(case.organ_mask.astype(np.uint16))[1].nearest_zyx
    everything = (slice(None), slice(None), slice(None))
    return _head(case) | {
        "candidates": [_facts(case.grid, row, places[int(row["number"])]) for row in rows],
        "ct": volumes.add(case.ct, case.grid),
        "outlines": volumes.add(_outlines(case, everything, None), case.grid),
        "start_ras_mm": _ras_mm(case.grid, start),
    }


def _by_number(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(rows, key=lambda row: int(row["number"]))


@dataclass(frozen=True)
class _Place:
    """Where a label lies: its box, its centre, and its voxel nearest to the centre.

    The centre of a crescent is not one of its voxels.
    """

    box: tuple[slice, slice, slice]
    centre_zyx: NDArray[np.float64]
    nearest_zyx: NDArray[np.int64]


def _places(labels: NDArray[np.unsignedinteger]) -> dict[int, _Place]:
    """Return the place of every label that has voxels."""
    statistics = label_statistics(labels, int(labels.max(initial=0)))
    out = {}
    for i in np.flatnonzero(statistics.voxels):
        z0, y0, x0, z1, y1, x1 = (int(n) for n in statistics.box[i])
        box = (slice(z0, z1), slice(y0, y1), slice(x0, x1))
        centre = statistics.index_sum[i] / statistics.voxels[i]
        inside = np.argwhere(labels[box] == i + 1) + [z0, y0, x0]
        nearest = inside[np.square(inside - centre).sum(axis=1).argmin()]
        out[int(i) + 1] = _Place(box, centre, nearest)
    return out


def _head(case: TriageCase) -> dict[str, Any]:
    return {
        "case_id": case.case_id,
        "organ": case.organ,
        "base_sha256": case.base_sha256,
        "rank": case.rank,
        "organ_known": case.organ_mask is not None,
    }


def _facts(grid: Grid, row: Mapping[str, Any], place: _Place) -> dict[str, Any]:
    return {
        "candidate_id": row["candidate_id"],
        "number": int(row["number"]),
        "volume_mm3": round(float(row["volume_mm3"]), 1),
        "radius_mm": round(float(row["radius_mm"]), 2),
        "max_p": round(float(row["max_p"]), 3),
        "centroid_ras_mm": _ras_mm(grid, place.centre_zyx),
        "start_ras_mm": _ras_mm(grid, place.nearest_zyx),
    }


def _ras_mm(grid: Grid, index_zyx: NDArray[Any]) -> list[float]:
    return [round(float(v), 3) for v in (grid.affine @ [*index_zyx[::-1], 1.0])[:3]]


def _outlines(
    case: TriageCase, box: tuple[slice, slice, slice], number: int | None
) -> NDArray[np.uint8]:
    """Return the map of outlines: bits `THIS`, `OTHER` and `ORGAN`; without number all are this."""
    labels = case.candidates[box]
    this = labels > 0 if number is None else labels == number
    out = np.where(this, THIS, np.where(labels > 0, OTHER, 0)).astype(np.uint8)
    if case.organ_mask is not None:
        out |= case.organ_mask[box].astype(np.uint8) * np.uint8(ORGAN)
    return out


def _json_in_script(value: object) -> Markup:
    """Return JSON that no text in it can break out of a script tag with."""
    text = to_json(value)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _read(name: str) -> str:
    return (RESOURCES / name).read_text(encoding="utf-8")
