"""Do the steps behind a case fit: did each read what the step before it left."""

from collections.abc import Iterable, Sequence

from tumoratlas.reproduce.lineage import read_sums
from tumoratlas.reproduce.runs import Made, Run

_DIGITS = 16

Line = tuple[str, str]
# What it is; the hash that one step left; the hash that the next one read.
_Link = tuple[str, str | None, str | None]


def fit_lines(
    run: Run, case_id: str, organs: Sequence[str], harmonized: Made, merged: Made | None
) -> list[Line]:
    """Return every place where a step did not read what the step before it left.

    Parameters
    ----------
    run, case_id, harmonized, merged
        The case, and what harmonize_scans and merge_masks left of it.
    organs
        Tumor organs to look at.
    """
    links = [*_step_links(run, case_id, organs, harmonized, merged), *_release_links(run, case_id)]
    known = [(what, left, read) for what, left, read in links if left and read]
    wrong = [
        (what, f"left {left[:_DIGITS]}, read {read[:_DIGITS]}")
        for what, left, read in known
        if left != read
    ]
    return wrong or [("yes", f"{len(known)} links, each hash as the step before left it")]


def _step_links(
    run: Run, case_id: str, organs: Sequence[str], harmonized: Made, merged: Made | None
) -> Iterable[_Link]:
    after = [run.made(rule, case_id) for rule in ("measure_tumors", "write_cases")]
    for organ in organs:
        predicted = run.made("predict_tumors", f"{organ}/{case_id}")
        proposed = run.made("propose_candidates", f"{organ}/{case_id}")
        if predicted:
            image = harmonized.outputs["model.b2nd"]
            yield f"{organ}: image predicted", image, predicted.inputs.get("image")
        if predicted and proposed:
            levels = predicted.outputs["levels.b2nd"]
            yield f"{organ}: levels cut", levels, proposed.inputs.get("levels")
        if proposed and merged:
            shown = proposed.outputs["candidates.nii.gz"]
            yield f"{organ}: candidates", shown, merged.inputs.get(f"{organ}/candidates.nii.gz")
        for made in filter(None, after):
            name = f"{organ}.nii.gz"
            mask = merged.outputs.get(name) if merged else None
            yield f"{organ}: mask in {made.folder.parent.name}", mask, made.inputs.get(name)


def _release_links(run: Run, case_id: str) -> Iterable[_Link]:
    written = run.made("write_cases", case_id)
    for release in run.releases:
        sums = read_sums(release)
        for name, sha256 in (written.outputs if written else {}).items():
            folder = "ct" if name == "ct.nii.gz" else "label"
            yield f"{release.name}: {name}", sha256, sums.get(f"{folder}/{case_id}/{name}")
