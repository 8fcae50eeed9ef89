"""Find, for every case, the test sets that it touches, and through what."""

from dataclasses import asdict
from pathlib import Path

from tumoratlas.core.files import write_json
from tumoratlas.core.run import rule_run
from tumoratlas.core.tables import read_rows_of, write_table
from tumoratlas.ingest.steps import listed_scans
from tumoratlas.release.leakage.audit import audit_leakage, audit_tables
from tumoratlas.release.steps import linked_scans

with rule_run(snakemake):
    paths, results = snakemake.input, snakemake.output
    audit = audit_leakage(
        linked_scans(Path(paths.scans), Path(paths.deduplicated)),
        read_rows_of(Path(paths.relations)),
        read_rows_of(Path(paths.splits)),
        listed_scans(paths.listings).values(),
    )
    write_json(Path(results.audit), asdict(audit))
    for name, rows in audit_tables(audit).items():
        write_table(Path(results[name]), name, rows)
