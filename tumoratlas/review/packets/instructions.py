"""The instructions that a reviewer gets with a batch."""

from __future__ import annotations

from tumoratlas.review.ledger import REJECT_REASONS
from tumoratlas.review.packets.labels import ORGANS

_TASKS = {
    ("candidates", "senior"): """\
Look at every candidate, which is a place where a model suspects a tumor: is it one? Then sign
each organ off. A tumor that no candidate shows is reported as missed; somebody else draws it.""",
    ("full", "senior"): """\
Read every scan of this batch in full, slice by slice, whatever the candidates show: this is how
we learn what candidates miss. Report every tumor without a candidate, then sign each organ off.""",
    ("adjudicate", "senior"): """\
These organs need a further look by somebody who took no part so far: decide every candidate
anew, as if you were the first, then sign each organ off. You are not told who said what.""",
    ("adjudicate", "junior"): """\
A tumor was seen in these organs that no candidate shows. worklist.csv says where (missed_ras_mm).
Draw it and send it as add; if you see none there, contest and say why. You do not sign off.""",
}

_TEXT = """\
Batch {batch} for {reviewer}: {cases}
{line}

{task}
worklist.csv lists the work in the order of reading, the most useful cases first.

What is here
------------
triage.html            opens by double-click in a browser, needs no network: the quickest way
scans/                 the CTs
<case>/<organ>/        candidates.seg.nrrd for 3D Slicer, candidates.nii.gz for all other viewers,
                       organ.nii.gz: the organ, where it is known. Without candidates there is
                       only that one.
worklist.csv           each candidate: its number, size, the model's probability, and its centre
                       in mm as 3D Slicer shows it (right, anterior, superior)
decisions.csv          the form for your decisions, where you do not use triage.html
labels.itksnap.txt     names and colours of the labels for ITK-SNAP

Open it with
------------
Browser     triage.html. At the end press Export: that saves a file decisions....json.
3D Slicer   drag scans/<case>.nii.gz and <case>/<organ>/candidates.seg.nrrd into the window.
            Each candidate is a segment with its number; "<organ> (outline)" is only for
            orientation, whatever you do to it is ignored.
ITK-SNAP    main image scans/<case>.nii.gz, segmentation <case>/<organ>/candidates.nii.gz, then
            Segmentation > Import Label Descriptions > labels.itksnap.txt.
MONAI Label start its server with scans/ as the studies folder. All organs' candidates of a case
            are one map there. Its labels are 1000 x organ + number, and the organs
            {organs}.
            Keep the labels; only what you submit and mark as approved counts.

Decisions
---------
decision   meaning                                                     mask file
accept     the candidate is a tumor, its outline is good               -
reject     it is not a tumor; reason: {reasons}
uncertain  somebody else has to decide                                 -
edit       it is a tumor, with the outline in your mask                needed
split      it is several tumors, one segment (label) each              needed
merge      several candidates are one tumor: a line for each of them,  needed
           all naming the same mask
add        a tumor that is missing (line without candidate_id);        needed
           one segment (label) per tumor
contest    you disagree with something, say what in comment; on the    -
           organ's line with reason "missed": a tumor has no
           candidate, and comment says where
undo       take back your last decision on this candidate or organ     -
sign_off   the organ is finished, also where it holds no tumor         -
           (line without candidate_id, senior reviewers only, last)
withdraw   take the organ out of the release again (senior only)       -

decisions.csv has a line for each candidate, and one without candidate_id for each organ. An empty
decision means: not decided yet. You may send part of the work now and the rest later.
  reviewer_id  your id, {reviewer}; it is filled in
  time         UTC, as 2026-11-21T14:05:00Z
  seconds      how long you took (may be empty)
  reason       see reject and contest; comment and tool are free text; all may be empty
  base_sha256  leave it as it is: it tells which version you looked at
  mask         the mask's file name as seen from decisions.csv: masks/case1_liver.seg.nrrd

Masks
-----
* Draw on the CT of scans/ and save into a folder masks/ beside decisions.csv, as .seg.nrrd (3D
  Slicer), .nii.gz or DICOM SEG (.dcm). Do not resample.
* Edited candidates: change their segment in candidates.seg.nrrd. In a .nii.gz keep the
  candidate's number as label.
* New tumors and the parts of a split: new segments. In a .nii.gz use labels above the highest
  candidate number of that organ.
* One file may hold all edited candidates of an organ. For add, split and merge save a file of its
  own.

Send back
---------
Everything that you made, with the name of the batch ({batch}): the exported decisions....json or
decisions.csv, the folder masks/, and from MONAI Label the folder scans/ without the CTs. Lines that
cannot be taken in come back with the reason; the others count.
"""


def instructions(*, batch: str, kind: str, reviewer_id: str, role: str, cases: int) -> str:
    """Return the text of a batch's ``README.txt``.

    Parameters
    ----------
    batch, kind, reviewer_id, role
        The batch, its kind (candidates, full, adjudicate), who reads it, and that reader's role.
    cases
        How many cases it holds.
    """
    reviewer = "".join(c if c.isprintable() else "?" for c in reviewer_id)
    count = f"{cases} case{'s' if cases != 1 else ''}"
    return _TEXT.format(
        batch=batch,
        reviewer=reviewer,
        cases=count,
        line="=" * len(f"Batch {batch} for {reviewer}: {count}"),
        task=_TASKS.get((kind, role), _TASKS[kind, "senior"]),
        organs=", ".join(f"{n} {organ}" for n, organ in enumerate(ORGANS, start=1)),
        reasons=", ".join(REJECT_REASONS),
    )
