"""Jobs of a finished run, run again from their recorded inputs, and whether they repeat."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tumoratlas.core.code import code_digest
from tumoratlas.core.environment import environment
from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.files import sha256_bytes
from tumoratlas.core.provenance import PROVENANCE, latest_jobs, read_stored
from tumoratlas.reproduce.outputs import locate, unequal_outputs
from tumoratlas.reproduce.scratch import changed_inputs, scratch_directory
from tumoratlas.reproduce.standin import run_again
from tumoratlas.reproduce.tolerances import Tolerance, allowed, deviation

# From good to bad; that of a rule is the worst of its jobs.
VERDICTS = (
    "equal",
    "within_tolerance",
    "not_replayed",
    "inputs_changed",
    "failed",
    "different",
)


def replay_rule(
    rule: str,
    *,
    run: Path,
    records: str,
    sources: Sequence[Path],
    jobs: int,
    seed: int,
    tolerances: Sequence[Tolerance],
    not_replayed: str = "",
) -> dict[str, Any]:
    """Run sampled jobs of a rule again and compare what they make with what they made.

    Jobs whose recorded inputs have changed since are passed over as long as there are others.

    Parameters
    ----------
    rule
        Name of the rule.
    run
        Working directory of the run; nothing in it changes but its folder of replays.
    records
        The configured folder of records.
    sources
        Folders of the sources.
    jobs, seed
        How many jobs are tried, and the seed of the choice.
    tolerances
        From `read_tolerances`.
    not_replayed
        Why the rule is never tried, if it is not.

    Returns
    -------
    ``rule, verdict, reason``; ``jobs_ended``, how many jobs ended well; ``jobs``, of each that was
    tried its ``job, verdict, reason``, its first ``difference`` (`Difference`) or None, the
    ``deviation`` measured and the ``tolerance`` declared, by measure, and what has ``changed``
    since (code, software); ``passed_over``, of each job its changed inputs.
    """
    folder = run / PROVENANCE
    ended = [job for job in latest_jobs(folder).values() if job["rule"] == rule]
    if not_replayed:
        ended = []
    ended.sort(key=lambda job: sha256_bytes(f"{seed} {job['job']}".encode()))
    tried: list[dict[str, Any]] = []
    passed_over: dict[str, list[str]] = {}
    for job in ended:
        if len(tried) == jobs:
            break
        if changed := changed_inputs(job, run):
            passed_over[job["job"]] = changed
        else:
            tried.append(_replay(job, run, records, sources, tolerances))
    verdict, reason = "not_replayed", not_replayed or "no job of it has ended well in this run"
    if tried:
        worst = max(tried, key=lambda job: VERDICTS.index(job["verdict"]))
        verdict, reason = worst["verdict"], worst["reason"]
    elif passed_over:
        job, names = next(iter(passed_over.items()))
        verdict, reason = "inputs_changed", f"{job}: {names[0]} is not what it was"
    return {
        "rule": rule,
        "verdict": verdict,
        "reason": reason,
        "jobs_ended": len(ended),
        "jobs": tried,
        "passed_over": passed_over,
    }


def _replay(
    job: Mapping[str, Any],
    run: Path,
    records: str,
    sources: Sequence[Path],
    tolerances: Sequence[Tolerance],
) -> dict[str, Any]:
    stored = run / PROVENANCE
    code = code_digest(job["rule"])
    software = read_stored(stored, "environments", job["environment"])["software"]
    changed = {
        "code": code != job["params"]["code"],
        "software": software != environment()["software"],
    }
    told: dict[str, Any] = {
        "job": job["job"],
        "difference": None,
        "deviation": {},
        "tolerance": allowed(job["rule"], job["params"], tolerances),
        "changed": [name for name, is_changed in changed.items() if is_changed],
    }
    # A job refuses to run other code than was planned; here it is today's.
    present = job | {"params": job["params"] | {"code": code}}
    with scratch_directory(job, run, records=records) as (root, folder):
        error = run_again(
            present,
            read_stored(stored, "configs", job["config"]),
            root=root,
            folder=folder,
            protected=[run, run / records, *(run / source for source in sources)],
        )
        if error:
            return told | {"verdict": "failed", "reason": error}
        return told | _compared(job, told["tolerance"], run, folder)


def _compared(
    job: Mapping[str, Any], tolerance: Mapping[str, float], run: Path, folder: Path
) -> dict[str, Any]:
    unequal = list(unequal_outputs(job, run, folder))
    if not unequal:
        return {"verdict": "equal", "reason": ""}
    difference = locate(unequal[0], run, folder)
    reason = str(difference)
    if unequal[0].is_altered:
        reason = f"altered since the job ended: {reason}"
    told = {"verdict": "different", "reason": reason, "difference": vars(difference)}
    if not tolerance or any(found.is_altered for found in unequal):
        return told
    measured = deviation(job["rule"], [found.name for found in unequal], run, folder)
    if measured is None:
        return told
    if all(measured[name] <= tolerance[name] for name in measured):
        told["verdict"] = "within_tolerance"
    return told | {"deviation": measured}


def refuse_different(verdicts: Sequence[Mapping[str, Any]], superseded: Sequence[str]) -> None:
    """Stop where a rule does not repeat, or could not be tried.

    Parameters
    ----------
    verdicts
        Results of `replay_rule`.
    superseded
        Rules whose inputs may have changed since they ran: those of targets other than the
        release.

    Raises
    ------
    ReleaseError
        ``REPLAY_DIFFERENT``
    """
    bad = [
        verdict
        for verdict in verdicts
        if verdict["verdict"] in ("different", "failed")
        or (verdict["verdict"] == "inputs_changed" and verdict["rule"] not in superseded)
    ]
    if bad:
        raise ReleaseError(
            "REPLAY_DIFFERENT",
            bad[0]["rule"],
            f"is {bad[0]['verdict']}: {bad[0]['reason']}",
            evidence=f"{len(bad)} of {len(verdicts)} rules: {', '.join(v['rule'] for v in bad)}",
            remedy="Restore the file, or run the rule again, then the same command; if the "
            "difference stays, report the defect",
        )
