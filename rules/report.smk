"""The reports: the release, the sources, what leaks, and how review stands."""


rule report_release:
    """Write the release report, one HTML file."""
    input:
        sums=f"results/release/{RELEASE}/SHA256SUMS",
        verification=f"results/release/{RELEASE}.verified.json",
        paper=PAPER,
        style=str(RESOURCES / "report/style.css"),
        template=str(RESOURCES / "report/release.html.jinja"),
        thresholds=records("thresholds.jsonl"),
    output:
        report="results/report/release.html",
    log:
        "logs/report_release.log",
    benchmark:
        "benchmarks/report_release.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        # Not inputs: a report must never start the choice of thresholds.
        curves="results/candidates/thresholds",
        thresholds=f"{RECORDS}/thresholds.jsonl",
        code=code_digest("report_release"),
    script:
        "../scripts/report_release.py"


rule report_leakage:
    """Write the report on leakage, one HTML file."""
    input:
        audit="results/release/check_leakage.json",
        splits="results/tables/splits.parquet",
        scans="results/tables/scans.parquet",
        sources=ALL_DESCRIPTIONS,
        template=str(RESOURCES / "report/leakage.html.jinja"),
        style=str(RESOURCES / "report/style.css"),
    output:
        report="results/report/leakage.html",
    log:
        "logs/report_leakage.log",
    benchmark:
        "benchmarks/report_leakage.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        code=code_digest("report_leakage"),
    script:
        "../scripts/report_leakage.py"


rule report_sources:
    """Write the report on sources, one HTML file."""
    input:
        status="results/tables/sources.parquet",
        scans="results/tables/scans.parquet",
        excluded="results/tables/excluded.parquet",
        overlaps="results/tables/source_overlaps.parquet",
        sources=ALL_DESCRIPTIONS,
        template=str(RESOURCES / "report/sources.html.jinja"),
        style=str(RESOURCES / "report/style.css"),
    output:
        report="results/report/sources.html",
    log:
        "logs/report_sources.log",
    benchmark:
        "benchmarks/report_sources.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        code=code_digest("report_sources"),
    script:
        "../scripts/report_sources.py"


rule report_review:
    """Write the report on models and review, one HTML file."""
    input:
        cases="results/ingest/cases.json",
        scans="results/tables/scans.parquet",
        masks="results/tables/masks.parquet",
        tumors="results/tables/tumors.parquet",
        reviews="results/tables/reviews.parquet",
        proposed=manifests("candidates", "propose_candidates"),
        merged=manifests("review", "merge_masks"),
        records=records(
            "batches.jsonl", "bases.jsonl", "models.jsonl", "reviewers.csv", "thresholds.jsonl"
        ),
        paper=str(RESOURCES / "paper.csv"),
        template=str(RESOURCES / "report/review.html.jinja"),
        style=str(RESOURCES / "report/style.css"),
    output:
        report="results/report/review.html",
    log:
        "logs/report_review.log",
    benchmark:
        "benchmarks/report_review.jsonl"
    conda:
        "../envs/model.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings={
            "organs": config["review"]["organs"],
            "size_edges_mm": config["measure"]["size_edges_mm"],
            "max_voxels": config["ingest"]["max_voxels"],
            "bootstrap": config["candidates"]["bootstrap"],
            "seed": config["seed"],
        },
        # Not inputs: a report must never start a training, the choice of thresholds or a plan.
        training="results/train",
        curves="results/candidates/thresholds",
        plan="results/review/plan_review.json",
        records=RECORDS,
        code=code_digest("report_review"),
    script:
        "../scripts/report_review.py"


rule report_tumors:
    """Draw tumors of every organ and size class with their contours, one HTML file."""
    input:
        sums=f"results/release/{RELEASE}/SHA256SUMS",
        template=str(RESOURCES / "report/tumors.html.jinja"),
        style=str(RESOURCES / "report/style.css"),
    output:
        report="results/report/tumors.html",
    log:
        "logs/report_tumors.log",
    benchmark:
        "benchmarks/report_tumors.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        seed=config["seed"],
        code=code_digest("report_tumors"),
    script:
        "../scripts/report_tumors.py"


rule report_diff:
    """Write what changed since the release before, and who caused it, as HTML and CSV."""
    input:
        previous=previous_release,
        sums=f"results/release/{RELEASE}/SHA256SUMS",
        template=str(RESOURCES / "report/diff.html.jinja"),
        style=str(RESOURCES / "report/style.css"),
    output:
        report="results/report/diff.html",
        table="results/report/diff.csv",
    log:
        "logs/report_diff.log",
    benchmark:
        "benchmarks/report_diff.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        code=code_digest("report_diff"),
    script:
        "../scripts/report_diff.py"


rule report_rules:
    """Write what each rule did, cost and rests on, and every case's lineage, as HTML and CSV."""
    input:
        sums=f"results/release/{RELEASE}/SHA256SUMS",
        # The last but check_privacy: it reports on the jobs of all others.
        verification=f"results/release/{RELEASE}.verified.json",
        reports=REPORTS,
        checked=checked_replays,
        snakefile=str(Path(workflow.basedir) / "Snakefile"),
        template=str(RESOURCES / "report/rules.html.jinja"),
        script=str(RESOURCES / "report/rules.js"),
        style=str(RESOURCES / "report/style.css"),
    output:
        report=RULES_REPORT,
        table="results/report/lineage.csv",
    log:
        "logs/report_rules.log",
    benchmark:
        "benchmarks/report_rules.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        # Not inputs: records have no rule, and a report must never start a replay.
        provenance="results/provenance",
        verdicts="results/reproduce/replay_rule",
        replays=replays,
        costs=config["costs"],
        code=code_digest("report_rules"),
    script:
        "../scripts/report_rules.py"
