"""Does the run repeat: jobs of every rule, run again in a scratch directory.

Nothing here runs unless asked for by `replay`, or by `all` with `replay.required`.
"""

REPLAYED = sorted(path.stem for path in Path(workflow.basedir, "scripts").glob("*.py"))
# Rules that cannot be tried, and why.
NOT_REPLAYED = {
    "check_replays": "it judges replays",
    "fetch_files": "it writes into the folder of a source",
    "replay_rule": "it is the replay",
    "report_rules": "it tells times",
}
REPLAYS = expand("results/reproduce/replay_rule/{rule}.json", rule=REPLAYED)


rule replay_rule:
    """Run sampled jobs of a rule again in a scratch directory and compare what they make."""
    input:
        tolerances=str(RESOURCES / "tolerances.csv"),
        after=replayed_after,
    output:
        verdict="results/reproduce/replay_rule/{rule}.json",
    log:
        "logs/replay_rule/{rule}.log",
    benchmark:
        "benchmarks/replay_rule/{rule}.jsonl"
    wildcard_constraints:
        rule="|".join(REPLAYED),
    conda:
        "../envs/model.yaml"
    threads: replay_threads
    resources:
        mem_mb=replay_memory,
        runtime=replay_time,
        gpu=replay_gpus,
    params:
        settings={"jobs": config["replay"]["jobs"], "seed": config["seed"]},
        records=RECORDS,
        sources=list(SOURCES.values()),
        not_replayed=not_replayed,
        replayed_code=replayed_code,
        code=code_digest("replay_rule"),
    script:
        "../scripts/replay_rule.py"


rule check_replays:
    """Refuse a run of which a replayed job did not repeat."""
    input:
        verdicts=REPLAYS,
    output:
        told="results/reproduce/check_replays.json",
    log:
        "logs/check_replays.log",
    benchmark:
        "benchmarks/check_replays.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        # Of targets other than `all`, which does not bring them up to date; and the search for
        # private words, which comes after this check, since it reads the report on rules.
        superseded=[
            "check_privacy",
            "prepare_training",
            "train_model",
            "register_model",
            "import_model",
            "choose_threshold",
            "plan_review",
            "export_packets",
        ],
        code=code_digest("check_replays"),
    script:
        "../scripts/check_replays.py"
