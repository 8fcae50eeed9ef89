"""Write the report on models and review, one HTML file."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.report.facts import read_model_facts
from tumoratlas.report.review import write_review_report
from tumoratlas.review.facts import read_review_facts

with rule_run(snakemake):
    given, records = snakemake.input, Path(snakemake.params.records)
    write_review_report(
        Path(snakemake.output.report),
        models=read_model_facts(
            records,
            training=Path(snakemake.params.training),
            curves=Path(snakemake.params.curves),
            paper=Path(given.paper),
        ),
        review=read_review_facts(
            records,
            tables={
                name: Path(getattr(given, name)) for name in ("scans", "masks", "tumors", "reviews")
            },
            cases=Path(given.cases),
            proposed=given.proposed,
            merged=given.merged,
            plan=Path(snakemake.params.plan),
        ),
        template=Path(given.template),
        **snakemake.params.settings,
    )
