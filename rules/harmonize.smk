"""Kept scans to cases: one orientation, the release image and the model grid."""


rule harmonize_scans:
    """Write the volumes of every case of a shard, with the labels of all its copies."""
    input:
        cases=cases_of_shard,
    output:
        manifest="results/harmonize/harmonize_scans/{shard}.tsv",
    log:
        "logs/harmonize_scans/{shard}.log",
    benchmark:
        "benchmarks/harmonize_scans/{shard}.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings=config["harmonize"] | READ_LIMITS,
        runner=config["runner"],
        code=code_digest("harmonize_scans"),
    script:
        "../scripts/harmonize_scans.py"
