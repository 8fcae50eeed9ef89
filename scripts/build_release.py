"""Build the release tree with tables, class map, data card and checksums."""

from pathlib import Path

from tumoratlas.core.files import read_json
from tumoratlas.core.records import latest_by
from tumoratlas.core.run import rule_run
from tumoratlas.core.runner import read_rows
from tumoratlas.core.tables import read_rows_of
from tumoratlas.ingest.sources import read_source
from tumoratlas.release.build import build_release
from tumoratlas.release.leakage import LeakageAudit, audit_tables, refuse_leaks
from tumoratlas.release.steps import complete_cases, refuse_many_excluded

with rule_run(snakemake):
    paths, params = snakemake.input, snakemake.params
    audit = LeakageAudit(**read_json(Path(paths.audit)))
    refuse_leaks(audit)
    names = ("scans", "relations", "repairs", "masks", "tumors", "reviews", "splits", "excluded")
    tables = {name: read_rows_of(Path(paths[name])) for name in names}
    tables |= audit_tables(audit) | {"sources": read_rows_of(Path(paths.status))}
    proposed = read_rows(paths.proposed)
    tables["candidates"] = [row for case in proposed for row in case["candidates"]]
    refuse_many_excluded(tables["excluded"], len(tables["scans"]), params.max_excluded_fraction)
    build_release(
        Path(snakemake.output.sums).parent,
        version=params.version,
        cases=complete_cases(paths.written, paths.measured),
        tables=tables,
        sources=[read_source(Path(path)) for path in paths.sources],
        models=list(latest_by(Path(params.records, "models.jsonl"), "organ").values()),
        thresholds=latest_by(Path(params.records, "thresholds.jsonl"), "organ"),
        definitions=params.definitions,
        card=Path(paths.card),
    )
