"""Source folders to named scans, each with its copies.

Expects every source folder of `config["sources"]`; leaves results/ingest/cases.json,
results/tables/scans.parquet and results/tables/relations.parquet.
"""


rule fetch_files:
    """Fetch the open files of a source by checksum and unpack its archives."""
    input:
        lock=source_lock,
    output:
        files="results/ingest/fetch_files/{source}.json",
    log:
        "logs/fetch_files/{source}.log",
    benchmark:
        "benchmarks/fetch_files/{source}.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        folder=source_folder,
        code=code_digest("fetch_files"),
    script:
        "../scripts/fetch_files.py"


rule list_scans:
    """List the scans of a source, and the files that were not understood."""
    input:
        source=source_file,
        fetched=fetched_files,
        key=pseudonym_key,
    output:
        listing="results/ingest/list_scans/{source}.json",
    log:
        "logs/list_scans/{source}.log",
    benchmark:
        "benchmarks/list_scans/{source}.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        folder=source_folder,
        key=PSEUDONYM_KEY,
        code=code_digest("list_scans"),
    script:
        "../scripts/list_scans.py"


checkpoint shard_scans:
    """Deal the listed scans to the shards that read them."""
    input:
        listings=LISTINGS,
    output:
        shards=shard_files("ingest", "shard_scans"),
    log:
        "logs/shard_scans.log",
    benchmark:
        "benchmarks/shard_scans.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        shards=config["shards"],
        code=code_digest("shard_scans"),
    script:
        "../scripts/shard_scans.py"


rule fingerprint_scans:
    """Read every scan of a shard once: checks, hashes, fingerprint and header facts."""
    input:
        scans=scans_of_shard,
        key=records("pseudonym.key") if INTERNAL_FOLDERS else [],
    output:
        manifest="results/ingest/fingerprint_scans/{shard}.tsv",
    log:
        "logs/fingerprint_scans/{shard}.log",
    benchmark:
        "benchmarks/fingerprint_scans/{shard}.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings=READ_LIMITS,
        key=PSEUDONYM_KEY,
        runner=config["runner"],
        code=code_digest("fingerprint_scans"),
    script:
        "../scripts/fingerprint_scans.py"


checkpoint match_scans:
    """Find equal scans, and pairs that may be copies, from an index of fingerprints."""
    input:
        listings=LISTINGS,
        manifests=manifests("ingest", "fingerprint_scans"),
    output:
        pairs="results/ingest/match_scans.json",
        shards=shard_files("ingest", "match_scans"),
    log:
        "logs/match_scans.log",
    benchmark:
        "benchmarks/match_scans.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        shards=config["shards"],
        code=code_digest("match_scans"),
    script:
        "../scripts/match_scans.py"


rule confirm_pairs:
    """Compare the voxels of a shard's candidate pairs and name each pair's relation."""
    input:
        pairs=pairs_of_shard,
    output:
        manifest="results/ingest/confirm_pairs/{shard}.tsv",
    log:
        "logs/confirm_pairs/{shard}.log",
    benchmark:
        "benchmarks/confirm_pairs/{shard}.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings=READ_LIMITS,
        runner=config["runner"],
        code=code_digest("confirm_pairs"),
    script:
        "../scripts/confirm_pairs.py"


rule deduplicate_scans:
    """Group copies of one scan and choose the one to keep."""
    input:
        manifests=manifests("ingest", "fingerprint_scans"),
        pairs="results/ingest/match_scans.json",
        confirmed=manifests("ingest", "confirm_pairs"),
    output:
        scans="results/ingest/deduplicate_scans.json",
        relations="results/tables/relations.parquet",
    log:
        "logs/deduplicate_scans.log",
    benchmark:
        "benchmarks/deduplicate_scans.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        precedence=config["ingest"]["precedence"],
        code=code_digest("deduplicate_scans"),
    script:
        "../scripts/deduplicate_scans.py"


checkpoint assign_cases:
    """Give every kept scan its case id, for ever, and its shard."""
    input:
        scans="results/ingest/deduplicate_scans.json",
        listings=LISTINGS,
        sources=[str(path) for path in DESCRIPTIONS.values()],
    output:
        table="results/tables/scans.parquet",
        cases="results/ingest/cases.json",
        shards=shard_files("ingest", "cases"),
        withdrawn="results/ingest/assign_cases.json",
    log:
        "logs/assign_cases.log",
    benchmark:
        "benchmarks/assign_cases.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        registry=f"{RECORDS}/case_ids.jsonl",
        first_case_id=config["ingest"]["first_case_id"],
        shards=config["shards"],
        code=code_digest("assign_cases"),
    script:
        "../scripts/assign_cases.py"
