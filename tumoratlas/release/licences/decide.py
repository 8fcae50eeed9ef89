"""Which file may be in which target: decided file by file, by the licence of its source.

Labels travel between copies of a scan, so that the masks of a case may have other licences than
its image, and each its own. Every mask counts as altered: it was turned, made binary, cut into
instances and perhaps edited; and so does every image, which was converted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tumoratlas.core.structures import RESOURCES, structures
from tumoratlas.core.tables import csv_text
from tumoratlas.ingest.sources import INTERNAL, Source
from tumoratlas.release.cases import (
    CT,
    JOINED,
    POOLED,
    segmentation,
    tumor_files,
)
from tumoratlas.release.facts import ReleaseFacts, Row
from tumoratlas.release.licences.policy import OURS, Kind, Part, Policy, is_verified, judge
from tumoratlas.release.licences.terms import Terms, read_terms, terms_of

MATRIX = "licences.csv"
_MATRIX_COLUMNS = (
    "source", "kind", "licence", "spdx", "is_verified", "share", "share_altered",
    "non_commercial", "share_alike", "files", "cases", "in_full", "in_labels_only", "citation",
    "note",
)  # fmt: skip


def decide_case(
    harmonized_row: Mapping[str, Any], merged_row: Mapping[str, Any], policy: Policy
) -> list[Row]:
    """Return a case's rows of the table ``licences``, one per file, by its name.

    ``internal`` holds everything, and alone what is or lies on an internal scan. ``labels_only``
    holds masks that may be shared altered. ``full`` holds images that may, and beside them such
    masks. What is in doubt is in neither: a licence that nobody described or saw, or that does
    not say. A recorded permission replaces what a licence says. Files that join masks are in
    every target that holds one of the case's masks, unless these have share-alike licences that
    exclude each other; a case of which a target holds no mask (or for ``full`` no image) is not
    in it.

    Parameters
    ----------
    harmonized_row
        The case's row of `tumoratlas.harmonize.cases.harmonize_case`.
    merged_row
        The case's row of `tumoratlas.review.merge.steps.merge_masks`.
    policy
        What decides.
    """
    source = harmonized_row["source"]
    image_part = (source, policy.sources[source].licence)
    image = judge(image_part, "image", policy)
    masks = {
        file: (parts, [judge(part, "mask", policy) for part in parts])
        for file, parts in _mask_parts(harmonized_row, merged_row, policy).items()
    }
    is_internal = image_part[1] == INTERNAL
    rows = []
    for file, (parts, verdicts) in masks.items():
        labels_only = not is_internal and all(verdict.labels_only for verdict in verdicts)
        full = not is_internal and image.full and all(verdict.full for verdict in verdicts)
        reasons = [verdict.reason for verdict in verdicts]
        if is_internal:
            reasons.append(f"{source}: the scan is internal")
        elif labels_only and not image.full:
            reasons.append(f"{source}: the image may not be in full, and no mask without it")
        rows.append(_row(file, "mask", parts, (labels_only, full), reasons))
    labels_only, full = (any(row[target] for row in rows) for target in ("labels_only", "full"))
    reasons = [image.reason, "labels_only holds no images"]
    if image.full and not full:
        reasons.append("no mask of the case may be in full")
    rows.append(_row(CT, "image", [image_part], (False, full), reasons))
    rows += _joined_rows(rows, policy)
    rows = [{"case_id": harmonized_row["case_id"], **row} for row in rows]
    return sorted(rows, key=lambda row: row["file"])


def _joined_rows(rows: Sequence[Row], policy: Policy) -> list[Row]:
    """Return the rows of the files that join masks.

    Two share-alike licences ask each for itself: what joins masks of both may not be shared.
    """
    masks = [row for row in rows if row["kind"] == "mask"]
    parts = {pair for row in masks for pair in zip(row["sources"], row["licences"], strict=True)}
    reasons = ["made of the masks beside it"]
    allowed = []
    for target in ("labels_only", "full"):
        held = {licence for row in masks if row[target] for licence in row["licences"]}
        alike = sorted(one for one in held if terms_of(one, policy.terms).share_alike == "yes")
        if len(alike) > 1:
            reasons.append(f"not in {target}: {' and '.join(alike)} exclude each other")
        allowed.append(bool(held) and len(alike) < 2)
    return [_row(file, "mask", sorted(parts), tuple(allowed), reasons) for file in JOINED]


def _mask_parts(
    harmonized_row: Mapping[str, Any], merged_row: Mapping[str, Any], policy: Policy
) -> dict[str, list[Part]]:
    """Return what each mask of a case is made of, by file."""
    found: dict[str, list[Part]] = {}
    organs = [row.name for row in structures().values() if row.kind == "organ"]
    for name in organs:
        if origin := harmonized_row["structures"].get(name):
            found[segmentation(name)] = [(origin["source"], origin["licence"])]
    for mask in merged_row["masks"]:
        if mask["state"] == "unknown":
            continue
        instances = merged_row["instances"][mask["organ"]].values()
        parts = _tumor_parts(mask, [facts["origin"] for facts in instances], policy)
        tumors, cysts, numbers = tumor_files(mask["organ"])
        has_cysts = any(facts["kind"] == "cyst" for facts in instances)
        found |= dict.fromkeys((tumors, cysts, numbers) if has_cysts else (tumors, numbers), parts)
    if origin := harmonized_row["pooled"]:
        found[POOLED] = [(origin["source"], origin["licence"])]
    return found


def _tumor_parts(mask: Mapping[str, Any], origins: Sequence[str], policy: Policy) -> list[Part]:
    """Return who made an organ's tumor masks, and under which licences."""
    parts = [(mask["source"], mask["label_licence"])] if mask["source"] else []
    if not parts or any(origin != "source" for origin in origins):
        # What we add to masks of a share-alike source goes on under that source's licence.
        alike = [one for _, one in parts if terms_of(one, policy.terms).share_alike == "yes"]
        parts.append((OURS, (alike or [policy.annotation_licence])[0]))
    return parts


def _row(
    file: str, kind: Kind, parts: Sequence[Part], targets: tuple[bool, bool], reasons: list[str]
) -> Row:
    labels_only, full = targets
    return {
        "file": file,
        "kind": kind,
        "sources": [source for source, _ in parts],
        "licences": [licence for _, licence in parts],
        "internal": True,
        "labels_only": labels_only,
        "full": full,
        "reasons": reasons,
    }


def licence_files(facts: ReleaseFacts) -> dict[str, str]:
    """Return ``licences.csv``: what each source gave, and under which licence.

    A row per source, kind (image or label) and licence, with the number of ``files`` and
    ``cases`` that hold something of it, and how many of these files may be in a target. Files
    that join masks are not counted. The terms are those of the licence alone; permissions show
    in the counts and, by file, in the table ``licences``.
    """
    terms = read_terms(RESOURCES / MATRIX)
    sources = {source.id: source for source in facts.sources}
    held: dict[tuple[str, str, str], list[Row]] = {}
    for row in facts.tables["licences"]:
        if row["file"] in JOINED:
            continue
        kind = "image" if row["kind"] == "image" else "label"
        for source, licence in zip(row["sources"], row["licences"], strict=True):
            held.setdefault((source, kind, licence), []).append(row)
    rows = [_matrix_row(key, held[key], terms, sources) for key in sorted(held)]
    return {MATRIX: csv_text(rows, _MATRIX_COLUMNS)}


def _matrix_row(
    key: tuple[str, str, str],
    rows: Sequence[Row],
    terms: Mapping[str, Terms],
    sources: Mapping[str, Source],
) -> Row:
    name, kind, licence = key
    allows = terms_of(licence, terms)
    notes, citation, verified = [allows.note], "this dataset", True
    if name != OURS:
        source = sources[name]
        citation, verified = source.citation, is_verified(source, licence)
        notes.append(source.licence_note if licence == source.licence else "")
    return {
        "source": name,
        "kind": kind,
        "licence": licence,
        "is_verified": verified,
        **{
            name: getattr(allows, name)
            for name in ("spdx", "share", "share_altered", "non_commercial", "share_alike")
        },
        "files": len(rows),
        "cases": len({row["case_id"] for row in rows}),
        "in_full": sum(row["full"] for row in rows),
        "in_labels_only": sum(row["labels_only"] for row in rows),
        "citation": citation,
        "note": " ".join(filter(None, notes)),
    }
