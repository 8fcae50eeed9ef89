"""Group scans of equal content and choose the one to keep."""

from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import read_rows
from tumoratlas.ingest.dedupe import deduplicate

with rule_run(snakemake):
    scans, excluded = deduplicate(
        read_rows(snakemake.input.manifests), precedence=snakemake.params.precedence
    )
    write_json(Path(snakemake.output.scans), {"scans": scans, "excluded": excluded})
