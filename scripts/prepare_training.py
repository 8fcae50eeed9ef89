"""Write an organ's annotated cases as nnU-Net's preprocessed dataset, plan and folds."""

from pathlib import Path

from tumoratlas.core.run import rule_run
from tumoratlas.train.dataset import prepare_training
from tumoratlas.train.plan import train_settings
from tumoratlas.train.steps import training_cases

with rule_run(snakemake):
    organ = snakemake.wildcards.organ
    prepare_training(
        training_cases(organ, snakemake.input.harmonized, Path(snakemake.input.cases)),
        folder=Path(snakemake.output.plans).parent,
        organ=organ,
        settings=train_settings(snakemake.params.settings),
    )
