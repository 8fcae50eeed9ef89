"""Train one fold of an organ's model."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.train.nnunet import torch_device
from tumoratlas.train.plan import train_settings
from tumoratlas.train.trainer import train_fold

with rule_run(snakemake):
    train_fold(
        Path(snakemake.input.plans).parent,
        fold=int(snakemake.wildcards.fold),
        settings=train_settings(snakemake.params.settings),
        device=torch_device(snakemake.params.device),
    )
