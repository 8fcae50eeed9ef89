"""List the scans of a source, and the files that were not understood."""

from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.run import rule_run
from tumoratlas.ingest.steps import list_source

with rule_run(snakemake):
    listing = list_source(
        Path(snakemake.input.source),
        folder=Path(snakemake.params.folder),
        key_file=Path(snakemake.params.key),
    )
    write_json(Path(snakemake.output.listing), listing)
