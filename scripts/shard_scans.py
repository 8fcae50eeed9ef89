"""Deal the listed scans to the shards that read them."""

from tumoratlas.core.run import rule_run
from tumoratlas.core.shards import write_shards
from tumoratlas.ingest.shards import scans_by_shard
from tumoratlas.ingest.steps import listed_scans

with rule_run(snakemake):
    scans = listed_scans(snakemake.input.listings)
    write_shards(snakemake.output.shards, scans_by_shard(scans, snakemake.params.shards))
