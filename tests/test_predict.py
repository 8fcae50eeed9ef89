"""Prediction: nnU-Net's own probabilities, honest folds, exact level maps."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.tiny_training import GRID, TINY, tiny_case, tiny_cases
from tumoratlas.candidates.device import memory_fault
from tumoratlas.candidates.levels import level_map, read_levels, write_levels
from tumoratlas.candidates.predict import Predictor, folds_for
from tumoratlas.candidates.steps import _wanted_folds, predict_tumors
from tumoratlas.candidates.tiles import tile_logits
from tumoratlas.core.errors import InputError, MachineError, TumorAtlasError
from tumoratlas.core.runner import Step, Task, read_rows, run_shard
from tumoratlas.core.structures import structure_bit
from tumoratlas.images.arrays import write_array
from tumoratlas.images.grid import Grid
from tumoratlas.train.dataset import prepare_training
from tumoratlas.train.nnunet_trainer import TumorTrainer
from tumoratlas.train.registry import Model, current_models, register_model
from tumoratlas.train.trainer import train_fold

CPU = torch.device("cpu")
THETAS = [0.01, 0.02, 0.05, 0.1, 0.15, 0.3, 0.5, 0.6, 0.7, 0.9, 0.95]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of nnU-Net's own pickled checkpoints of the trained folds."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, checkpoints: Path) -> Model:
    """Return a registered model of two folds."""

    def save(self: TumorTrainer) -> None:
        checkpoint = {
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres"},
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            "network_weights": self.network.state_dict(),
        }
        torch.save(checkpoint, checkpoints / f"fold_{self.fold}")

    folder = tmp_path_factory.mktemp("predict")
    prepare_training(tiny_cases(folder / "cases"), folder / "model", "liver", TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TumorTrainer, "on_train_end", save)
        for fold in (0, 1):
            train_fold(folder / "model", fold, TINY, CPU)
    register_model(folder / "models.jsonl", "liver", folder / "model", folder / "models")
    return current_models(folder / "models.jsonl")["liver"]


@pytest.mark.parametrize("mirroring", [False, True])
@pytest.mark.parametrize("folds", [(0,), (0, 1)])
def test_equals_nnunet(
    model: Model, checkpoints: Path, folds: tuple[int, ...], mirroring: bool, tmp_path: Path
) -> None:
    """Probabilities equal `nnUNetPredictor.predict_single_npy_array` to the last bit.

    The other side is nnU-Net alone: its folder layout, pickled checkpoints and export, on an
    image with a zero border that it crops.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    for fold in model.folds:
        path = tmp_path / f"fold_{fold.fold}" / "checkpoint_final.pth"
        path.parent.mkdir()
        path.write_bytes((checkpoints / path.parent.name).read_bytes())
    for source in (model.plans, model.dataset):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    image = np.pad(tiny_case(9)[0][:20, :25], ((2, 0), (0, 3), (1, 1)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    stock = nnUNetPredictor(0.5, use_mirroring=mirroring, device=CPU, allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(tmp_path), folds, "checkpoint_final.pth")
    _, expected = stock.predict_single_npy_array(
        image[None].astype(np.float32), {"spacing": [1.5] * 3}, None, None, True
    )
    torch.set_num_threads(threads)
    found = Predictor(model, CPU, 0.5, mirroring).predict(image, folds)
    assert found.dtype == np.float32 and found.shape == image.shape
    np.testing.assert_array_equal(found, expected[1])
    assert not found[:2].any() and found[2:-1, :20].any()
    assert torch.get_num_threads() == threads


def test_repeatable_and_sensitive_to_folds(model: Model) -> None:
    """Two predictors agree to the bit; folds do not."""
    image, _ = tiny_case(3)
    one, two = Predictor(model, CPU, 0.5, True), Predictor(model, CPU, 0.5, True)
    first = one.predict(image, (0,))
    assert (one.predict(image, (1,)) != first).any()
    np.testing.assert_array_equal(two.predict(image, (0,)), first)
    np.testing.assert_array_equal(one.predict(image, (0,)), first)


def test_small_volume_is_padded(model: Model) -> None:
    """A volume smaller than the patch keeps its shape."""
    image = tiny_case(3)[0][:5, :20, :9]
    assert Predictor(model, CPU, 0.5, False).predict(image, (0, 1)).shape == (5, 20, 9)


class Failing(torch.nn.Module):
    """A network that raises the given errors first, and then works."""

    def __init__(self, network: torch.nn.Module, errors: list[Exception]) -> None:
        super().__init__()
        self.network, self.errors = network, errors

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.errors:
            raise self.errors.pop(0)
        return self.network(x)

    def load_state_dict(self, state: dict) -> None:
        self.network.load_state_dict(state)


def test_out_of_memory(model: Model) -> None:
    """Smaller work gives the same; without any left the scan has a defined error."""
    image = tiny_case(3)[0]
    predictor = Predictor(model, CPU, 1.0, False)
    expected = predictor.predict(image, (0,))
    memory = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    whole = predictor._network
    # As if the first two ways were a GPU's; only the CPU is certain to be here.
    predictor._ways = predictor._ways * 3
    predictor._network = Failing(whole, [memory, RuntimeError("CUDNN_STATUS_ALLOC_FAILED")])
    np.testing.assert_array_equal(predictor.predict(image, (0,)), expected)
    no_room = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
    predictor._network = Failing(whole, [memory, MemoryError(), no_room])
    with pytest.raises(TumorAtlasError, match="OUT_OF_MEMORY.*32, 32, 32"):
        predictor.predict(image, (0,))
    predictor._network = Failing(whole, [RuntimeError("shapes differ")])
    with pytest.raises(RuntimeError, match="shapes differ"):
        predictor.predict(image, (0,))


def test_gpu_lost() -> None:
    """A GPU that failed is no fault of the scan; its lack of memory is another thing."""
    gpu = torch.device("cuda")
    lost = torch.AcceleratorError("CUDA error: unspecified launch failure")
    with pytest.raises(MachineError, match="GPU_LOST.*unspecified launch failure"):
        memory_fault(lost, gpu)
    assert not memory_fault(lost, CPU)
    assert not memory_fault(RuntimeError("shapes differ"), gpu)
    assert "out of memory" in memory_fault(torch.AcceleratorError("CUDA error: out of memory"), gpu)


@pytest.fixture
def shard(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the options of `predict_tumors` on three harmonized cases and a registry.

    Case 0 was annotated and in the training; 1 has an organ mask, 2 an empty one, 3 none.
    """
    monkeypatch.chdir(tmp_path)
    native = Grid.of((32, 32, 32), np.diag([1.5, 1.5, 1.5, 1.0]))

    def work(task: Task, folder: Path) -> dict[str, Any]:
        number = int(task.id[-1])
        planes = np.zeros(native.shape, np.uint32)
        if number == 1:
            planes[:12, 3:20, 5:22] = structure_bit("liver")
        write_array(folder / "model.b2nd", tiny_case(number)[0], grid=native.to_json())
        write_array(folder / "structures.b2nd", planes, grid=native.to_json())
        drawn = {"liver": {}} if number < 3 else {"spleen": {}}
        return {"structures": drawn, "annotated": {"liver": {}} if number == 0 else {}}

    step = Step("harmonize_scans", "s0000", tmp_path / "harmonized", {}, "code")
    names = [f"case_{number}" for number in range(4)]
    run_shard(step, [Task(name, {}) for name in names], work, step.folder / "s0000.tsv")
    groups = dict(zip(names, ("a", "x", "y", "z"), strict=True))
    (tmp_path / "cases.json").write_text(
        json.dumps({name: {"group": group} for name, group in groups.items()})
    )
    return {
        "harmonized": step.folder / "s0000.tsv",
        "cases": tmp_path / "cases.json",
        "registry": model.plans.parents[2] / "models.jsonl",
        "thresholds": THETAS,
        "device": "cpu",
        "tile_step": 0.5,
        "mirroring": False,
        "precision": "half",
        "region_margin_mm": 6.0,
    }


def test_step(shard: dict[str, Any], tmp_path: Path) -> None:
    """Regions by what is known of the organ; the bytes do not depend on the processes."""
    manifests = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        step = Step("predict_tumors", "s0000", folder, {}, "code", processes)
        predict_tumors(step, folder / "s0000.tsv", **shard)
        manifests.append((folder / "s0000.tsv").read_bytes())
    assert manifests[0] == manifests[1]
    rows = {row["case_id"]: row for row in read_rows([folder / "s0000.tsv"])}
    bases = [rows[f"case_{number}"]["region"] for number in range(4)]
    assert bases == ["organ_empty", "organ", "organ_empty", "organ_unknown"]
    assert len(rows["case_0"]["folds"]) == 1 and rows["case_1"]["folds"] == [0, 1]
    for row in rows.values():
        stored = read_levels(folder / "liver" / row["case_id"] / "levels.b2nd")
        assert row["reached_voxels"] == np.count_nonzero(stored.levels)
        low, high = row["box"][:3], row["box"][3:]
        assert stored.levels[tuple(map(slice, low, high))].any() == bool(row["reached_voxels"])
        assert row["tiles_whole"] == 27 and row["device"] == "cpu"


def test_empty_prediction(
    shard: dict[str, Any], model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that finds nothing: a level map of zeros, and tiles of the region alone."""

    def nothing(*arguments: Any, **options: Any) -> torch.Tensor:
        logits = tile_logits(*arguments, **options)
        logits[0], logits[1] = 9, -9
        return logits

    monkeypatch.setattr("tumoratlas.candidates.predict.tile_logits", nothing)
    step = Step("predict_tumors", "s0000", tmp_path / "empty", {}, "code")
    predict_tumors(step, step.folder / "s0000.tsv", **shard)
    rows = {row["case_id"]: row for row in read_rows([step.folder / "s0000.tsv"])}
    assert all(row["reached_voxels"] == 0 for row in rows.values())
    assert rows["case_1"]["tiles"] < 27 and rows["case_3"]["tiles"] == 27
    levels = read_levels(step.folder / "liver/case_1/levels.b2nd").levels
    assert levels.shape == (32, 32, 32) and not levels.any()


def test_lost_gpu_fails_the_job(
    shard: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No scan is excluded for it; the next run, on a sound GPU, does them all."""

    def lost(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    step = Step("predict_tumors", "s0000", tmp_path / "lost", {}, "code")
    with monkeypatch.context() as patch:
        patch.setattr("tumoratlas.candidates.predict.tile_logits", lost)
        patch.setattr(
            "tumoratlas.candidates.predict.memory_fault",
            lambda error, _: memory_fault(error, torch.device("cuda")),
        )
        with pytest.raises(MachineError, match="GPU_LOST"):
            predict_tumors(step, step.folder / "s0000.tsv", **shard)
    assert not (step.folder / "s0000.tsv").exists()
    predict_tumors(step, step.folder / "s0000.tsv", **shard)
    assert len(read_rows([step.folder / "s0000.tsv"])) == 4


def test_folds_of_a_case(model: Model) -> None:
    """What is predicted by which folds, of models trained here and elsewhere."""
    free, annotated = {"annotated": {}}, {"annotated": {"liver": {}}}
    assert _wanted_folds(free, model, "x") == (0, 1)
    assert _wanted_folds(annotated, model, "x") == ()
    assert _wanted_folds(annotated, model, "a") == folds_for(model, "a")
    alone = dataclasses.replace(model, folds=model.folds[:1])
    seen = min(alone.folds[0].training_groups)
    assert _wanted_folds(annotated, alone, seen) == ()
    assert _wanted_folds(free, alone, seen) == (0,)
    unknown = tuple(dataclasses.replace(f, training_groups=frozenset()) for f in model.folds)
    external = dataclasses.replace(model, folds=unknown, is_external=True)
    assert _wanted_folds(annotated, external, "x") == (0, 1)


def test_out_of_fold(model: Model) -> None:
    """A group in the training is predicted by the fold that held it out; others by all."""
    held_out = {
        group: fold.fold for fold in model.folds for group in {"a", "b", "c"} - fold.training_groups
    }
    assert set(held_out) == {"a", "b", "c"}
    for group, fold in held_out.items():
        assert folds_for(model, group) == (fold,)
    assert folds_for(model, "someone else") == (0, 1)


def test_refusals(model: Model) -> None:
    """An empty image, NaN weights and weights of another plan are refused."""
    from safetensors.torch import load_file, save_file

    predictor = Predictor(model, CPU, 1.0, False)
    with pytest.raises(InputError, match="EMPTY_IMAGE"):
        predictor.predict(np.zeros((16, 16, 16), np.int16), (0,))
    path = model.folds[0].weights
    kept = load_file(path)
    whole = path.read_bytes()
    save_file({name: tensor * float("nan") for name, tensor in kept.items()}, path)
    with pytest.raises(InputError, match="NAN_LOGITS"):
        Predictor(model, CPU, 1.0, False).predict(tiny_case(0)[0], (0, 1))
    save_file({name: tensor * 1e6 for name, tensor in kept.items()}, path)
    with pytest.raises(InputError, match="NAN_LOGITS.*infinite"):
        Predictor(model, CPU, 1.0, False).predict(tiny_case(0)[0], (0,))
    save_file({name: tensor for name, tensor in list(kept.items())[1:]}, path)
    with pytest.raises(InputError, match="MODEL_WEIGHTS"):
        Predictor(model, CPU, 1.0, False)
    path.write_bytes(whole)


probabilities = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 1, width=32))


@given(
    probabilities,
    st.lists(st.floats(2**-10, 1), min_size=1, max_size=20, unique=True).map(sorted),
)
def test_levels_are_exact(probability: np.ndarray, thresholds: list[float]) -> None:
    """``level > k`` is ``p >= thresholds[k]`` as real numbers, at and beside every threshold."""
    near = np.array(thresholds, np.float32)
    beside = [np.nextafter(near, np.float32(side)) for side in (0, 2)]
    probability = np.concatenate([probability, near, *beside])
    levels = level_map(probability, thresholds)
    assert levels.dtype == np.uint8
    for k, threshold in enumerate(thresholds):
        expected = [float(value) >= threshold for value in probability]
        np.testing.assert_array_equal(levels > k, expected)


@pytest.mark.parametrize("thresholds", [[], [0.5, 0.5], [0.5, 0.4], list(range(256))])
def test_bad_thresholds(thresholds: list[float]) -> None:
    """Thresholds must increase and fit a byte."""
    with pytest.raises(ValueError, match="increasing"):
        level_map(np.zeros(3, np.float32), thresholds)


def test_levels_file(tmp_path: Path) -> None:
    """A level map is read as written, in equal bytes each time."""
    probability = np.random.default_rng(0).random((32, 32, 32), dtype=np.float32)
    levels = level_map(probability, THETAS)
    for name in ("a.b2nd", "b.b2nd"):
        write_levels(tmp_path / name, levels, THETAS, GRID, "0123456789abcdef")
    stored = read_levels(tmp_path / "a.b2nd")
    np.testing.assert_array_equal(stored.levels, levels)
    assert stored.thresholds == tuple(THETAS)
    assert (stored.grid, stored.model_id) == (GRID, "0123456789abcdef")
    assert (tmp_path / "a.b2nd").read_bytes() == (tmp_path / "b.b2nd").read_bytes()
