"""Count what became of every source, beside what was expected."""

from pathlib import Path

from tumoratlas.core.files import read_json
from tumoratlas.core.run import rule_run
from tumoratlas.core.tables import read_rows_of, write_table
from tumoratlas.ingest.sources import read_source
from tumoratlas.ingest.status import claimed_scans, source_status

with rule_run(snakemake):
    paths = snakemake.input
    rows = source_status(
        [read_source(Path(path)) for path in paths.sources],
        {Path(path).stem: read_json(Path(path)) for path in paths.listings},
        read_rows_of(Path(paths.scans)),
        read_rows_of(Path(paths.excluded)),
        claimed=claimed_scans(Path(paths.paper)),
    )
    write_table(Path(snakemake.output.table), "sources", rows)
