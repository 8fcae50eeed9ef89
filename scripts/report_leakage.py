"""Write the report on leakage, one HTML file."""

from pathlib import Path

from tumoratlas.core.files import read_json
from tumoratlas.core.run import rule_run
from tumoratlas.core.tables import read_rows_of
from tumoratlas.ingest.sources import read_source
from tumoratlas.release.leakage.audit import LeakageAudit
from tumoratlas.report.leakage import write_leakage_report

with rule_run(snakemake):
    paths = snakemake.input
    write_leakage_report(
        Path(snakemake.output.report),
        audit=LeakageAudit(**read_json(Path(paths.audit))),
        splits=read_rows_of(Path(paths.splits)),
        scans=read_rows_of(Path(paths.scans)),
        sources=[read_source(Path(path)) for path in paths.sources],
        template=Path(paths.template),
    )
