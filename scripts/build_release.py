"""Build the release tree with tables, layouts, documents and checksums."""

from pathlib import Path

from tumoratlas.core.records import latest_by
from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import finished_folders
from tumoratlas.release.build import build_release
from tumoratlas.release.licences.policy import read_policy
from tumoratlas.release.steps import (
    complete_cases,
    gather_tables,
    list_licences,
    refuse_many_excluded,
)

with rule_run(snakemake):
    paths, params = snakemake.input, snakemake.params
    policy = read_policy(
        sources=paths.sources,
        terms=Path(paths.terms),
        permissions=paths.permissions,
        annotation_licence=params.annotation_licence,
    )
    tables = gather_tables(paths.tables, Path(paths.audit), paths.proposed)
    tables["licences"] = list_licences(paths.harmonized, paths.merged, policy)
    refuse_many_excluded(tables["excluded"], len(tables["scans"]), params.max_excluded_fraction)
    build_release(
        Path(snakemake.output.sums).parent,
        cases=complete_cases(paths.written, paths.measured),
        segs=finished_folders(paths.segs),
        tables=tables,
        sources=list(policy.sources.values()),
        models=list(latest_by(Path(params.records, "models.jsonl"), "organ").values()),
        thresholds=latest_by(Path(params.records, "thresholds.jsonl"), "organ"),
        resources=Path(paths.card).parent,
        previous=Path(paths.previous[0]).parent if paths.previous else None,
        **params.settings,
    )
