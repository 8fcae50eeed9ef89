"""What people decide: packets out, returns in, the ledger and the final masks.

Reviewers' files come back below records/returns/<batch>/ (see docs/review.md).
"""


checkpoint check_review:
    """Check what reviewers sent back and append it, and the sources' labels, to the ledger."""
    input:
        harmonized=manifests("harmonize", "harmonize_scans"),
        proposed=manifests("candidates", "propose_candidates"),
        returned=returned_files,
        records=records("reviewers.csv", "batches.jsonl", "ledger.jsonl"),
    output:
        reviews="results/tables/reviews.parquet",
        excluded="results/review/check_review.json",
        shards=shard_files("review", "check_review"),
    log:
        "logs/check_review.log",
    benchmark:
        "benchmarks/check_review.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
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
        said=said_of_shard,
    output:
        manifest="results/review/merge_masks/{shard}.tsv",
    log:
        "logs/merge_masks/{shard}.log",
    benchmark:
        "benchmarks/merge_masks/{shard}.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings={
            "organs": config["review"]["organs"],
            "connectivity": config["measure"]["connectivity"],
        },
        records=RECORDS,
        runner=config["runner"],
        code=code_digest("merge_masks"),
    script:
        "../scripts/merge_masks.py"


rule plan_review:
    """Deal what is open to the reviewers, in the order of what to review next."""
    input:
        harmonized=manifests("harmonize", "harmonize_scans"),
        proposed=manifests("candidates", "propose_candidates"),
        merged=manifests("review", "merge_masks"),
        cases="results/ingest/cases.json",
        scans="results/tables/scans.parquet",
        masks="results/tables/masks.parquet",
        tumors="results/tables/tumors.parquet",
        reviews="results/tables/reviews.parquet",
        reviewers=records("reviewers.csv"),
    output:
        plan="results/review/plan_review.json",
        worklist="results/review/worklist.csv",
    log:
        "logs/plan_review.log",
    benchmark:
        "benchmarks/plan_review.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings=config["review"]
        | {"size_edges_mm": config["measure"]["size_edges_mm"], "seed": config["seed"]},
        # Not an input: a plan must never start the choice of thresholds.
        curves="results/candidates/thresholds",
        records=RECORDS,
        code=code_digest("plan_review"),
    script:
        "../scripts/plan_review.py"


rule export_packets:
    """Write what each reviewer gets for each batch that is outstanding."""
    input:
        plan="results/review/plan_review.json",
        harmonized=manifests("harmonize", "harmonize_scans"),
        proposed=manifests("candidates", "propose_candidates"),
        reviews="results/tables/reviews.parquet",
        page=TRIAGE_PAGE,
    output:
        manifest="results/review/packets/batches.tsv",
    log:
        "logs/export_packets.log",
    benchmark:
        "benchmarks/export_packets.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings={},
        records=RECORDS,
        runner=config["runner"],
        code=code_digest("export_packets"),
    script:
        "../scripts/export_packets.py"
