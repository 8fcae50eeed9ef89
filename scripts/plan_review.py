"""Find what is open, order it, and deal it to the reviewers as new batches."""

from pathlib import Path

import pandas as pd

from tumoratlas.core.files import write_json
from tumoratlas.core.records import append_lines, latest_by
from tumoratlas.core.run import rule_run
from tumoratlas.core.tables import write_csv
from tumoratlas.review.bases import record_bases
from tumoratlas.review.cases import review_cases, store_bases
from tumoratlas.review.facts import read_review_facts
from tumoratlas.review.plan.planning import chosen_curves, plan_review
from tumoratlas.review.plan.priority import WORKLIST_COLUMNS

with rule_run(snakemake):
    given, records = snakemake.input, Path(snakemake.params.records)
    names = ("scans", "masks", "tumors", "reviews")
    facts = read_review_facts(
        records,
        tables={name: Path(getattr(given, name)) for name in names},
        cases=Path(given.cases),
        proposed=given.proposed,
        merged=given.merged,
        plan=Path(snakemake.output.plan),
    )
    curves = {p.stem: pd.read_csv(p) for p in sorted(Path(snakemake.params.curves).glob("*.csv"))}
    chosen = chosen_curves(curves, latest_by(records / "thresholds.jsonl", "organ"))
    plan = plan_review(facts, curves=chosen, **snakemake.params.settings)
    # What a batch shows is kept before anybody can answer it.
    cases = {case.case_id: case for case in review_cases(given.harmonized, given.proposed)}
    record_bases(records / "bases.jsonl", store_bases(plan.lines, cases, records / "masks"))
    append_lines(records / "batches.jsonl", plan.lines)
    write_csv(Path(snakemake.output.worklist), plan.worklist, list(WORKLIST_COLUMNS))
    open_work = {"outstanding": plan.outstanding, "stale": plan.stale, "pending": plan.pending}
    write_json(Path(snakemake.output.plan), open_work)
