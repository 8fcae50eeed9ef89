"""Prediction: nnU-Net's own probabilities, honest folds, exact level maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.tiny_training import GRID, TINY, tiny_case, tiny_cases
from tumoratlas.candidates.levels import level_map, read_levels, write_levels
from tumoratlas.candidates.predict import Predictor, folds_for
from tumoratlas.core.errors import InputError
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
