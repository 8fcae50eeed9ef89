"""Splits, the release tree and its verification."""


rule list_excluded:
    """List every scan, mask and review that was left out, and why."""
    input:
        listings=LISTINGS,
        reports=[
            "results/ingest/deduplicate_scans.json",
            "results/ingest/assign_cases.json",
            "results/review/check_review.json",
        ],
        manifests=[
            *manifests("ingest", "fingerprint_scans"),
            *manifests("ingest", "confirm_pairs"),
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


rule list_repairs:
    """List every repair of a scan or mask, with before and after."""
    input:
        scans="results/ingest/deduplicate_scans.json",
        harmonized=manifests("harmonize", "harmonize_scans"),
    output:
        table="results/tables/repairs.parquet",
    log:
        "logs/list_repairs.log",
    benchmark:
        "benchmarks/list_repairs.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        code=code_digest("list_repairs"),
    script:
        "../scripts/list_repairs.py"


rule count_sources:
    """Count what became of every source, beside what was expected."""
    input:
        listings=LISTINGS,
        scans="results/tables/scans.parquet",
        excluded="results/tables/excluded.parquet",
        sources=ALL_DESCRIPTIONS,
        paper=str(RESOURCES / "paper.csv"),
    output:
        table="results/tables/sources.parquet",
    log:
        "logs/count_sources.log",
    benchmark:
        "benchmarks/count_sources.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        code=code_digest("count_sources"),
    script:
        "../scripts/count_sources.py"


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


rule check_leakage:
    """Find, for every case, the test sets that it touches, and through what."""
    input:
        scans="results/tables/scans.parquet",
        deduplicated="results/ingest/deduplicate_scans.json",
        relations="results/tables/relations.parquet",
        splits="results/tables/splits.parquet",
        listings=LISTINGS,
    output:
        audit="results/release/check_leakage.json",
        leakage="results/tables/leakage.parquet",
        test_scans="results/tables/test_scans.parquet",
        source_overlaps="results/tables/source_overlaps.parquet",
    log:
        "logs/check_leakage.log",
    benchmark:
        "benchmarks/check_leakage.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        code=code_digest("check_leakage"),
    script:
        "../scripts/check_leakage.py"


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
        relations="results/tables/relations.parquet",
        repairs="results/tables/repairs.parquet",
        status="results/tables/sources.parquet",
        audit="results/release/check_leakage.json",
        masks="results/tables/masks.parquet",
        tumors="results/tables/tumors.parquet",
        reviews="results/tables/reviews.parquet",
        splits="results/tables/splits.parquet",
        excluded="results/tables/excluded.parquet",
        written=manifests("release", "write_cases"),
        measured=manifests("measure", "measure_tumors"),
        proposed=manifests("candidates", "propose_candidates"),
        sources=[str(path) for path in DESCRIPTIONS.values()],
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
        max_excluded_fraction=config["release"]["max_excluded_fraction"],
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


rule check_privacy:
    """Look for private words in every released file and report."""
    input:
        sums=f"results/release/{VERSION}/SHA256SUMS",
        reports=REPORTS,
    output:
        privacy=f"results/release/{VERSION}.privacy.json",
    log:
        "logs/check_privacy.log",
    benchmark:
        "benchmarks/check_privacy.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        folders=INTERNAL_FOLDERS,
        public_words=config["release"]["public_words"],
        code=code_digest("check_privacy"),
    script:
        "../scripts/check_privacy.py"
