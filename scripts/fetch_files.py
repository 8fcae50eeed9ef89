"""Fetch the open files of a source by checksum and unpack its archives."""

from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.run import rule_run
from tumoratlas.ingest.fetching import fetch

with rule_run(snakemake):
    files = fetch(Path(snakemake.input.lock), Path(snakemake.params.folder))
    write_json(Path(snakemake.output.files), {"files": files})
