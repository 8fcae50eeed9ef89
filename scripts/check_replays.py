"""Refuse a run of which a replayed job did not repeat."""

from pathlib import Path

from tumoratlas.core.files import read_json, write_json
from tumoratlas.core.run import rule_run
from tumoratlas.reproduce.replay import refuse_different

with rule_run(snakemake):
    verdicts = [read_json(Path(path)) for path in snakemake.input.verdicts]
    refuse_different(verdicts, superseded=snakemake.params.superseded)
    told = {verdict["rule"]: verdict["verdict"] for verdict in verdicts}
    write_json(Path(snakemake.output.told), {"verdicts": told})
