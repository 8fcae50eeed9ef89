"""Model output to candidates: level maps, thresholds, components.

Without registered models (see `train`) no organ is predicted and no candidate proposed.
"""


rule predict_tumors:
    """Predict the level maps of a shard, one organ's model in memory at a time."""
    input:
        cases=cases_of_shard,
        harmonized="results/harmonize/harmonize_scans/{shard}.tsv",
        models=records("models.jsonl"),
    output:
        manifest="results/candidates/predict_tumors/{shard}.tsv",
    log:
        "logs/predict_tumors/{shard}.log",
    benchmark:
        "benchmarks/predict_tumors/{shard}.jsonl"
    conda:
        "../envs/model.yaml"
    # Processes take turns on the GPU: one computes while the others read and write.
    threads: 3 if config["candidates"]["device"] == "cuda" else 1
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
        gpu=gpus("candidates"),
    params:
        settings={
            key: config["candidates"][key]
            for key in ("thresholds", "tile_step", "mirroring", "precision", "region_margin_mm")
        },
        device=config["candidates"]["device"],
        registry=f"{RECORDS}/models.jsonl",
        runner=config["runner"],
        code=code_digest("predict_tumors"),
    script:
        "../scripts/predict_tumors.py"


rule choose_threshold:
    """Choose an organ's threshold on its out-of-fold FROC curve; asked for by `thresholds`."""
    input:
        models=records("models.jsonl"),
        harmonized=manifests("harmonize", "harmonize_scans"),
        predicted=manifests("candidates", "predict_tumors"),
    output:
        choice="results/candidates/thresholds/{organ}.json",
        curve="results/candidates/thresholds/{organ}.csv",
    log:
        "logs/choose_threshold/{organ}.log",
    benchmark:
        "benchmarks/choose_threshold/{organ}.jsonl"
    conda:
        "../envs/model.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings={
            key: config["candidates"][key]
            for key in (
                "sensitivity",
                "criterion",
                "hit_rule",
                "maximum_false_fraction",
                "on_shortfall",
                "bootstrap",
                "minimum_volume_mm3",
                "connectivity",
            )
        }
        | {"seed": config["seed"]},
        registry=f"{RECORDS}/models.jsonl",
        chosen=f"{RECORDS}/thresholds.jsonl",
        code=code_digest("choose_threshold"),
    script:
        "../scripts/choose_threshold.py"


rule propose_candidates:
    """Propose the candidates of a shard for review."""
    input:
        harmonized="results/harmonize/harmonize_scans/{shard}.tsv",
        predicted="results/candidates/predict_tumors/{shard}.tsv",
        chosen=records("thresholds.jsonl"),
        after=ancient(cases_of_shard),
    output:
        manifest="results/candidates/propose_candidates/{shard}.tsv",
    log:
        "logs/propose_candidates/{shard}.log",
    benchmark:
        "benchmarks/propose_candidates/{shard}.jsonl"
    conda:
        "../envs/model.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings={
            key: config["candidates"][key]
            for key in ("minimum_volume_mm3", "connectivity", "margin_mm")
        },
        chosen=f"{RECORDS}/thresholds.jsonl",
        runner=config["runner"],
        code=code_digest("propose_candidates"),
    script:
        "../scripts/propose_candidates.py"
