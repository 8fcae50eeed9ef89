"""Models trained elsewhere: taken in under their hashes, converted, and never executed."""

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_training import TINY, tiny_case, tiny_cases
from tumoratlas.core.errors import ConfigError, InputError
from tumoratlas.core.files import read_json, sha256_file, write_json
from tumoratlas.train.checkpoint import read_checkpoint
from tumoratlas.train.dataset import prepare_training
from tumoratlas.train.imported import ExternalModel, external_model, import_model
from tumoratlas.train.nnunet import CONFIGURATION, nnunet_session
from tumoratlas.train.plan import dataset_description, external_by_organ
from tumoratlas.train.registry import Model, current_models
from tumoratlas.train.trainer import read_weights

CPU = torch.device("cpu")
LABELS = {"background": 0, "liver": 1, "tumor": 2}
CHECKPOINTS = [f"fold_{fold}/checkpoint_final.pth" for fold in (0, 1)]
CASES = {
    "BDMAP_00000001": {
        "group": "BDMAP_00000001",
        "members": [{"source": "lits", "source_case": "liver_1"}],
    },
    "BDMAP_00000002": {
        "group": "BDMAP_00000001",
        "members": [{"source": "msd_ct", "source_case": "liver_2"}],
    },
    "BDMAP_00000003": {"group": "BDMAP_00000003", "members": []},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results folder of stock nnU-Net's own trainer, two folds of one epoch."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        describe = dataset_description
        patch.setattr(
            "tumoratlas.train.dataset.dataset_description",
            lambda organ, cases: describe(organ, cases) | {"labels": LABELS},
        )
        prepare_training(tiny_cases(folder / "cases"), folder / "model", "liver", TINY)
    plans = read_json(folder / "model" / "plans.json")
    dataset = read_json(folder / "model" / "dataset.json")
    with nnunet_session(
        CPU,
        nnUNet_raw=str(folder / "model" / "work" / "raw"),
        nnUNet_preprocessed=str(folder / "model" / "work" / "preprocessed"),
        nnUNet_results=str(folder / "results"),
        nnUNet_n_proc_DA="0",
    ):
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        for fold in (0, 1):
            trainer = nnUNetTrainer(
                {**plans, "continue_training": False}, CONFIGURATION, fold, dataset, CPU
            )
            trainer.num_epochs = trainer.num_val_iterations_per_epoch = 1
            trainer.num_iterations_per_epoch = 2
            trainer.logger.plot_progress_png = lambda output_folder: None
            trainer.run_training()
    [found] = (folder / "results").glob("*/nnUNetTrainer__*__3d_fullres")
    return found


def hashes(folder: Path) -> dict[str, str]:
    """Return what a user would paste into the configuration."""
    names = ["plans.json", "dataset.json", *CHECKPOINTS]
    return {name: sha256_file(folder / name) for name in names}


def entry(folder: Path, **changes: object) -> dict:
    """Return an entry of ``train.external``."""
    return {
        "organ": "liver",
        "folder": str(folder),
        "configuration": CONFIGURATION,
        "tumor_labels": [2],
        "sha256": hashes(folder),
        "licence": "CC-BY-4.0",
    } | changes


def imported(model: ExternalModel, place: Path, cases: dict | None = None) -> Model:
    import_model(
        model,
        registry=place / "models.jsonl",
        store=place / "models",
        work=place / "work",
        cases=cases or {},
    )
    assert not (place / "work").exists()
    return current_models(place / "models.jsonl")[model.organ]


def copied(results: Path, place: Path) -> Path:
    return Path(shutil.copytree(results, place / "copy"))


def changed_json(path: Path, change: Callable[[dict], object]) -> None:
    content = read_json(path)
    change(content)
    write_json(path, content)


def test_import(results: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The weights are the checkpoint's, to the bit, in the registry's own form."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    with caplog.at_level(logging.WARNING):
        model = imported(external_model(entry(results)), tmp_path)
    assert "not known which cases" in caplog.text
    assert model.is_external and not model.is_training_known
    assert (model.configuration, model.tumor_channels) == (CONFIGURATION, (2,))
    assert (model.spacing_mm, model.licence) == ((1.5, 1.5, 1.5), "CC-BY-4.0")
    assert model.plans.read_bytes() == (results / "plans.json").read_bytes()
    assert [fold.fold for fold in model.folds] == [0, 1]
    assert not any(fold.training_groups for fold in model.folds)
    architecture = read_json(model.plans)["configurations"][CONFIGURATION]["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        3,
        deep_supervision=False,
    )
    for fold, name in zip(model.folds, CHECKPOINTS, strict=True):
        expected = torch.load(results / name, weights_only=False)["network_weights"]
        stored = read_weights(fold.weights, network)
        assert stored.keys() == expected.keys()
        assert all(torch.equal(stored[key], expected[key]) for key in expected)
    lines = (tmp_path / "models.jsonl").read_bytes()
    assert imported(external_model(entry(results)), tmp_path) == model
    assert (tmp_path / "models.jsonl").read_bytes() == lines
    other = imported(external_model(entry(results, tumor_labels=[1, 2])), tmp_path)
    assert other.tumor_channels == (1, 2) and other.model_id != model.model_id
    relicensed = imported(external_model(entry(results, licence="other")), tmp_path)
    assert relicensed.model_id == model.model_id


@pytest.mark.parametrize("tumor_labels", [[2], [1, 2]])
def test_predicts_as_nnunet_does(results: Path, tmp_path: Path, tumor_labels: list[int]) -> None:
    """The imported model's probabilities are those of nnU-Net on the original folder."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from tumoratlas.candidates.predict import Predictor

    image, _ = tiny_case(9)
    with nnunet_session(CPU):
        stock = nnUNetPredictor(0.5, use_mirroring=False, device=CPU, allow_tqdm=False)
        stock.initialize_from_trained_model_folder(str(results), (0, 1), "checkpoint_final.pth")
        _, expected = stock.predict_single_npy_array(
            image[None].astype(np.float32), {"spacing": [1.5] * 3}, None, None, True
        )
    model = imported(external_model(entry(results, tumor_labels=tumor_labels)), tmp_path)
    found = Predictor(model, CPU, 0.5, False).predict(image, (0, 1))
    np.testing.assert_allclose(found, expected[tumor_labels].sum(0), rtol=0, atol=1e-6)


def test_hashes(results: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file without its hash, or with another, is refused, and the hashes are told."""
    given = hashes(results)
    for wrong, subject in (
        ({}, "plans.json"),
        ({name: given[name] for name in ("plans.json", "dataset.json")}, CHECKPOINTS[0]),
        (given | {CHECKPOINTS[1]: "0" * 64}, CHECKPOINTS[1]),
        (given | {"dataset.json": given["plans.json"]}, "dataset.json"),
    ):
        with pytest.raises(ConfigError, match="MODEL_HASH") as refused:
            imported(external_model(entry(results, sha256=wrong)), tmp_path)
        assert refused.value.subject.endswith(subject)
        assert given[subject] in refused.value.evidence
        assert json.loads(refused.value.remedy.partition("sha256: ")[2]) == given
    assert not (tmp_path / "models.jsonl").exists()
    with pytest.raises(InputError, match="MODEL_INCOMPLETE.*fold_2"):
        wrong = given | {"fold_2/checkpoint_final.pth": "0" * 64}
        imported(external_model(entry(results, sha256=wrong)), tmp_path)
    with pytest.raises(InputError, match="MODEL_INCOMPLETE"):
        imported(external_model(entry(results) | {"folder": str(tmp_path)}), tmp_path)
    del given[CHECKPOINTS[0]]
    model = imported(external_model(entry(results, sha256=given)), tmp_path)
    assert len(model.folds) == 1 and f"{CHECKPOINTS[0]} has no sha256" in caplog.text


class Evil:
    """Unpickled the usual way, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


class ByNumPy(Evil):
    """Tries to reach code through an object scalar of the allowed NumPy call."""

    def __reduce__(self) -> tuple:
        payload = pickle.dumps(Evil(self.path))
        return np.float64(0).__reduce__()[0], (np.dtype("O"), payload)


@pytest.mark.parametrize("kind", [Evil, ByNumPy])
@pytest.mark.parametrize("plain_pickle", [False, True])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_code_is_run(results: Path, tmp_path: Path, kind: type, plain_pickle: bool) -> None:
    """A checkpoint that would run code is refused before it does, although its hash is given."""
    folder = copied(results, tmp_path)
    path, trace = folder / CHECKPOINTS[0], tmp_path / "trace"
    checkpoint = torch.load(path, weights_only=False) | {"optimizer_state": kind(trace)}
    if plain_pickle:
        path.write_bytes(pickle.dumps(checkpoint))
    else:
        torch.save(checkpoint, path)
    with pytest.raises(InputError, match="MODEL_UNSAFE"):
        imported(external_model(entry(folder)), tmp_path)
    assert not trace.exists() and not (tmp_path / "models.jsonl").exists()
    if kind is Evil:
        with open(path, "rb") as file:
            (pickle.load if plain_pickle else lambda f: torch.load(f, weights_only=False))(file)
        assert trace.exists()  # the threat is real


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 no archive"])
def test_damaged_checkpoint(tmp_path: Path, content: bytes) -> None:
    """What is no checkpoint is told as such; so is a checkpoint that is a list."""
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match="MODEL_UNSAFE"):
        read_checkpoint(tmp_path / "file")
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(InputError, match="MODEL_UNSAFE.*holds a list"):
        read_checkpoint(tmp_path / "list")


def test_numpy_1_checkpoint(tmp_path: Path) -> None:
    """NumPy's numbers are read under the module name that NumPy 1 wrote, too."""
    checkpoint = {"_best_ema": np.float64(0.5), "log": [np.float32(0.25)]}
    path = tmp_path / "checkpoint.pth"
    # The older form of the file, without an archive's checksums, so that it can be edited.
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert b"cnumpy._core.multiarray\n" in data
    path.write_bytes(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert read_checkpoint(path) == checkpoint


def test_spacing_in_the_plan_s_order_of_axes(results: Path, tmp_path: Path) -> None:
    """The registered spacing is (z, y, x) whatever the order in the plan."""
    folder = copied(results, tmp_path)
    changed_json(
        folder / "plans.json",
        lambda p: (
            p.update(transpose_forward=[2, 0, 1]),
            configuration(p).update(spacing=[0.7, 5.0, 0.8]),
        ),
    )
    assert imported(external_model(entry(folder)), tmp_path).spacing_mm == (5.0, 0.8, 0.7)


def configuration(plans: dict) -> dict:
    return plans["configurations"][CONFIGURATION]


def architecture(plans: dict) -> dict:
    return configuration(plans)["architecture"]


OLD = {
    "UNet_class_name": "PlainConvUNet",
    "n_conv_per_stage_encoder": [1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1],
    "num_pool_per_axis": [2, 2, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[3, 3, 3]] * 3,
    "UNet_base_num_features": 4,
    "unet_max_num_features": 16,
}

PLAN_CHANGES: dict[str, Callable[[dict], object]] = {
    "network class os.system": lambda p: architecture(p).update(network_class_name="os.system"),
    "imports 'os.system' as nonlin": lambda p: architecture(p)["arch_kwargs"].update(
        nonlin="os.system"
    ),
    "imports .* as n_stages": lambda p: architecture(p)["_kw_requires_import"].append("n_stages"),
    "has no configuration 3d_fullres": lambda p: p["configurations"].update(
        {"2d": p["configurations"].pop(CONFIGURATION)}
    ),
    "2d": lambda p: configuration(p).update(patch_size=[64, 64]),
    "network class .*residual_unet": lambda p: (
        p["configurations"][CONFIGURATION].pop("architecture"),
        configuration(p).update(OLD, UNet_class_name="ResidualEncoderUNet"),
    ),
    "cascade": lambda p: configuration(p).update(previous_stage="3d_lowres"),
    "normalization_schemes": lambda p: configuration(p).update(
        normalization_schemes=["ZScoreNormalization"]
    ),
    "preprocessor_name": lambda p: configuration(p).update(preprocessor_name="Other"),
    "resampling_fn_data": lambda p: configuration(p).update(resampling_fn_data="system"),
    "label_manager": lambda p: p.update(label_manager="Other"),
    "transpose_forward": lambda p: p.update(transpose_forward=[2, 1, 1]),
    "not a plan .* KeyError 'patch_size'": lambda p: configuration(p).pop("patch_size"),
}


@pytest.mark.parametrize("reason", PLAN_CHANGES)
@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans format")
def test_plans_that_are_refused(
    results: Path, tmp_path: Path, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown names are never imported, and unsupported kinds are named."""
    import pydoc

    folder = copied(results, tmp_path)
    changed_json(folder / "plans.json", PLAN_CHANGES[reason])
    monkeypatch.setattr(pydoc, "locate", lambda name: pytest.fail(f"{name} was imported"))
    with pytest.raises(InputError, match=f"MODEL_PLAN.*{reason}"):
        imported(external_model(entry(folder)), tmp_path)


@pytest.mark.parametrize(
    ("network", "is_old"),
    [("PlainConvUNet", False), ("PlainConvUNet", True), ("ResidualEncoderUNet", False)],
)
@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans format")
def test_stock_networks(results: Path, tmp_path: Path, network: str, is_old: bool) -> None:
    """Both stock networks are taken, the plain one also from plans of nnU-Net before 2.4."""
    from dynamic_network_architectures.architectures import unet

    def change(plans: dict) -> None:
        values = configuration(plans)
        if is_old:
            del values["architecture"]
            values.update(OLD)
        elif network == "PlainConvUNet":
            arguments = values["architecture"]["arch_kwargs"]
            arguments["n_conv_per_stage"] = arguments.pop("n_blocks_per_stage")
            name = f"dynamic_network_architectures.architectures.unet.{network}"
            values["architecture"]["network_class_name"] = name

    blocks = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
    module = getattr(unet, network)(
        input_channels=1,
        n_stages=3,
        features_per_stage=[4, 8, 16],
        conv_op=torch.nn.Conv3d,
        kernel_sizes=[[3, 3, 3]] * 3,
        strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        num_classes=3,
        n_conv_per_stage_decoder=[1, 1],
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-05, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        deep_supervision=True,
        **{blocks[network]: [1, 1, 1]},
    )
    folder = copied(results, tmp_path)
    changed_json(folder / "plans.json", change)
    # As a compiled training on several GPUs names them.
    weights = {f"module._orig_mod.{name}": value for name, value in module.state_dict().items()}
    for name in CHECKPOINTS:
        checkpoint = torch.load(folder / name, weights_only=False)
        torch.save(checkpoint | {"network_weights": weights}, folder / name)
    fold = imported(external_model(entry(folder)), tmp_path).folds[0]
    stored = read_weights(fold.weights, module)
    assert all(torch.equal(stored[name], value) for name, value in module.state_dict().items())


DATASET_CHANGES: dict[str, dict] = {
    "region-based": {"labels": {"background": 0, "whole": [1, 2], "tumor": 2}},
    "not consecutive": {"labels": {"background": 0, "tumor": 2}},
    "wants 2 images": {"channel_names": {"0": "CT", "1": "PET"}},
    "not a plan": {"labels": None},
}


@pytest.mark.parametrize("reason", DATASET_CHANGES)
def test_datasets_that_are_refused(results: Path, tmp_path: Path, reason: str) -> None:
    """Overlapping labels, several images and odd label values are named."""
    folder = copied(results, tmp_path)
    changed_json(folder / "dataset.json", lambda d: d.update(DATASET_CHANGES[reason]))
    with pytest.raises(InputError, match=f"MODEL_PLAN.*{reason}"):
        imported(external_model(entry(folder)), tmp_path)


def test_checkpoints_that_are_refused(results: Path, tmp_path: Path) -> None:
    """Another configuration, no mirroring and weights of another network are named."""
    for number, (match, change) in enumerate(
        {
            "MODEL_PLAN.*another configuration.*2d": {"init_args": {"configuration": "2d"}},
            "MODEL_PLAN.*mirroring": {"inference_allowed_mirroring_axes": None},
            "MODEL_WEIGHTS.*Missing key": {"network_weights": {}},
        }.items()
    ):
        folder = copied(results, tmp_path / str(number))
        path = folder / CHECKPOINTS[1]
        torch.save(torch.load(path, weights_only=False) | change, path)
        with pytest.raises(InputError, match=f"(?s){match}"):
            imported(external_model(entry(folder)), tmp_path)


@pytest.mark.parametrize("labels", [[], [0], [3], [1, 7]])
def test_tumor_labels(results: Path, tmp_path: Path, labels: list[int]) -> None:
    """Background, the ignored label and values that the model lacks are no tumor labels."""
    folder = copied(results, tmp_path)
    changed_json(folder / "dataset.json", lambda d: d["labels"].update(ignore=3))
    assert imported(external_model(entry(folder)), tmp_path).tumor_channels == (2,)
    with pytest.raises(ConfigError, match="MODEL_LABELS.*1 liver, 2 tumor"):
        imported(external_model(entry(folder, tumor_labels=labels)), tmp_path)


def test_training_groups(results: Path, tmp_path: Path) -> None:
    """Cases named by id or by source become the groups of their fold."""
    path = tmp_path / "groups.csv"
    path.write_text("fold,case\n0,lits/liver_1\n0,other/1\n1,BDMAP_00000003\n")
    model = external_model(entry(results, training_groups_file=str(path)))
    found = imported(model, tmp_path, CASES)
    assert found.is_external and found.is_training_known
    assert [fold.training_groups for fold in found.folds] == [
        {"BDMAP_00000001"},
        {"BDMAP_00000003"},
    ]
    for text in ("", "fold,case\n0,lits/liver_1\n", "a,b\n0,1\n", "fold,case\n0,x/1\n1,x/2\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="TRAINING_GROUPS"):
            imported(model, tmp_path, CASES)
    without = replace(model, training_groups_file=None)
    assert not imported(without, tmp_path).is_training_known


def test_an_organ_has_one_model(tmp_path: Path) -> None:
    """An organ is trained here or elsewhere, not both."""
    entries = [{"organ": "liver"}, {"organ": "colon"}]
    assert external_by_organ(entries, ["kidney"]) == {"liver": entries[0], "colon": entries[1]}
    for trained, twice in ((["colon"], entries), ([], [entries[0], entries[0]])):
        with pytest.raises(ConfigError, match="MODEL_TWICE"):
            external_by_organ(twice, trained)
