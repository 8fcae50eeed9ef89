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
            *manifests("candidates", "predict_tumors"),
            *manifests("candidates", "propose_candidates"),
            *manifests("release", "write_cases"),
        ],
        masks=[
            *manifests("harmonize", "harmonize_scans"),
            *manifests("review", "merge_masks"),
            *manifests("measure", "measure_tumors"),
        ],
        segs=segs,
    output:
        table="results/tables/excluded.parquet",
    log:
        "logs/list_excluded.log",
    benchmark:
        "benchmarks/list_excluded.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
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
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
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
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        code=code_digest("count_sources"),
    script:
        "../scripts/count_sources.py"


rule split_cases:
    """Give every case its place in each split; no patient is torn."""
    input:
        cases="results/ingest/cases.json",
        scans="results/tables/scans.parquet",
        masks="results/tables/masks.parquet",
        tumors="results/tables/tumors.parquet",
        written=manifests("release", "write_cases"),
        measured=manifests("measure", "measure_tumors"),
    output:
        table="results/tables/splits.parquet",
        told="results/release/split_cases.json",
    log:
        "logs/split_cases.log",
    benchmark:
        "benchmarks/split_cases.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings=config["splits"] | {"seed": config["seed"]},
        registry=f"{RECORDS}/splits.jsonl",
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
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        code=code_digest("check_leakage"),
    script:
        "../scripts/check_leakage.py"


rule write_cases:
    """Write the released files of a shard's cases."""
    input:
        harmonized="results/harmonize/harmonize_scans/{shard}.tsv",
        merged="results/review/merge_masks/{shard}.tsv",
        sources=ALL_DESCRIPTIONS,
        terms=str(RESOURCES / "licences.csv"),
        permissions=records("permissions.csv"),
        after=ancient(said_of_shard),
    output:
        manifest="results/release/write_cases/{shard}.tsv",
    log:
        "logs/write_cases/{shard}.log",
    benchmark:
        "benchmarks/write_cases/{shard}.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings={"connectivity": config["measure"]["connectivity"]},
        # Not settings, which key every scan: they count where they decide otherwise.
        target=TARGET,
        annotation_licence=config["release"]["annotation_licence"],
        runner=config["runner"],
        code=code_digest("write_cases"),
    script:
        "../scripts/write_cases.py"


rule write_segs:
    """Write the masks of a shard's cases as DICOM SEG objects on their original series."""
    input:
        written="results/release/write_cases/{shard}.tsv",
        measured="results/measure/measure_tumors/{shard}.tsv",
        cases=cases_of_shard,
        codes=str(RESOURCES / "dicom_codes.csv"),
        after=ancient(said_of_shard),
    output:
        manifest="results/release/write_segs/{shard}.tsv",
    log:
        "logs/write_segs/{shard}.log",
    benchmark:
        "benchmarks/write_segs/{shard}.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings=READ_LIMITS,
        runner=config["runner"],
        code=code_digest("write_segs"),
    script:
        "../scripts/write_segs.py"


rule build_release:
    """Build the release tree with tables, layouts, documents and checksums."""
    input:
        tables=expand(
            "results/tables/{name}.parquet",
            name=[
                "scans",
                "relations",
                "repairs",
                "sources",
                "masks",
                "tumors",
                "reviews",
                "splits",
                "excluded",
            ],
        ),
        audit="results/release/check_leakage.json",
        written=manifests("release", "write_cases"),
        measured=manifests("measure", "measure_tumors"),
        segs=segs,
        proposed=manifests("candidates", "propose_candidates"),
        harmonized=manifests("harmonize", "harmonize_scans"),
        merged=manifests("review", "merge_masks"),
        sources=ALL_DESCRIPTIONS,
        terms=str(RESOURCES / "licences.csv"),
        permissions=records("permissions.csv"),
        card=str(RESOURCES / "release/README.md.jinja"),
        templates=RELEASE_FILES,
        previous=previous_release,
        registries=records("models.jsonl", "thresholds.jsonl"),
    output:
        sums=f"results/release/{RELEASE}/SHA256SUMS",
    log:
        "logs/build_release.log",
    benchmark:
        "benchmarks/build_release.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        max_excluded_fraction=config["release"]["max_excluded_fraction"],
        annotation_licence=config["release"]["annotation_licence"],
        settings={"version": VERSION, "target": TARGET, "definitions": DEFINITIONS},
        records=RECORDS,
        code=code_digest("build_release"),
    script:
        "../scripts/build_release.py"


rule verify_release:
    """Read the release back and fail on any broken promise."""
    input:
        sums=f"results/release/{RELEASE}/SHA256SUMS",
    output:
        verification=f"results/release/{RELEASE}.verified.json",
    log:
        "logs/verify_release.log",
    benchmark:
        "benchmarks/verify_release.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        code=code_digest("verify_release"),
    script:
        "../scripts/verify_release.py"


rule check_privacy:
    """Look for private words in every released file and report."""
    input:
        sums=f"results/release/{RELEASE}/SHA256SUMS",
        reports=[*REPORTS, RULES_REPORT],
    output:
        privacy=f"results/release/{RELEASE}.privacy.json",
    log:
        "logs/check_privacy.log",
    benchmark:
        "benchmarks/check_privacy.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        folders=INTERNAL_FOLDERS,
        public_words=config["release"]["public_words"],
        code=code_digest("check_privacy"),
    script:
        "../scripts/check_privacy.py"
