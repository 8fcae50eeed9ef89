"""Give every kept scan its case id, for ever, and its shard."""

from pathlib import Path

from tumoratlas.core.files import read_json, write_json
from tumoratlas.core.run import rule_run
from tumoratlas.core.shards import write_shards
from tumoratlas.core.tables import write_table
from tumoratlas.ingest.registry import (
    append_case_ids,
    assign_cases,
    read_case_ids,
    read_groups,
    scans_table,
    withdrawn_cases,
)
from tumoratlas.ingest.shards import cases_by_shard
from tumoratlas.ingest.sources import read_source
from tumoratlas.ingest.steps import case_members, listed_scans

with rule_run(snakemake):
    registry = Path(snakemake.params.registry)
    sources = [read_source(Path(path)) for path in snakemake.input.sources]
    found = read_json(Path(snakemake.input.scans))
    registered = read_case_ids(registry)
    scans, new = assign_cases(
        found["scans"],
        registered,
        withdrawn=[row["id"] for row in withdrawn_cases(registry)],
        parents=[source.id for source in sources if source.keeps_case_id],
        first_case_id=snakemake.params.first_case_id,
        shards=snakemake.params.shards,
    )
    listed = listed_scans(snakemake.input.listings)
    members = case_members(scans, found["relations"], listed, read_groups(registry))
    append_case_ids(registry, new, registered, {c: one["group"] for c, one in members.items()})
    write_table(Path(snakemake.output.table), "scans", scans_table(scans))
    write_json(Path(snakemake.output.cases), members)
    write_shards(snakemake.output.shards, cases_by_shard(members))
    write_json(Path(snakemake.output.withdrawn), {"excluded": withdrawn_cases(registry)})
