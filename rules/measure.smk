"""Tumor instances: sizes, classes and counts."""


rule measure_tumors:
    """Measure every tumor instance of a shard on its case's native grid."""
    input:
        harmonized="results/harmonize/harmonize_scans/{shard}.tsv",
        merged="results/review/merge_masks/{shard}.tsv",
        after=ancient(said_of_shard),
    output:
        manifest="results/measure/measure_tumors/{shard}.tsv",
    log:
        "logs/measure_tumors/{shard}.log",
    benchmark:
        "benchmarks/measure_tumors/{shard}.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings={
            key: config["measure"][key]
            for key in (
                "connectivity",
                "size_edges_mm",
                "early_diameter_mm",
                "minimum_volume_mm3",
            )
        },
        runner=config["runner"],
        code=code_digest("measure_tumors"),
    script:
        "../scripts/measure_tumors.py"


rule count_tumors:
    """Count tumors by organ, size class and source."""
    input:
        harmonized=manifests("harmonize", "harmonize_scans"),
        merged=manifests("review", "merge_masks"),
        measured=manifests("measure", "measure_tumors"),
    output:
        tumors="results/tables/tumors.parquet",
        masks="results/tables/masks.parquet",
        by_size="results/measure/tumors_by_size.csv",
        by_source="results/measure/tumors_by_source.csv",
    log:
        "logs/count_tumors.log",
    benchmark:
        "benchmarks/count_tumors.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        code=code_digest("count_tumors"),
    script:
        "../scripts/count_tumors.py"
