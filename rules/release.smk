"""Splits, the release tree and its verification."""


rule list_excluded:
    """List every scan, mask and review that was left out, and why."""
    input:
        listings=LISTINGS,
        reports=["results/ingest/deduplicate_scans.json", "results/review/check_review.json"],
        manifests=[
            *manifests("ingest", "fingerprint_scans"),
            *manifests("harmonize", "harmonize_scans"),
            *manifests("candidates", "predict_tumors"),
            *manifests("candidates", "propose_candidates"),
            *manifests("review", "merge_masks"),
            *manifests("measure", "measure_tumors"),
            *manifests("release", "write_cases"),
        ],
    output:
        table="results/tables/excluded.parquet",
    log:
        "logs/list_excluded.log",
    benchmark:
        "benchmarks/list_excluded.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        code=code_digest("list_excluded"),
    script:
        "../scripts/list_excluded.py"


rule split_cases:
    """Give every case its place in each split; no patient is torn."""
    input:
        cases="results/ingest/cases.json",
        written=manifests("release", "write_cases"),
        measured=manifests("measure", "measure_tumors"),
    output:
        table="results/tables/splits.parquet",
    log:
        "logs/split_cases.log",
    benchmark:
        "benchmarks/split_cases.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        settings=config["splits"] | {"seed": config["seed"]},
        code=code_digest("split_cases"),
    script:
        "../scripts/split_cases.py"


rule write_cases:
    """Write the released files of a shard's cases."""
    input:
        harmonized="results/harmonize/harmonize_scans/{shard}.tsv",
        merged="results/review/merge_masks/{shard}.tsv",
    output:
        manifest="results/release/write_cases/{shard}.tsv",
    log:
        "logs/write_cases/{shard}.log",
    benchmark:
        "benchmarks/write_cases/{shard}.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        settings={},
        runner=config["runner"],
        code=code_digest("write_cases"),
    script:
        "../scripts/write_cases.py"


rule build_release:
    """Build the release tree with tables, class map, data card and checksums."""
    input:
        scans="results/tables/scans.parquet",
        masks="results/tables/masks.parquet",
        tumors="results/tables/tumors.parquet",
        reviews="results/tables/reviews.parquet",
        splits="results/tables/splits.parquet",
        excluded="results/tables/excluded.parquet",
        written=manifests("release", "write_cases"),
        measured=manifests("measure", "measure_tumors"),
        proposed=manifests("candidates", "propose_candidates"),
        sources=[str(RESOURCES / f"sources/{source}.yaml") for source in SOURCES],
        card=str(RESOURCES / "release/README.md.jinja"),
        registries=records("models.jsonl", "thresholds.jsonl"),
    output:
        sums=f"results/release/{VERSION}/SHA256SUMS",
    log:
        "logs/build_release.log",
    benchmark:
        "benchmarks/build_release.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        **config["release"],
        version=VERSION,
        definitions=config["measure"],
        records=RECORDS,
        code=code_digest("build_release"),
    script:
        "../scripts/build_release.py"


rule verify_release:
    """Read the release back and fail on any broken promise."""
    input:
        sums=f"results/release/{VERSION}/SHA256SUMS",
    output:
        verification=f"results/release/{VERSION}.verified.json",
    log:
        "logs/verify_release.log",
    benchmark:
        "benchmarks/verify_release.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        code=code_digest("verify_release"),
    script:
        "../scripts/verify_release.py"
