"""Find equal scans, and pairs that may be copies, from an index of fingerprints."""

from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.run import rule_run
from tumoratlas.ingest.steps import match_fingerprints

with rule_run(snakemake):
    write_json(Path(snakemake.output.pairs), match_fingerprints(snakemake.input.manifests))
