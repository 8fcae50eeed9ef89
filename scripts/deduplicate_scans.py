"""Group copies of one scan and choose the one to keep."""

from pathlib import Path

from tumoratlas.core.files import read_json, write_json
from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import read_excluded, read_rows
from tumoratlas.core.tables import write_table
from tumoratlas.ingest.dedupe import deduplicate, relations_table, unconfirmed

with rule_run(snakemake):
    paths = snakemake.input
    matched = read_json(Path(paths.pairs))
    relations = matched["relations"] + read_rows(paths.confirmed)
    relations += unconfirmed(matched["pairs"], read_excluded(paths.confirmed))
    scans, excluded = deduplicate(
        read_rows(paths.manifests), relations, precedence=snakemake.params.precedence
    )
    result = {"scans": scans, "relations": relations, "excluded": excluded}
    write_json(Path(snakemake.output.scans), result)
    write_table(Path(snakemake.output.relations), "relations", relations_table(relations))
