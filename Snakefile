"""TumorAtlas: from source folders to a verified tumor dataset release.

Table of contents; each stage's rules stand in rules/<stage>.smk.
"""

from snakemake.utils import min_version

min_version("9.19")


configfile: workflow.source_path("config.yaml")


include: "rules/common.smk"
include: "rules/ingest.smk"
include: "rules/harmonize.smk"
include: "rules/train.smk"
include: "rules/candidates.smk"
include: "rules/review.smk"
include: "rules/measure.smk"
include: "rules/release.smk"
include: "rules/reproduce.smk"
include: "rules/report.smk"


wildcard_constraints:
    source=r"[a-z0-9_]+",
    shard=r"s\d{4}",
    organ=r"[a-z]+",
    fold=r"\d+",


onstart:
    refuse_missing_sources()


rule all:
    """Build, verify and report the release."""
    default_target: True
    input:
        f"results/release/{RELEASE}.verified.json",
        f"results/release/{RELEASE}.privacy.json",
        REPORTS,


rule train:
    """Train, or import, and register a model for every organ; an explicit target."""
    input:
        expand("results/train/{organ}/registered.json", organ=config["train"]["organs"]),
        expand("results/train/{organ}/imported.json", organ=EXTERNAL),


rule thresholds:
    """Choose the threshold of every organ from out-of-fold predictions; an explicit target."""
    input:
        expand(
            "results/candidates/thresholds/{organ}.json",
            organ=[*config["train"]["organs"], *EXTERNAL],
        ),


rule packets:
    """Write what reviewers need."""
    input:
        "results/review/packets/batches.tsv",


rule replay:
    """Run sampled jobs of every rule again in scratch directories, and compare what they make."""
    input:
        REPLAYS,
