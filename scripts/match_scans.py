"""Find equal scans, and pairs that may be copies, from an index of fingerprints."""

from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.run import rule_run
from tumoratlas.core.shards import write_shards
from tumoratlas.ingest.shards import pairs_by_shard
from tumoratlas.ingest.steps import listed_scans, match_fingerprints

with rule_run(snakemake):
    given = snakemake.input
    matched = match_fingerprints(given.manifests)
    parts = pairs_by_shard(
        matched["pairs"],
        listed_scans(given.listings),
        given.manifests,
        snakemake.params.shards,
    )
    write_json(Path(snakemake.output.pairs), matched)
    write_shards(snakemake.output.shards, parts)
