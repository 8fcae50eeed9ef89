"""Records that cannot be computed again: cut, damaged, half written; and their backup."""

from functools import partial

from tests.faults.damage import PROPOSED
from tests.faults.fault import fault
from tests.faults.run import Run, Said, cut, flip, rewrite, told
from tumoratlas.core.files import read_json

TOPIC = "Records"
recorded = partial(fault, topic=TOPIC)
RESTORE = "`tumoratlas restore` of a backup, then the same command"
REVIEWS = "results/tables/reviews.parquet"
SCANS = "results/tables/scans.parquet"


def mend(run: Run, target: str, *, forced: str) -> Said:
    """Run a rule that reads a damaged record; then restore the backup and run again."""
    said = run.run(target, "--forcerun", forced)
    run.restore()
    run.again(target, "--forcerun", forced)
    return said


@recorded("the ledger cut in its last line", sees="LEDGER_BROKEN|RECORDS", recovery=RESTORE)
def cut_ledger(run: Run) -> Said:
    run.back_up()
    cut(run.folder / "records/ledger.jsonl", keep=0.95)
    return mend(run, REVIEWS, forced="check_review")


@recorded("bit rot in the ledger", sees="LEDGER_BROKEN|RECORDS", recovery=RESTORE)
def rot_ledger(run: Run) -> Said:
    run.back_up()
    flip(run.folder / "records/ledger.jsonl")
    return mend(run, REVIEWS, forced="check_review")


@recorded("a line of the case ids half written", sees="RECORDS", recovery=RESTORE)
def cut_case_ids(run: Run) -> Said:
    run.back_up()
    cut(run.folder / "records/case_ids.jsonl", keep=0.8)
    return mend(run, SCANS, forced="assign_cases")


@recorded("a digit of a case id changed", sees="RECORDS", recovery=RESTORE)
def rot_case_ids(run: Run) -> Said:
    run.back_up()
    path = run.folder / "records/case_ids.jsonl"
    rewrite(path, path.read_bytes().replace(b"BDMAP_90000001", b"BDMAP_90000003", 1))
    return mend(run, SCANS, forced="assign_cases")


@recorded("a digit of a chosen threshold changed", sees="RECORDS", recovery=RESTORE)
def rot_threshold(run: Run) -> Said:
    run.back_up()
    path = run.folder / "records/thresholds.jsonl"
    data = path.read_bytes()
    at = data.index(b'"threshold": 0.') + len(b'"threshold": 0.')
    rewrite(path, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    return mend(run, f"{PROPOSED}/s0000.tsv", forced="propose_candidates")


@recorded(
    "a returned mask deleted from the store",
    sees="BACKUP_INCOMPLETE|STORE_BROKEN|BACKUP",
    recovery=RESTORE,
)
def lose_mask(run: Run) -> Said:
    run.back_up()
    run.drop("records/masks/*")
    said = run.command("backup", str(run.folder / "records"), str(run.folder / "later.tar"))
    run.restore()
    return said


@recorded(
    "a returned form cut, as by a broken upload",
    sees="CELLS_COUNT",
    recovery="put the whole form there, then the same command",
)
def cut_form(run: Run) -> Said:
    form = run.path("records/returns/*/decisions.csv")
    times, good = form.stat(), form.read_bytes()
    cut(form, keep=0.6)
    form.touch()
    said = run.run(REVIEWS)
    [row] = read_json(run.folder / "results/review/check_review.json")["excluded"]
    rewrite(form, good, times)
    run.again(REVIEWS, "--forcerun", "check_review")
    return Said(said.status, told(row))
