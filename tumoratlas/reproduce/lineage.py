"""Where every released scan, mask and tumor comes from, from the tables of the release alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tumoratlas.core.tables import read_rows_of

SCAN, MASK, TUMOR = "scan", "mask", "tumor"
COLUMNS = (
    "case_id",
    "what",
    "organ",
    "number",
    "id",
    "state",
    "origin",
    "source",
    "source_file",
    "file_sha256",
    "model_id",
    "threshold",
    "candidates",
    "decisions",
    "people",
    "released_file",
    "released_sha256",
)
# Whose decision is no person's.
_SOURCE_ROLE = "source"
_TABLES = ("crosswalk", "masks", "tumors", "candidates", "reviews")

Row = dict[str, Any]


def lineage_rows(release: Path) -> list[Row]:
    """Return what each released file of each case came from.

    Parameters
    ----------
    release
        Folder of a release of the target ``internal``; its tables name no private file.

    Returns
    -------
    Rows with the keys of `COLUMNS`, by case: its scans (the kept one first, then the copies that
    it was joined with), its masks by organ, each followed by its tumors and cysts by number.
    Of a mask, ``source_file`` is the scan whose source labelled it, ``candidates`` how many a
    model proposed, ``decisions`` how often what was decided; of a tumor, ``candidates`` are the
    ids and ``decisions`` who decided what when.
    """
    tables = {name: read_rows_of(release / f"tables/{name}.parquet") for name in _TABLES}
    sums = read_sums(release)
    by_case = {name: _grouped(rows, "case_id") for name, rows in tables.items()}
    events = {row["event_id"]: row for row in tables["reviews"]}
    rows: list[Row] = []
    for case_id, scans in sorted(by_case["crosswalk"].items()):
        scans = sorted(scans, key=lambda scan: (not scan["kept"], scan["scan_id"]))
        rows += [_scan_row(scan, sums) for scan in scans]
        tumors = _grouped(by_case["tumors"].get(case_id, []), "organ")
        candidates = _grouped(by_case["candidates"].get(case_id, []), "organ")
        reviews = _grouped(by_case["reviews"].get(case_id, []), "organ")
        masks = {mask["organ"]: mask for mask in by_case["masks"].get(case_id, [])}
        for organ in sorted(masks | tumors):
            proposed = candidates.get(organ, [])
            mask = _mask_row(
                case_id, organ, masks.get(organ), scans, proposed, reviews.get(organ, []), sums
            )
            rows.append(mask)
            rows += [
                _tumor_row(tumor, mask, proposed, events)
                for tumor in sorted(tumors.get(organ, []), key=lambda row: row["number"])
            ]
    return rows


def read_sums(release: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a release, by its path, from ``SHA256SUMS``."""
    lines = (release / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {path: sha256 for sha256, _, path in (line.partition("  ") for line in lines)}


def decision_text(event: Mapping[str, Any]) -> str:
    """Return who decided what, and when, in words: ``accept by R01 (senior) 2026-01-09``."""
    if event["role"] == _SOURCE_ROLE:
        return f"labelled by {event['reviewer_id']}"
    when = f" {event['time'][:10]}" if event["time"] else ""
    return f"{event['decision']} by {event['reviewer_id']} ({event['role']}){when}"


def _row(case_id: str, what: str, **facts: Any) -> Row:  # noqa: ANN401 - cells of any kind
    return dict.fromkeys(COLUMNS, "") | {"case_id": case_id, "what": what} | facts


def _scan_row(scan: Row, sums: Mapping[str, str]) -> Row:
    path = f"ct/{scan['case_id']}/ct.nii.gz"
    is_released = scan["kept"] and path in sums
    return _row(
        scan["case_id"],
        SCAN,
        id=scan["scan_id"],
        state="kept" if scan["kept"] else f"copy ({scan['relation']})",
        source=scan["source"],
        source_file=scan["source_file"],
        file_sha256=scan["file_sha256"],
        released_file=path if is_released else "",
        released_sha256=sums[path] if is_released else "",
    )


def _mask_row(
    case_id: str,
    organ: str,
    mask: Row | None,
    scans: list[Row],
    proposed: list[Row],
    events: list[Row],
    sums: Mapping[str, str],
) -> Row:
    mask = mask or {"state": "", "origin": "", "source": "", "signed_by": ""}
    labelled = [scan for scan in scans if mask["source"] and scan["source"] == mask["source"]]
    decided = Counter(event["decision"] for event in events if event["role"] != _SOURCE_ROLE)
    people = {event["reviewer_id"] for event in events if event["role"] != _SOURCE_ROLE}
    # Pooled lesions of an organ that nobody settled lie in a file of their own.
    names = [f"label/{case_id}/instances/{name}.nii.gz" for name in (organ, "pooled")]
    path = next((name for name in names if name in sums), "")
    return _row(
        case_id,
        MASK,
        organ=organ,
        state=mask["state"],
        origin=mask["origin"],
        source=mask["source"],
        # Several scans of a source may show one patient; any of them may hold the label.
        source_file="; ".join(filter(None, (scan["source_file"] for scan in labelled))),
        file_sha256="; ".join(scan["file_sha256"] for scan in labelled),
        candidates=len(proposed),
        decisions=", ".join(f"{count} {what}" for what, count in sorted(decided.items())),
        people=_people(people, mask["signed_by"]),
        released_file=path,
        released_sha256=sums.get(path, ""),
        **_model(proposed),
    )


def _tumor_row(tumor: Row, mask: Row, proposed: list[Row], events: Mapping[str, Row]) -> Row:
    decided = [events[name] for name in tumor["events"] if name in events]
    candidates = dict.fromkeys(e["candidate_id"] for e in decided if e["candidate_id"])
    own = [row for row in proposed if row["candidate_id"] in candidates]
    source = {} if tumor["origin"] != "source" else mask
    return _row(
        tumor["case_id"],
        TUMOR,
        organ=tumor["organ"],
        number=tumor["number"],
        id=tumor["tumor_id"],
        state=tumor["lesion_kind"],
        origin=tumor["origin"],
        candidates=" ".join(candidates),
        decisions="; ".join(map(decision_text, decided)),
        people=_people(tumor["reviewers"], ""),
        released_file=mask["released_file"],
        released_sha256=mask["released_sha256"],
        **{key: source.get(key, "") for key in ("source", "source_file", "file_sha256")},
        **_model(own),
    )


def _model(candidates: list[Row]) -> Row:
    """Return the model and threshold that candidates came from; empty where there are none."""
    models = dict.fromkeys(row["model_id"] for row in candidates)
    thresholds = dict.fromkeys(row["threshold"] for row in candidates)
    return {
        "model_id": "; ".join(models),
        "threshold": "; ".join(f"{value:g}" for value in thresholds),
    }


def _people(decided: Iterable[str], signed: str) -> str:
    names = sorted(decided)
    return "; ".join([", ".join(names)] * bool(names) + [f"signed {signed}"] * bool(signed))


def _grouped(rows: Iterable[Row], key: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return groups
