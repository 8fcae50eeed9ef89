"""What people decide: packets out, returns in, the ledger and the final masks.

Reviewers' files come back below records/returns/<batch>/ (see docs/review.md).
"""


rule export_packets:
    """Write the CT, candidates and organ outlines of a shard's cases for review."""
    input:
        harmonized="results/harmonize/harmonize_scans/{shard}.tsv",
        proposed="results/candidates/propose_candidates/{shard}.tsv",
    output:
        manifest="results/review/packets/{shard}.tsv",
    log:
        "logs/export_packets/{shard}.log",
    benchmark:
        "benchmarks/export_packets/{shard}.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        settings=config["review"],
        runner=config["runner"],
        code=code_digest("export_packets"),
    script:
        "../scripts/export_packets.py"


rule export_review:
    """Write the worklist, the form for decisions and the reviewers' instructions."""
    input:
        packets=expand("results/review/packets/{shard}.tsv", shard=SHARDS),
    output:
        worklist="results/review/packets/worklist.csv",
    log:
        "logs/export_review.log",
    benchmark:
        "benchmarks/export_review.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        code=code_digest("export_review"),
    script:
        "../scripts/export_review.py"


rule check_review:
    """Check what reviewers sent back and append it, and the sources' labels, to the ledger."""
    input:
        harmonized=manifests("harmonize", "harmonize_scans"),
        proposed=manifests("candidates", "propose_candidates"),
        returned=returned_files,
        reviewers=records("reviewers.csv"),
    output:
        reviews="results/tables/reviews.parquet",
        excluded="results/review/check_review.json",
    log:
        "logs/check_review.log",
    benchmark:
        "benchmarks/check_review.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        organs=config["review"]["organs"],
        records=RECORDS,
        code=code_digest("check_review"),
    script:
        "../scripts/check_review.py"


rule merge_masks:
    """Settle the final masks of a shard: source labels, accepted, edited and added tumors."""
    input:
        harmonized="results/harmonize/harmonize_scans/{shard}.tsv",
        proposed="results/candidates/propose_candidates/{shard}.tsv",
        reviews="results/tables/reviews.parquet",
    output:
        manifest="results/review/merge_masks/{shard}.tsv",
    log:
        "logs/merge_masks/{shard}.log",
    benchmark:
        "benchmarks/merge_masks/{shard}.jsonl"
    conda:
        "../envs/base.yaml"
    params:
        settings={"connectivity": config["measure"]["connectivity"]},
        records=RECORDS,
        runner=config["runner"],
        code=code_digest("merge_masks"),
    script:
        "../scripts/merge_masks.py"
