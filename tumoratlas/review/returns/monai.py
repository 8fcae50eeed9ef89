"""Returned MONAI Label studies: approved labels as decisions.

A packet's ``scans/`` is such a folder (`tumoratlas.review.packets.labels`): one map holds the
candidates of all organs of a case. The server saves labels below ``labels/<tag>/``, and
``datastore_v2.json`` says who approved which.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import ReviewError, TumorAtlasError
from tumoratlas.images.inflate import read_bytes
from tumoratlas.review.masks import mask_error
from tumoratlas.review.packets.labels import ORGANS
from tumoratlas.review.returns.decisions import Known
from tumoratlas.review.returns.forms import Problems, Row
from tumoratlas.review.returns.mask_files import NIFTI, SEG_NRRD
from tumoratlas.review.returns.monai_labels import ApprovedLabel, Shown, label_rows

DATASTORE = "datastore_v2.json"
_LABELS, _SENT, _APPROVED = "labels", "original", "approved"
_VERSION = re.compile(r"version_(\d{1,6})")
_TAG = re.compile(r"\w{1,80}")
_LARGEST_BYTES = 1 << 26


def read_studies(
    path: Path, name: str, batch: str, known: Known, shown: Shown, problems: Problems
) -> list[Row]:
    """Return the decisions that a studies folder holds, and note what cannot be taken in.

    Of each case the approved label of the highest version counts; every other label that
    somebody saved is noted. In it, a candidate that is as it was sent is accepted, one that is
    not is edited, and a label above an organ's highest number is a new tumor. A candidate that
    is not there says nothing.

    Parameters
    ----------
    path
        ``datastore_v2.json``; ``labels/`` lies beside it.
    name
        Its name in reports, ``<batch>/<path>``.
    batch
        Name of the batch, which the datastore's images must name too.
    known
        What was sent out.
    shown
        Returns the candidate map (z, y, x) of a base hash.
    problems
        Gets MONAI_FORM, MONAI_NOT_APPROVED, MONAI_OLDER, MONAI_CHANGED, BATCH_OTHER,
        CASE_UNKNOWN, BASE_STALE, PATH_OUTSIDE, MASK_VALUES, MASK_OVERLAP, and the codes of
        `read_returned`.
    """
    try:
        objects = _objects(path, name)
    except TumorAtlasError as error:
        problems.add(name, error)
        return []
    rows = []
    for case_id, entry in sorted(objects.items()):
        try:
            label = _approved(path, name, batch, case_id, entry, known, problems)
            if label is not None:
                rows += label_rows(label, known, shown, problems)
        except TumorAtlasError as error:
            problems.add(f"{name}#{case_id}", error)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            # The file is others' and has no schema: any part may be of another form.
            problems.add(f"{name}#{case_id}", _form(name, f"{type(error).__name__}: {error}"))
    return rows


def _form(name: str, evidence: str) -> ReviewError:
    return mask_error(
        "MONAI_FORM",
        name,
        "it is not a MONAI Label datastore of a packet",
        "Send the packet's folder scans as MONAI Label left it",
        evidence[:300],
    )


def _objects(path: Path, name: str) -> dict[str, Any]:
    if path.is_symlink():
        raise mask_error("PATH_OUTSIDE", name, "it is a symbolic link", "Send the file itself")
    try:
        objects = json.loads(read_bytes(path, max_bytes=_LARGEST_BYTES).decode())["objects"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _form(name, f"{type(error).__name__}: {error}") from error
    if not isinstance(objects, dict):
        raise _form(name, "objects is no object")
    return objects


def _approved(
    path: Path, name: str, batch: str, case_id: str, entry: Any, known: Known, problems: Problems
) -> ApprovedLabel | None:
    """Return the label of a case that counts, or None; note the others that were saved."""
    saved = {tag: label["info"] for tag, label in entry["labels"].items() if tag != _SENT}
    approved = []
    for tag, info in saved.items():
        if not _TAG.fullmatch(tag):
            raise _form(name, f"label {tag[:80]!r}")
        status = info.get("segmentationMeta", {}).get("status", "")
        if status == _APPROVED:
            approved.append(tag)
            continue
        problems.add(
            f"{name}#{case_id}/{tag}",
            mask_error(
                "MONAI_NOT_APPROVED",
                name,
                "the label is not approved and was not taken in",
                "Approve it in MONAI Label if it is finished",
                f"status {str(status)[:80] or 'not set'}",
            ),
        )
    if not approved:
        return None
    *older, newest = sorted(approved, key=lambda tag: (_version(tag), tag))
    for tag in older:
        problems.add(
            f"{name}#{case_id}/{tag}",
            mask_error(
                "MONAI_OLDER",
                name,
                "a later version of the label is approved and was taken in",
                "Nothing is to be done",
                newest,
            ),
        )
    if case_id not in known.grids:
        raise mask_error(
            "CASE_UNKNOWN",
            name,
            "this case was not sent out",
            "Keep the names of the packet's scans",
            case_id[:80],
        )
    facts = entry["image"]["info"]
    if facts["batch"] != batch:
        raise mask_error(
            "BATCH_OTHER",
            name,
            "the labels are about another batch",
            "Put the files into the folder of their batch",
            f"{facts['batch'][:80]!r} is not {batch!r}",
        )
    extension = entry["labels"][newest]["ext"]
    if extension not in (NIFTI, SEG_NRRD):
        raise mask_error(
            "MASK_FORMAT",
            name,
            "the label is in a format that MONAI Label need not use",
            "Set the file extension .nii.gz or .seg.nrrd in MONAI Label's settings",
            str(extension)[:80],
        )
    bases = {organ: facts["bases"][organ] for organ in ORGANS if organ in facts["bases"]}
    for organ, base in bases.items():
        if (case_id, organ, base) not in known.issued:
            raise mask_error(
                "BASE_STALE",
                name,
                "the label is about a version of the mask that nobody knows",
                "Review the current packet",
                f"{organ} {str(base)[:12]}",
            )
    file = path.parent / _LABELS / newest / f"{case_id}{extension}"
    return ApprovedLabel(name, path.parent, case_id, newest, saved[newest], bases, file)


def _version(tag: str) -> int:
    found = _VERSION.fullmatch(tag)
    return int(found[1]) if found else 0
