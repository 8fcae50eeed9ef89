"""Write the report on sources, one HTML file."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.core.tables import read_rows_of
from tumoratlas.ingest.sources import read_source
from tumoratlas.report.sources import write_sources_report

with rule_run(snakemake):
    paths = snakemake.input
    write_sources_report(
        Path(snakemake.output.report),
        sources=[read_source(Path(path)) for path in paths.sources],
        status=read_rows_of(Path(paths.status)),
        scans=read_rows_of(Path(paths.scans)),
        excluded=read_rows_of(Path(paths.excluded)),
        overlaps=read_rows_of(Path(paths.overlaps)),
        template=Path(paths.template),
    )
