"""Regions and tiles: inside the region nothing but what nnU-Net alone would find."""

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch

from tests.tiny_training import TINY, tiny_cases
from tumoratlas.candidates.device import ways_to_compute
from tumoratlas.candidates.levels import level_map
from tumoratlas.candidates.plan_grid import preprocess
from tumoratlas.candidates.predict import Predictor
from tumoratlas.candidates.region import (
    Region,
    box_of,
    cut_off,
    grow_mask,
    is_organ_known,
    organ_region,
    whole_scan,
)
from tumoratlas.candidates.tiles import choose_tiles, tile_logits
from tumoratlas.images.components import find_components
from tumoratlas.images.grid import Grid
from tumoratlas.train.dataset import prepare_training
from tumoratlas.train.nnunet import nnunet_session
from tumoratlas.train.registry import Model, current_models, register_model
from tumoratlas.train.trainer import write_weights

CPU = torch.device("cpu")
SHAPE = (32, 36, 28)
THETAS = [0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9]


def image_of(seed: int = 5, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return int16 HU with soft structure everywhere, and a border of zeros to crop."""
    random = np.random.default_rng(seed)
    coarse = ndi.gaussian_filter(random.standard_normal(shape), 2)
    image = 40 + 60 * coarse / coarse.std() + random.normal(0, 12, shape)
    image[0], image[:, :, -1] = 0, 0
    return image.round().astype(np.int16)


def regions() -> dict[str, np.ndarray]:
    """Return masks of the image: a ball, a corner, a voxel, two lobes and a slab."""
    places = np.indices(SHAPE)
    balls = [
        sum((p - c) ** 2 for p, c in zip(places, center, strict=True)) <= 36
        for center in ((20, 20, 18), (12, 12, 10), (24, 27, 20))
    ]
    corner, voxel, slab = (np.zeros(SHAPE, bool) for _ in range(3))
    corner[:9, -8:, :7] = voxel[26, 3, 20] = slab[:, 18:23] = True
    two = balls[1] | balls[2]
    return {"ball": balls[0], "corner": corner, "voxel": voxel, "two lobes": two, "slab": slab}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Return a model of two random folds whose logits spread over all of the thresholds.

    A hard case: many voxels' probabilities lie near a threshold, where a trained network's lie
    near 0 or 1 nearly everywhere.
    """
    folder = tmp_path_factory.mktemp("tiles")
    prepare_training(tiny_cases(folder / "cases"), folder / "model", "liver", TINY)
    for fold in (0, 1):
        torch.manual_seed(fold)
        network = stock_predictor(folder / "model", False).network
        for name, value in network.named_parameters():
            if value.ndim == 5 and "seg" not in name:
                torch.nn.init.kaiming_normal_(value, 1e-2)
            elif value.ndim == 5:
                torch.nn.init.normal_(value)
        spread(network, folder / "model")
        write_weights(folder / "model" / f"fold_{fold}" / "weights.safetensors", network)
        (folder / "model" / f"fold_{fold}" / "training.json").write_text('{"training_groups": []}')
    register_model(folder / "models.jsonl", "liver", folder / "model", folder / "models")
    return current_models(folder / "models.jsonl")["liver"]


def spread(network: torch.nn.Module, folder: Path) -> None:
    """Scale the last layer so that the logits' difference has mean -7 and deviation 3."""
    stock = stock_predictor(folder, False)
    stock.network = network
    stock.list_of_parameters = [network.state_dict()]
    logits = stock_logits(stock, image_of(6))
    difference = (logits[1] - logits[0]).float()
    last = network.decoder.seg_layers[-1]
    scale = 3 / difference.std()
    with torch.no_grad():
        last.weight *= scale
        last.bias *= scale
        last.bias[1] += -7 - scale * difference.mean()


def stock_predictor(folder: Path, mirroring: bool):
    """Return nnU-Net's own predictor with a new network of the folder's plan."""
    import json

    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    with nnunet_session(CPU):
        plans = PlansManager(json.loads((folder / "plans.json").read_text()))
        dataset = json.loads((folder / "dataset.json").read_text())
        configuration = plans.get_configuration("3d_fullres")
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            1,
            2,
            deep_supervision=False,
        )
        predictor = nnUNetPredictor(0.5, use_mirroring=mirroring, device=CPU, allow_tqdm=False)
        predictor.manual_initialization(
            network, plans, configuration, None, dataset, "nnUNetTrainer", (0, 1, 2)
        )
    return predictor


def stock_logits(stock, image: np.ndarray, spacing: float = 1.5) -> torch.Tensor:
    """Return nnU-Net's logits of the preprocessed image."""
    with nnunet_session(CPU):
        return stock.predict_logits_from_preprocessed_data(stock_data(stock, image, spacing)[0])


def stock_data(stock, image: np.ndarray, spacing: float) -> tuple[torch.Tensor, dict]:
    """Return nnU-Net's preprocessed image and what it says of it."""
    data, _, facts = stock.configuration_manager.preprocessor_class(verbose=False).run_case_npy(
        image[None],
        None,
        {"spacing": [spacing] * 3},
        stock.plans_manager,
        stock.configuration_manager,
        stock.dataset_json,
    )
    return torch.from_numpy(data), facts


def stock_probability(model: Model, image: np.ndarray, mirroring: bool, spacing: float = 1.5):
    """Return nnU-Net's probabilities of both folds, brought back to the image."""
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as convert,
    )

    stock = stock_predictor(model.plans.parent, mirroring)
    predictor = Predictor(model, CPU, 0.5, mirroring)
    stock.list_of_parameters = list(predictor._weights.values())
    with nnunet_session(CPU):
        data, facts = stock_data(stock, image, spacing)
        logits = stock.predict_logits_from_preprocessed_data(data)
        managers = stock.plans_manager, stock.configuration_manager, stock.label_manager
        # With more threads the softmax's last bit differs where their shares of the voxels end.
        _, probability = convert(logits, *managers, facts, True, num_threads_torch=1)
    return probability[1]


@pytest.fixture(scope="module")
def expected(model: Model) -> dict[bool, np.ndarray]:
    """Return the stock probabilities of the image without and with mirroring."""
    return {flag: stock_probability(model, image_of(), flag) for flag in (False, True)}


@pytest.mark.parametrize("mirroring", [False, True])
def test_whole_scan_is_nnunet_to_the_bit(
    model: Model, expected: dict[bool, np.ndarray], mirroring: bool
) -> None:
    predictor = Predictor(model, CPU, 0.5, mirroring)
    found = predictor.predict_region(image_of(), (1.5,) * 3, (0, 1), whole_scan(SHAPE))
    np.testing.assert_array_equal(found.probability, expected[mirroring])
    assert found.tiles == found.tiles_whole == 3 * 4 * 3
    assert found.device == "cpu" and found.box == box_of(np.ones(SHAPE, bool))
    if not mirroring:  # whose averages differ less; hard only where many thresholds count
        counts = np.bincount(level_map(expected[mirroring], THETAS).ravel(), minlength=17)
        assert (counts[:10] > 20).all()


@pytest.mark.parametrize(
    ("name", "mirroring"), [(name, False) for name in regions()] + [("ball", True)]
)
def test_region_is_nnunet_inside(
    model: Model, expected: dict[bool, np.ndarray], name: str, mirroring: bool
) -> None:
    """At least 99.9 % of the levels, and of every candidate's voxels in the region."""
    mask = regions()[name]
    predictor = Predictor(model, CPU, 0.5, mirroring)
    found = predictor.predict_region(image_of(), (1.5,) * 3, (0, 1), Region(mask, "organ"))
    stock, ours = (level_map(p, THETAS) for p in (expected[mirroring], found.probability))
    assert (stock[mask] == ours[mask]).mean() >= 0.999
    assert found.tiles <= 2 * found.tiles_whole == 72
    for level in range(len(THETAS)):
        parts = find_components((stock > level) & mask, connectivity=26, minimum_count=1)
        labels = parts.labels
        reached = np.unique(labels[(ours > level)[parts.box]])
        assert set(range(1, len(parts.voxels) + 1)) <= set(reached.tolist())
    outside = np.ones(SHAPE, bool)
    outside[found.box] = False
    assert not found.probability[outside].any()


@pytest.mark.parametrize("name", regions())
def test_every_touching_tile_is_exact(model: Model, name: str) -> None:
    """With no tile left out the logits in the region are nnU-Net's to the bit."""
    mask = regions()[name]
    stock = stock_predictor(model.plans.parent, False)
    stock.list_of_parameters = [Predictor(model, CPU, 0.5, False)._weights[1]]
    image = np.where(image_of() == 0, np.int16(7), image_of())  # nothing to crop
    logits = stock_logits(stock, image)
    data, _ = stock_data(stock, image, 1.5)
    network = stock.network.eval()
    few, all_tiles = (choose_tiles(mask, (16,) * 3, 0.5, share) for share in (0.01, 0))
    assert set(few.starts) <= set(all_tiles.starts) and 0 < len(few.starts) < few.whole == 36
    assert name in ("slab", "voxel") or len(few.starts) < len(all_tiles.starts)
    box = box_of(mask)
    options = {"heads": 2, "mirror_axes": (), "accumulate_on": CPU}
    with nnunet_session(CPU):
        found = tile_logits(network, data, box, all_tiles, at_once=1, **options)
        assert torch.equal(found[:, mask[box]], logits[(slice(None), *box)][:, mask[box]])
        options["mirror_axes"] = (0, 1, 2)
        alone, together = (
            tile_logits(network, data, box, few, at_once=n, **options) for n in (1, 8)
        )
    torch.testing.assert_close(alone, together, rtol=2e-3, atol=2e-3)


class Bright(torch.nn.Module):
    """A network that finds what is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([-20.0, 20.0]).view(1, 2, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 0.7) * self.weight

    def load_state_dict(self, state: dict) -> None:
        """Keep the weight: it belongs to no fold."""


def test_a_tumor_is_followed_out_of_the_region(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the tumor that begins in the region, and none that lies apart from it."""
    monkeypatch.setattr("tumoratlas.candidates.predict.FOLLOW_STEP_MM", 6.0)
    image = np.full((120, 40, 40), 20, np.int16)
    image[10:26, 18:24, 17:22] = image[105:115, 5:12, 5:12] = 200
    mask = np.zeros(image.shape, bool)
    mask[4:16, 10:30, 10:30] = True
    predictor = Predictor(model, CPU, 0.5, False)
    predictor._network = Bright()
    whole = predictor.predict_region(image, (1.5,) * 3, (0, 1), whole_scan(image.shape))
    found = predictor.predict_region(image, (1.5,) * 3, (0, 1), Region(mask, "organ"))
    assert found.tiles_whole == whole.tiles
    assert (found.probability[10:26, 18:24, 17:22] > 0.99).all()
    assert found.box[0].stop < 100 and whole.probability[105:115, 5:12, 5:12].min() > 0.99
    image[:, :, 17:22] = 200
    flooded = predictor.predict_region(image, (1.5,) * 3, (0, 1), Region(mask, "organ"))
    assert (flooded.probability > 0.99)[:, :, 17:22].all()
    assert flooded.tiles_whole < flooded.tiles <= 2 * flooded.tiles_whole


def test_nothing_of_the_region_in_the_crop(model: Model) -> None:
    """A region in the border that nnU-Net crops away has probability 0 and needs no tile."""
    mask = np.zeros(SHAPE, bool)
    mask[0] = True
    predictor = Predictor(model, CPU, 0.5, False)
    found = predictor.predict_region(image_of(), (1.5,) * 3, (0,), Region(mask, "organ"))
    assert found.tiles == 0 and not found.probability.any()


@pytest.mark.parametrize("spacing", [1.5, 2.1, 1.2])
def test_other_spacing(model: Model, spacing: float) -> None:
    """An image that the plan resamples: nnU-Net's input, and its levels on the image."""
    image = image_of(8, (30, 28, 33))
    stock = stock_predictor(model.plans.parent, False)
    data, facts = stock_data(stock, image, spacing)
    plan = stock.plans_manager, stock.configuration_manager, stock.dataset_json
    ours, place = preprocess(image, (spacing,) * 3, *plan)
    np.testing.assert_array_equal(ours, data.numpy())
    bounds = [(side.start, side.stop) for side in place.crop]
    assert bounds == [tuple(side) for side in facts["bbox_used_for_cropping"]]
    expected = level_map(stock_probability(model, image, False, spacing), THETAS)
    predictor = Predictor(model, CPU, 0.5, False)
    mask = np.zeros(image.shape, bool)
    mask[9:20, 5:15, 12:22] = True
    for region in (whole_scan(image.shape), Region(mask, "organ")):
        found = predictor.predict_region(image, (spacing,) * 3, (0, 1), region)
        levels = level_map(found.probability, THETAS)
        assert (levels == expected)[region.mask].mean() >= 0.999


def test_ways() -> None:
    """A GPU that lacks memory gets smaller work twice, the last on the CPU."""
    assert [way.device.type for way in ways_to_compute(CPU)] == ["cpu"]
    ways = ways_to_compute(torch.device("cuda"))
    facts = [(way.device.type, way.accumulate_on.type, way.at_once) for way in ways]
    assert facts == [("cuda", "cuda", 8), ("cuda", "cpu", 1), ("cpu", "cpu", 1)]


@pytest.mark.parametrize("margin_mm", [0, 4.0, 11.0])
def test_grown_mask(margin_mm: float) -> None:
    """All voxels up to the margin, and none much farther."""
    random = np.random.default_rng(3)
    smooth = ndi.gaussian_filter(random.standard_normal((31, 40, 26)), 3)
    mask = smooth > np.quantile(smooth, 0.99)
    mask[:4], mask[:, :9] = False, False
    spacing = (2.0, 1.5, 1.0)
    distance = ndi.distance_transform_edt(~mask, sampling=spacing)
    grown = grow_mask(mask, spacing, margin_mm)
    assert grown[distance <= margin_mm].all()
    assert not grown[distance > margin_mm + 2 * np.linalg.norm(spacing)].any()
    assert not grow_mask(np.zeros_like(mask), spacing, margin_mm).any()


def test_organ_region() -> None:
    """The organ's neighbourhood; the whole scan where the mask is empty or a speck."""
    rows = [[0.8, 0, 0, 9], [0, 0.8, 0, -4], [0, 0, 3, 2], [0, 0, 0, 1]]
    grid = Grid.of((40, 60, 70), np.array(rows))
    model_grid = grid.with_spacing(1.5)
    organ = np.zeros(grid.shape, bool)
    assert organ_region(organ, grid, model_grid, 6).basis == "organ_empty"
    organ[10:13, 20:30, 20:30] = True
    speck = organ_region(organ, grid, model_grid, 6)
    assert speck.basis == "organ_small" and speck.mask.all()
    # To the border of the field of view: nothing lies beyond.
    organ[5:20, 20:50, :35] = True
    region = organ_region(organ, grid, model_grid, 6)
    assert region.basis == "organ" and 0.1 < region.mask.mean() < 0.7
    places = [np.indices(g.shape).reshape(3, -1)[::-1] for g in (grid, model_grid)]
    native, model = (
        (g.affine[:3, :3] @ p).T + g.affine[:3, 3]
        for g, p in zip((grid, model_grid), places, strict=True)
    )
    from scipy.spatial import KDTree

    distance, _ = KDTree(native[organ.ravel()]).query(model)
    # Half a model voxel's diagonal stands between a native center and its model voxel's.
    assert region.mask.ravel()[distance <= 6 - 1.3].all()
    assert not region.mask.ravel()[distance > 6 + 7].any()


def test_known_organs() -> None:
    """One side of a pair is not the organ; the mask without a side is."""
    assert is_organ_known("liver", {"liver": {}, "spleen": {}})
    assert not is_organ_known("liver", {"spleen": {}})
    assert not is_organ_known("kidney", ["kidney_left", "liver"])
    assert is_organ_known("kidney", ["kidney_left", "kidney_right"])
    assert is_organ_known("kidney", ["kidney"])
    assert not is_organ_known("uterus", [])


def test_cut_off() -> None:
    """Only what reaches the border of what was predicted is followed; the scan's is none."""
    done, reached = np.zeros((2, 20, 20, 20), bool)
    done[:, :10], reached[3:5, 2:8, 4] = True, True
    assert not cut_off(reached, done, (1.0,) * 3, 4.0).any()
    reached[0, 0, 0] = True
    assert not cut_off(reached, done, (1.0,) * 3, 4.0).any()
    reached[9, 9, 9] = True
    more = cut_off(reached, done, (1.0,) * 3, 4.0)
    assert more[9, 10:13, 9].all() and not (more & done).any() and not more[:, 17:].any()
