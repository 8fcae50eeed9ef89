"""Four 32-voxel cases and settings that train in a second, for the tests of nnU-Net's steps."""

from pathlib import Path

import numpy as np

from tumoratlas.images.arrays import write_array
from tumoratlas.images.grid import Grid
from tumoratlas.train.dataset import TrainingCase
from tumoratlas.train.plan import TrainSettings

GRID = Grid.of((32, 32, 32), np.diag([1.5, 1.5, 1.5, 1.0]))
TINY = TrainSettings(
    folds=2,
    epochs=3,
    iterations=2,
    validation_iterations=1,
    patch_size=16,
    features=4,
    max_features=16,
    blocks=(1, 1, 1),
    learning_rate=0.1,
    seed=7,
    checkpoint_every=1,
)


def tiny_case(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (int16 HU) with a bright ball and its labels: tumor 1, a cyst 2."""
    random = np.random.default_rng(number)
    z, y, x = np.ogrid[:32, :32, :32]
    center = random.integers(10, 22, 3)
    ball = (z - center[0]) ** 2 + (y - center[1]) ** 2 + (x - center[2]) ** 2 <= 25
    image = 40 + random.normal(0, 10, (32, 32, 32)) + 90 * ball
    label = ball.astype(np.uint8)
    label[:3, :3, :3] = 2
    return image.round().astype(np.int16), label


def tiny_cases(folder: Path) -> list[TrainingCase]:
    """Write four cases of three patients; the last patient has two."""
    cases = []
    for number, group in enumerate(["a", "b", "c", "c"]):
        image, label = tiny_case(number)
        paths = folder / f"image_{number}.b2nd", folder / f"label_{number}.b2nd"
        for path, array in zip(paths, (image, label), strict=True):
            write_array(path, array, grid=GRID.to_json())
        cases.append(TrainingCase(f"case_{number}", group, *paths))
    return cases
