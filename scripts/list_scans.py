"""List the scans of a source, and the files that were not understood."""

from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.run import rule_run
from tumoratlas.ingest.listing import list_scans
from tumoratlas.ingest.sources import read_source

with rule_run(snakemake):
    write_json(
        Path(snakemake.output.listing),
        list_scans(read_source(Path(snakemake.input.source)), Path(snakemake.params.folder)),
    )
