"""Kept scans to cases: one orientation, the release image and the model grid."""


rule harmonize_scans:
    """Write the volumes of every case of a shard, with the labels of all its copies."""
    input:
        cases="results/ingest/cases.json",
    output:
        manifest="results/harmonize/harmonize_scans/{shard}.tsv",
    log:
        "logs/harmonize_scans/{shard}.log",
    benchmark:
        "benchmarks/harmonize_scans/{shard}.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        settings=config["harmonize"] | READ_LIMITS,
        runner=config["runner"],
        code=code_digest("harmonize_scans"),
    script:
        "../scripts/harmonize_scans.py"
