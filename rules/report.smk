"""The release report: what is in the release, beside what the paper says."""


rule report_release:
    """Write the release report, one HTML file."""
    input:
        sums=f"results/release/{VERSION}/SHA256SUMS",
        verification=f"results/release/{VERSION}.verified.json",
        paper=str(RESOURCES / "paper.csv"),
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
    params:
        # Not inputs: a report must never start the choice of thresholds.
        curves="results/candidates/thresholds",
        thresholds=f"{RECORDS}/thresholds.jsonl",
        code=code_digest("report_release"),
    script:
        "../scripts/report_release.py"
