"""Models of the six organs; nothing here runs unless asked for by `train`.

Leaves weights and their hashes in the model registry, records/models.jsonl.
"""

TRAIN_SETTINGS = {
    key: value
    for key, value in config["train"].items()
    if key not in ("organs", "external", "device")
} | {"seed": config["seed"], "spacing_mm": config["harmonize"]["model_spacing_mm"]}


rule prepare_training:
    """Write an organ's annotated cases as nnU-Net's preprocessed dataset, plan and folds."""
    input:
        cases="results/ingest/cases.json",
        harmonized=manifests("harmonize", "harmonize_scans"),
    output:
        plans="results/train/{organ}/plans.json",
        dataset="results/train/{organ}/dataset.json",
        splits="results/train/{organ}/splits_final.json",
        groups="results/train/{organ}/groups.json",
    log:
        "logs/prepare_training/{organ}.log",
    benchmark:
        "benchmarks/prepare_training/{organ}.jsonl"
    conda:
        "../envs/model.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        settings=TRAIN_SETTINGS,
        code=code_digest("prepare_training"),
    script:
        "../scripts/prepare_training.py"


rule train_model:
    """Train one fold of an organ's model."""
    input:
        plans="results/train/{organ}/plans.json",
        dataset="results/train/{organ}/dataset.json",
        splits="results/train/{organ}/splits_final.json",
        groups="results/train/{organ}/groups.json",
    output:
        weights="results/train/{organ}/fold_{fold}/weights.safetensors",
        training="results/train/{organ}/fold_{fold}/training.json",
    log:
        "logs/train_model/{organ}_{fold}.log",
    benchmark:
        "benchmarks/train_model/{organ}_{fold}.jsonl"
    conda:
        "../envs/model.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
        gpu=gpus("train"),
    params:
        settings=TRAIN_SETTINGS,
        device=config["train"]["device"],
        code=code_digest("train_model"),
    script:
        "../scripts/train_model.py"


rule register_model:
    """Put an organ's trained folds into the model registry."""
    input:
        plans="results/train/{organ}/plans.json",
        dataset="results/train/{organ}/dataset.json",
        splits="results/train/{organ}/splits_final.json",
        trained=expand(
            "results/train/{{organ}}/fold_{fold}/{name}",
            fold=range(config["train"]["folds"]),
            name=["weights.safetensors", "training.json"],
        ),
    output:
        line="results/train/{organ}/registered.json",
    log:
        "logs/register_model/{organ}.log",
    benchmark:
        "benchmarks/register_model/{organ}.jsonl"
    conda:
        "../envs/model.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        registry=f"{RECORDS}/models.jsonl",
        store=f"{RECORDS}/models",
        code=code_digest("register_model"),
    script:
        "../scripts/register_model.py"


rule import_model:
    """Convert a model trained elsewhere and put it into the model registry."""
    input:
        files=external_files,
        groups=external_groups,
        cases=external_cases,
    output:
        line="results/train/{organ}/imported.json",
    log:
        "logs/import_model/{organ}.log",
    benchmark:
        "benchmarks/import_model/{organ}.jsonl"
    wildcard_constraints:
        organ="|".join(EXTERNAL) or "none",
    conda:
        "../envs/model.yaml"
    resources:
        mem_mb=memory_limit,
        runtime=time_limit,
    params:
        model=external_model,
        registry=f"{RECORDS}/models.jsonl",
        store=f"{RECORDS}/models",
        code=code_digest("import_model"),
    script:
        "../scripts/import_model.py"
