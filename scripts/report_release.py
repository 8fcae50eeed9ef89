"""Write the release report, one HTML file."""

from pathlib import Path

from tumoratlas.core.files import read_json
from tumoratlas.core.records import latest_by
from tumoratlas.core.run import rule_run
from tumoratlas.release.verify.release import Verification
from tumoratlas.report.release import write_report

with rule_run(snakemake):
    curves = Path(snakemake.params.curves).glob("*.csv")
    write_report(
        Path(snakemake.output.report),
        release=Path(snakemake.input.sums).parent,
        verification=Verification(**read_json(Path(snakemake.input.verification))),
        curves={path.stem: path for path in curves},
        thresholds=latest_by(Path(snakemake.params.thresholds), "organ"),
        paper=[Path(path) for path in snakemake.input.paper],
        template=Path(snakemake.input.template),
    )
