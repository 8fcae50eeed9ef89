"""Where a case's labels come from: from the released files of a run back to the source files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import InputError
from tumoratlas.core.files import sha256_file
from tumoratlas.core.structures import tumor_structures
from tumoratlas.ingest.sources import INTERNAL
from tumoratlas.reproduce.fits import fit_lines
from tumoratlas.reproduce.lineage import decision_text, read_sums
from tumoratlas.reproduce.runs import Made, Run
from tumoratlas.reproduce.voxel import voxel_lines

WITHHELD = "withheld: the source is internal"
_DIGITS = 16
_DECIDING = ("accept", "edit", "split", "merge", "add", "contest", "sign_off", "undo", "withdraw")
# Of a release, where files of cases lie; layouts are links to them.
_FOLDERS = ("ct/", "label/", "seg/")

Line = tuple[str, str]
Section = tuple[str, list[Line]]


def trace_case(
    folder: Path,
    case_id: str,
    *,
    organs: Sequence[str] = (),
    voxel: tuple[int, int, int] | None = None,
) -> list[Section]:
    """Return where the labels of a case come from, step by step.

    Parameters
    ----------
    folder
        Working directory of the run.
    case_id
        The case.
    organs
        Tumor organs to tell of; none means all that are known or have candidates.
    voxel
        Index (x, y, z), from 0, of a voxel in the released scan, as viewers and nibabel count.

    Returns
    -------
    Sections: a title, and lines of what and what is said about it. Nothing names the files or
    patients of an internal source.

    Raises
    ------
    InputError
        NO_CASE, NO_VOXEL, NO_ORGAN: the run has no such case, the scan no such voxel, or no
        tumors of the organ are looked for.
    """
    for organ in organs:
        if organ not in tumor_structures():
            raise InputError(
                "NO_ORGAN",
                organ,
                "tumors of this organ are not looked for",
                remedy=f"One of {', '.join(tumor_structures())}",
            )
    run = Run(folder)
    case = run.cases.get(case_id)
    harmonized = run.made("harmonize_scans", case_id)
    if case is None or harmonized is None:
        raise InputError(
            "NO_CASE", case_id, "the run has no such case", remedy=f"See {folder}/results/tables"
        )
    merged = run.made("merge_masks", case_id)
    wanted = [organ for organ in tumor_structures() if not organs or organ in organs]
    sections: list[Section] = []
    if voxel is not None:
        title = f"voxel x {voxel[0]}, y {voxel[1]}, z {voxel[2]}"
        sections.append((title, voxel_lines(run, case_id, harmonized, merged, wanted, voxel)))
    sections += [_scan_section(run, member) for member in case["members"]]
    sections.append(_harmonized_section(run, case_id, harmonized))
    for organ in wanted:
        lines = _organ_lines(run, case_id, organ, case, harmonized, merged)
        if lines or organs:
            sections.append((f"{organ} tumors", lines or [("", "nothing is known or proposed")]))
    sections.append(_release_section(run, case_id))
    sections.append(("do the records fit", fit_lines(run, case_id, wanted, harmonized, merged)))
    sections.append(("made with", run.digest_lines()))
    return sections


def trace_text(case_id: str, sections: Sequence[Section]) -> str:
    """Return the answer of `trace_case` as plain text for a terminal."""
    width = max(len(what) for _, lines in sections for what, _ in lines)
    parts = [case_id]
    for title, lines in sections:
        parts += ["", title, *(f"  {what:<{width}}  {said}".rstrip() for what, said in lines)]
    return "\n".join(parts)


def _scan_section(run: Run, member: Mapping[str, Any]) -> Section:
    row = run.scans[member["scan_id"]]
    is_internal = member["licence"] == INTERNAL
    lines = [
        ("source", f"{member['source']} ({member['licence']})"),
        ("file", WITHHELD if is_internal else member["source_file"]),
        ("sha256", member["file_sha256"]),
        ("voxels", row["voxel_sha256"]),
        *(("repair", text) for text in row["repairs"]),
        *(("warning", text) for text in row["warnings"]),
        ("fingerprint", run.made_text("fingerprint_scans", member["scan_id"])),
    ]
    if row["kept"]:
        return f"scan {member['scan_id']}", lines
    return f"copy {member['scan_id']} ({row['relation']})", lines


def _harmonized_section(run: Run, case_id: str, harmonized: Made) -> Section:
    row = harmonized.row
    lines = [
        ("image", f"{'x'.join(map(str, row['grid']['shape'][::-1]))} voxels (x, y, z)"),
        *(
            ("repair", f"{repair['name']} of {repair['id']}: {repair['after']}")
            for repair in row["repairs"]
        ),
        ("made by", run.made_text("harmonize_scans", case_id)),
    ]
    return "harmonized", lines


def _organ_lines(
    run: Run,
    case_id: str,
    organ: str,
    case: Mapping[str, Any],
    harmonized: Made,
    merged: Made | None,
) -> list[Line]:
    masks = merged.row["masks"] if merged else []
    mask = next((row for row in masks if row["organ"] == organ), None)
    lines = _label_lines(run, case, harmonized.row["annotated"].get(organ), organ)
    predicted = run.made("predict_tumors", f"{organ}/{case_id}")
    proposed = run.made("propose_candidates", f"{organ}/{case_id}")
    events = [e for e in run.reviews if e["case_id"] == case_id and e["organ"] == organ]
    decided = [event for event in events if event["role"] != "source"]
    if not (lines or predicted or decided or (mask and mask["state"] != "unknown")):
        return []
    if predicted:
        lines += _model_lines(run, organ, predicted)
        lines.append(("predicted by", run.made_text("predict_tumors", f"{organ}/{case_id}")))
    if proposed:
        lines += _threshold_lines(run, organ)
        lines.append(("candidates", f"{len(proposed.row['candidates'])} proposed"))
        lines.append(("proposed by", run.made_text("propose_candidates", f"{organ}/{case_id}")))
    if decided:
        lines.append(("reviewed", _counted(decided)))
        # Hundreds of rejects are told by their number.
        lines += [
            ("decision", _event_text(event)) for event in decided if event["decision"] in _DECIDING
        ]
    if merged and mask:
        lines += _mask_lines(run, case_id, organ, mask, merged, events)
    return lines


def _label_lines(
    run: Run, case: Mapping[str, Any], origin: Mapping[str, Any] | None, organ: str
) -> list[Line]:
    """Return which source labelled an organ's tumors, in which files; nothing if none did."""
    if origin is None:
        return []
    lines = [("source label", f"{origin['source']}, {origin['scan_id']} ({origin['licence']})")]
    member = next(m for m in case["members"] if m["scan_id"] == origin["scan_id"])
    if origin["licence"] == INTERNAL:
        return [*lines, ("label file", WITHHELD)]
    root = member["image_path"].removesuffix(member["source_file"])
    for path in _label_files(member, organ):
        place = run.folder / path
        now = f"sha256 {sha256_file(place)} now" if place.is_file() else "not here now"
        lines.append(("label file", f"{path.removeprefix(root)}, {now}"))
    return lines


def _label_files(member: Mapping[str, Any], organ: str) -> list[str]:
    """Return the label files of a scan that can speak of an organ, or all where none is named."""
    tumor = tumor_structures()[organ].name if organ in tumor_structures() else organ
    names = {organ, f"{organ}_tumor", f"{organ}_cyst", tumor}
    every = [path for label in member["labels"] for path in label["paths"]]
    own = [
        path
        for label in member["labels"]
        for path in label["paths"]
        if any(names & set(value) for value in label["values"].values())
        or Path(path).name.split(".")[0] in names
    ]
    return own or every


def _model_lines(run: Run, organ: str, predicted: Made) -> list[Line]:
    model_id = predicted.row["model_id"]
    model = next((m for m in run.models if m["model_id"] == model_id), None)
    folds = predicted.row["folds"]
    lines = [
        ("model", f"{model_id}, folds {', '.join(map(str, folds))}, on {predicted.row['device']}")
    ]
    if model is None:
        return lines
    for fold in model["folds"]:
        groups = fold.get("training_groups")
        known = f"{len(groups)} patients" if groups else "cases that nobody named"
        lines.append(("weights", f"fold {fold['fold']} sha256 {fold['sha256']}, on {known}"))
    for rule in ("train_model", "register_model", "import_model"):
        lines += [("trained by", text) for text in run.job_texts(rule, organ)]
    return lines


def _threshold_lines(run: Run, organ: str) -> list[Line]:
    choice = run.thresholds.get(organ)
    if choice is None:
        return []
    seen = "out of fold" if choice["is_out_of_fold"] else "on cases that the model may have seen"
    lines = [("threshold", f"{choice['threshold']:g}, chosen {seen} for {choice['model_id']}")]
    return lines + [("chosen by", text) for text in run.job_texts("choose_threshold", organ)]


def _mask_lines(
    run: Run,
    case_id: str,
    organ: str,
    mask: Mapping[str, Any],
    merged: Made,
    events: Sequence[Mapping[str, Any]],
) -> list[Line]:
    signed = f", signed by {mask['signed_by']}" if mask["signed_by"] else ""
    lines = [("state", f"{mask['state']}{signed}"), *(("open", why) for why in mask["pending"])]
    name = f"{organ}.nii.gz"
    if name in merged.outputs:
        lines.append(("final mask", f"sha256 {merged.outputs[name]}"))
        lines.append(("settled by", run.made_text("merge_masks", case_id)))
    measured = run.made("measure_tumors", case_id)
    for tumor in measured.row["tumors"] if measured else []:
        if tumor["organ"] == organ:
            lines += _tumor_lines(tumor, events)
    if measured and len(merged.row["instances"].get(organ, {})):
        lines.append(("measured by", run.made_text("measure_tumors", case_id)))
    return lines


def _tumor_lines(tumor: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Return what a tumor is and which decisions made it, from its row and the ledger's events."""
    said = (
        f"{tumor['tumor_id']}, {tumor['lesion_kind']}, origin {tumor['origin']}, "
        f"{tumor['voxels']} voxels, radius {tumor['radius_mm']:.1f} mm, {tumor['size_class']}"
    )
    own = [event for event in events if event["event_id"] in set(tumor["events"])]
    return [(f"tumor {tumor['number']}", said), *(("  by", _event_text(event)) for event in own)]


def _event_text(event: Mapping[str, Any]) -> str:
    parts = [decision_text(event)]
    if event["candidate_id"]:
        parts.append(f"candidate {event['candidate_id']}")
    if event["reason"]:
        parts.append(f"reason {event['reason']}")
    if event["mask_sha256"]:
        parts.append(f"mask {event['mask_sha256'][:_DIGITS]}")
    return ", ".join([*parts, f"event {event['event_id'][:_DIGITS]}"])


def _counted(events: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter((event["decision"], event["reviewer_id"]) for event in events)
    return ", ".join(f"{n} {what} by {who}" for (what, who), n in sorted(counts.items()))


def _release_section(run: Run, case_id: str) -> Section:
    lines = []
    for release in run.releases:
        sums = read_sums(release)
        own = [path for path in sums if f"/{case_id}/" in path and path.startswith(_FOLDERS)]
        organs = [path for path in own if "/segmentations/" in path]
        lines += [
            (release.name, f"{path}, sha256 {sums[path]}") for path in own if path not in organs
        ]
        if organs:
            lines.append((release.name, f"{len(organs)} files in label/{case_id}/segmentations/"))
    written = run.made_text("write_cases", case_id)
    return "released", [*(lines or [("", "in no release of this run")]), ("written by", written)]
