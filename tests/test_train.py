"""Training: plan, split, preprocessed data, repeatable and resumable folds, registry."""

import json
import logging
import random
import re
from dataclasses import replace
from pathlib import Path

import blosc2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.tiny_training import TINY, tiny_case, tiny_cases
from tumoratlas.core.errors import ConfigError, InputError
from tumoratlas.core.files import read_json
from tumoratlas.train.dataset import prepare_training, split_folds
from tumoratlas.train.nnunet import CONFIGURATION
from tumoratlas.train.nnunet_trainer import TumorTrainer
from tumoratlas.train.plan import TrainSettings, train_settings
from tumoratlas.train.registry import current_models, register_model
from tumoratlas.train.trainer import LOSS_COLUMNS, loss_table, train_fold, write_weights

CPU = torch.device("cpu")


def files(folder: Path) -> dict[str, bytes]:
    """Return every file's bytes by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def network(plans: dict) -> torch.nn.Module:
    """Return the plan's network without memory behind it."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plan = PlansManager(plans).get_configuration(CONFIGURATION)
    with torch.device("meta"):
        return get_network_from_plans(
            plan.network_arch_class_name,
            plan.network_arch_init_kwargs,
            plan.network_arch_init_kwargs_req_import,
            1,
            2,
            allow_init=False,
            deep_supervision=True,
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder with both folds trained."""
    folder = tmp_path_factory.mktemp("train")
    prepare_training(tiny_cases(folder / "cases"), folder / "model", "liver", TINY)
    for fold in (0, 1):
        train_fold(folder / "model", fold, TINY, CPU)
    return folder / "model"


def test_paper_plan(tmp_path: Path) -> None:
    """The default settings give the paper's network: 63.1 M parameters (Table 3)."""
    prepare_training(
        tiny_cases(tmp_path / "cases"), tmp_path / "m", "liver", replace(TrainSettings(), folds=2)
    )
    plans = read_json(tmp_path / "m" / "plans.json")
    plan = plans["configurations"][CONFIGURATION]
    architecture = plan["architecture"]["arch_kwargs"]
    assert plan["patch_size"] == [96, 96, 96] and plan["batch_size"] == 2
    assert plan["spacing"] == [1.5, 1.5, 1.5]
    assert plan["normalization_schemes"] == ["CTNormalization"]
    assert architecture["features_per_stage"] == [32, 64, 128, 256, 320]
    assert architecture["n_blocks_per_stage"] == [1, 3, 4, 6, 6]
    parameters = sum(p.numel() for p in network(plans).parameters())
    assert parameters == 62_809_928
    assert abs(parameters / 63.1e6 - 1) < 0.005


@pytest.mark.parametrize(("patch", "stages"), [(16, 3), (24, 3), (32, 4), (48, 4), (96, 5)])
def test_stages_halve_to_four(patch: int, stages: int) -> None:
    """A patch is halved while its edge stays a whole number of at least 4 voxels."""
    assert replace(TrainSettings(), patch_size=patch).stages == stages


@pytest.mark.parametrize("change", [{"patch_size": 8}, {"blocks": (1, 3)}, {"folds": 1}])
def test_impossible_settings(change: dict) -> None:
    """Settings without a network or without an unseen case are refused."""
    with pytest.raises(ConfigError):
        replace(TrainSettings(), **change)


def test_preprocessed_arrays(trained: Path) -> None:
    """NnU-Net's arrays are the clipped image in [0, 1] and the tumor alone, not the cyst."""
    folder = next((trained / "work" / "preprocessed").glob(f"*/*{CONFIGURATION}"))
    image, label = tiny_case(0)
    stored = blosc2.open(str(folder / "case_0.b2nd"))[:]
    expected = (np.clip(image.astype(np.float32), -175, 250) + 175) / 425
    np.testing.assert_array_equal(stored[0], expected)
    np.testing.assert_array_equal(blosc2.open(str(folder / "case_0_seg.b2nd"))[0], label == 1)


def test_model_folder(trained: Path) -> None:
    """The folder holds what registration needs; checkpoints and times are gone."""
    names = set(files(trained))
    assert {"plans.json", "dataset.json", "splits_final.json"} <= names
    assert not [name for name in names if name.endswith(".pth")]
    record = read_json(trained / "fold_0" / "training.json")
    assert [row["epoch"] for row in record["history"]] == list(range(TINY.epochs))
    rates = [row["learning_rate"] for row in record["history"]]
    assert rates[0] == TINY.learning_rate and rates == sorted(rates, reverse=True)
    assert set(record["history"][0]) == {*LOSS_COLUMNS[2:], "learning_rate"}
    assert set(record["training_groups"]) | set(record["held_out_groups"]) == {"a", "b", "c"}
    assert not set(record["training_groups"]) & set(record["held_out_groups"])
    plans = read_json(trained / "plans.json")
    assert record["parameters"] == sum(p.numel() for p in network(plans).parameters())


def test_interrupted_training_is_identical(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fold cut in its second epoch resumes to the same bytes; so does other input order."""
    cases = tiny_cases(tmp_path / "cases")
    random.Random(1).shuffle(cases)
    folder = tmp_path / "model"
    prepare_training(cases, folder, "liver", TINY)
    started = []
    validate = TumorTrainer.on_validation_epoch_start

    def cut(self: TumorTrainer) -> None:
        started.append(self.current_epoch)
        if started == [0, 1]:
            raise KeyboardInterrupt
        validate(self)

    monkeypatch.setattr(TumorTrainer, "on_validation_epoch_start", cut)
    with pytest.raises(KeyboardInterrupt):
        train_fold(folder, 0, TINY, CPU)
    assert not (folder / "fold_0").exists()
    train_fold(folder, 0, TINY, CPU)
    assert started == [0, 1, 1, 2]
    assert files(folder / "fold_0") == files(trained / "fold_0")
    for name in ("plans.json", "dataset.json", "splits_final.json"):
        assert (folder / name).read_bytes() == (trained / name).read_bytes()


def test_loss_table(trained: Path) -> None:
    """The curves of all trainings stand in one table, whatever the order of the files."""
    paths = [trained / f"fold_{fold}" / "training.json" for fold in (1, 0)]
    table = loss_table(paths)
    assert list(table.columns) == LOSS_COLUMNS
    assert table.fold.tolist() == [0] * TINY.epochs + [1] * TINY.epochs
    assert set(table.organ) == {"liver"} and table.train_loss.notna().all()
    pd.testing.assert_frame_equal(loss_table(reversed(paths)), table)
    assert loss_table([]).empty


def test_progress_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has a line per epoch; a diverged training ends with a named error."""
    settings = replace(TINY, epochs=2)
    prepare_training(tiny_cases(tmp_path / "cases"), tmp_path / "m", "liver", settings)
    step = TumorTrainer.train_step

    def diverge(self: TumorTrainer, batch: dict) -> dict:
        result = step(self, batch)
        return {"loss": result["loss"] * np.nan} if self.current_epoch else result

    monkeypatch.setattr(TumorTrainer, "train_step", diverge)
    with caplog.at_level(logging.INFO), pytest.raises(InputError, match="NAN_LOSS"):
        train_fold(tmp_path / "m", 0, settings, CPU)
    lines = [text for text in caplog.messages if text.startswith("progress:")]
    assert len(lines) == 2
    assert re.fullmatch(
        r"progress: liver fold 0 epoch 1 of 2: train loss -?\d\.\d{4}, validation loss "
        r"-?\d\.\d{4}, pseudo Dice (nan|\d\.\d{4}), \d+\.\d s per epoch",
        lines[0],
    )


def test_configured_defaults_are_the_settings() -> None:
    """config.yaml repeats the defaults of the code, but for how often a checkpoint is kept."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    values = {
        key: value
        for key, value in config["train"].items()
        if key not in ("organs", "device", "external", "checkpoint_every")
    }
    assert train_settings(values) == TrainSettings()


def test_seed_and_fold_change_weights(trained: Path) -> None:
    """Two folds start from different weights and data."""
    weights = [(trained / f"fold_{fold}" / "weights.safetensors").read_bytes() for fold in (0, 1)]
    assert weights[0] != weights[1]


def test_weights_store_shared_tensors_once(tmp_path: Path, trained: Path) -> None:
    """The file holds every parameter once and equal bytes each time."""
    from safetensors.torch import load_file

    tensors = load_file(trained / "fold_0" / "weights.safetensors")
    parameters = read_json(trained / "fold_0" / "training.json")["parameters"]
    assert sum(tensor.numel() for tensor in tensors.values()) == parameters
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    module.append(module[0])
    write_weights(tmp_path / "a", module)
    write_weights(tmp_path / "b", module)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@given(
    st.dictionaries(st.integers(0, 60), st.tuples(st.integers(0, 30), st.booleans()), min_size=1),
    st.integers(2, 5),
    st.integers(0, 3),
)
def test_split_is_grouped_and_balanced(
    cases: dict[int, tuple[int, bool]], folds: int, seed: int
) -> None:
    """Groups stay whole, every case is held out once, and both kinds are dealt evenly."""
    groups = {f"case_{case}": f"group_{group}" for case, (group, _) in cases.items()}
    positive = {f"group_{group}" for group, has_tumor in cases.values() if has_tumor}
    names = set(groups.values())
    if len(names) < folds or len(positive) < 2:
        with pytest.raises(InputError, match="FEW_GROUPS"):
            split_folds(groups, positive, folds, seed)
        return
    splits = split_folds(groups, positive, folds, seed)
    assert sorted(case for split in splits for case in split["val"]) == sorted(groups)
    held_out = [{groups[case] for case in split["val"]} for split in splits]
    for split, held in zip(splits, held_out, strict=True):
        assert not {groups[case] for case in split["train"]} & held
        assert {groups[case] for case in split["train"]} & positive
        assert sorted(split["train"] + split["val"]) == sorted(groups)
    for kind in (names, positive, names - positive):
        counts = [len(held & kind) for held in held_out]
        assert max(counts) - min(counts) <= 1
    backwards = dict(reversed(groups.items()))
    assert split_folds(backwards, positive, folds, seed) == splits


def test_bad_cases(tmp_path: Path) -> None:
    """A repeated case, an empty image and a label on another grid are named."""
    from tumoratlas.images.arrays import write_array

    cases = tiny_cases(tmp_path)
    with pytest.raises(InputError, match="CASE_REPEATED: case_0"):
        prepare_training([*cases, cases[0]], tmp_path / "m", "liver", TINY)
    write_array(cases[0].label, np.zeros((3, 4, 5), np.uint8))
    with pytest.raises(InputError, match="GRID_MISMATCH"):
        prepare_training(cases, tmp_path / "m", "liver", TINY)
    write_array(cases[0].label, np.zeros((32, 32, 32), np.uint8))
    write_array(cases[0].image, np.zeros((32, 32, 32), np.int16))
    with pytest.raises(InputError, match="EMPTY_IMAGE"):
        prepare_training(cases, tmp_path / "m", "liver", TINY)


def test_registry(trained: Path, tmp_path: Path) -> None:
    """Registration copies, is idempotent, and the last line of an organ is in force."""
    registry, store = tmp_path / "models.jsonl", tmp_path / "models"
    with pytest.raises(InputError, match="NO_FOLD"):
        train_fold(trained, 2, TINY, CPU)
    line = register_model(registry, "liver", trained, store)
    assert register_model(registry, "liver", trained, store) == line
    assert len(registry.read_text().splitlines()) == 1
    model = current_models(registry)["liver"]
    assert model.model_id == line["model_id"] and len(model.folds) == 2
    assert (model.spacing_mm, model.tumor_channels) == ((1.5, 1.5, 1.5), (1,))
    assert model.is_training_known and not model.is_external
    assert model.plans.read_bytes() == (trained / "plans.json").read_bytes()
    register_model(registry, "kidney", trained, store)
    other = tmp_path / "other"
    for name, data in files(trained).items():
        path = other / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data + b"\n" if name == "dataset.json" else data)
    register_model(registry, "liver", other, store)
    register_model(registry, "liver", trained, store)
    lines = [json.loads(text) for text in registry.read_text().splitlines()]
    assert [entry["organ"] for entry in lines] == ["liver", "kidney", "liver", "liver"]
    assert current_models(registry)["liver"].model_id == line["model_id"]
    moved = tmp_path / "backup"
    moved.mkdir()
    registry.rename(moved / "models.jsonl")
    store.rename(moved / "models")
    model = current_models(moved / "models.jsonl")["liver"]
    weights = model.folds[1].weights
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match="MODEL_HASH"):
        current_models(moved / "models.jsonl")
    weights.unlink()
    with pytest.raises(InputError, match="MODEL_HASH.*no file"):
        current_models(moved / "models.jsonl")
    (other / "fold_1" / "weights.safetensors").unlink()
    with pytest.raises(InputError, match="MODEL_INCOMPLETE"):
        register_model(moved / "models.jsonl", "liver", other, moved / "models")
