"""Source folders to named scans.

Expects every source folder of `config["sources"]`; leaves results/ingest/cases.json and
results/tables/scans.parquet.
"""


rule list_scans:
    """List the scans of a source, and the files that were not understood."""
    input:
        source=source_file,
    output:
        listing="results/ingest/list_scans/{source}.json",
    log:
        "logs/list_scans/{source}.log",
    benchmark:
        "benchmarks/list_scans/{source}.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        folder=source_folder,
        code=code_digest("list_scans"),
    script:
        "../scripts/list_scans.py"


rule fingerprint_scans:
    """Read every scan of a shard once: checks, voxel hash and header facts."""
    input:
        listings=LISTINGS,
    output:
        manifest="results/ingest/fingerprint_scans/{shard}.tsv",
    log:
        "logs/fingerprint_scans/{shard}.log",
    benchmark:
        "benchmarks/fingerprint_scans/{shard}.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        settings={key: config["ingest"][key] for key in ("max_voxels", "min_slices")},
        shards=config["shards"],
        runner=config["runner"],
        code=code_digest("fingerprint_scans"),
    script:
        "../scripts/fingerprint_scans.py"


rule deduplicate_scans:
    """Group scans of equal content and choose the one to keep."""
    input:
        manifests=manifests("ingest", "fingerprint_scans"),
    output:
        scans="results/ingest/deduplicate_scans.json",
    log:
        "logs/deduplicate_scans.log",
    benchmark:
        "benchmarks/deduplicate_scans.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        precedence=config["ingest"]["precedence"],
        code=code_digest("deduplicate_scans"),
    script:
        "../scripts/deduplicate_scans.py"


rule assign_cases:
    """Give every kept scan its case id, for ever, and its shard."""
    input:
        scans="results/ingest/deduplicate_scans.json",
        listings=LISTINGS,
        sources=[str(RESOURCES / f"sources/{source}.yaml") for source in SOURCES],
    output:
        table="results/tables/scans.parquet",
        cases="results/ingest/cases.json",
    log:
        "logs/assign_cases.log",
    benchmark:
        "benchmarks/assign_cases.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        registry=f"{RECORDS}/case_ids.jsonl",
        first_case_id=config["ingest"]["first_case_id"],
        shards=config["shards"],
        code=code_digest("assign_cases"),
    script:
        "../scripts/assign_cases.py"
