"""Small bodies with smooth organs and balls as tumors, drawn on a patient's native grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tests.phantoms.atlas import (
    CONTRAST_HU,
    HEPATIC_VESSEL,
    HU,
    PHASE_HU,
    SHAPES,
    Ellipsoid,
    Shape,
)
from tests.phantoms.cast import Lesion, Patient
from tumoratlas.images.grid import Grid

Box = tuple[tuple[int, int, int], tuple[int, int, int]]
NOISE_HU = 9.0
# Voxels around the structure that a window is cut to.
WINDOW_MARGIN = 5
BLUR_VOXELS = (0.2, 0.4, 0.4)  # along (z, y, x)
# A ball's voxels hold its volume this well, so that the grid moves none to another size class.
VOLUME_TOLERANCE = 0.08


@dataclass(frozen=True)
class Phantom:
    """A drawn patient, everything on ``grid`` (RAS, true spacing and position).

    Attributes
    ----------
    image
        int16 HU (z, y, x) within [-1000, 1000].
    masks
        Boolean mask (z, y, x) of each structure in the class map, by name.
    instances
        uint16 (z, y, x): 1-based position in ``lesions``, or 0.
    lesions
        The patient's lesions in the field of view, in the order of its table.
    """

    patient: Patient
    grid: Grid
    image: NDArray[np.int16]
    masks: dict[str, NDArray[np.bool_]]
    instances: NDArray[np.uint16]
    lesions: tuple[Lesion, ...]

    def labels(self, organ: str, kind: str) -> NDArray[np.bool_]:
        """Return the voxels (z, y, x) of all lesions of an organ and kind."""
        numbers = [i for i, x in enumerate(self.lesions, 1) if (x.organ, x.kind) == (organ, kind)]
        return np.isin(self.instances, numbers)

    def organ(self, organ: str) -> NDArray[np.bool_]:
        """Return an organ's voxels (z, y, x), both sides of the kidneys together."""
        names = [organ] if organ in self.masks else [f"{organ}_left", f"{organ}_right"]
        return np.logical_or.reduce([self.masks[name] for name in names])


def draw(patient: Patient, seed: int) -> Phantom:
    """Draw a patient; the same patient and seed give the same voxels.

    Raises
    ------
    ValueError
        If the lesions of the table do not fit into their organs.
    """
    grid = patient.grid()
    rng = np.random.default_rng([seed, patient.anatomy])
    points = _warped(_atlas_points(grid, patient.field_scale), rng)
    table = {name: hu + PHASE_HU.get(name, 0) for name, hu in HU.items()}
    table = table if patient.phase_of else HU
    masks, hu = _organs(points, patient, table, rng)
    instances = _place(patient.lesions, masks, grid, rng)
    for number, lesion in enumerate(patient.lesions, 1):
        base = table[lesion.structure]
        hu[instances == number] = base + CONTRAST_HU[lesion.organ, lesion.kind]
    hu = ndimage.gaussian_filter(hu, BLUR_VOXELS)
    if patient.phase_of:
        rng = np.random.default_rng([seed, patient.number])
    noise = ndimage.gaussian_filter(rng.standard_normal(grid.shape, dtype=np.float32), 0.6)
    hu += noise * np.float32(NOISE_HU / noise.std())
    image = np.clip(np.rint(hu), -1000, 1000).astype(np.int16)
    phantom = Phantom(patient, grid, image, masks, instances, patient.lesions)
    return _windowed(phantom) if patient.window else phantom


def box_of(mask: NDArray[np.bool_]) -> Box:
    """Return the first voxel and the one past the last (z, y, x) of a mask."""
    found = np.argwhere(mask)
    return tuple(int(n) for n in found.min(axis=0)), tuple(int(n) + 1 for n in found.max(axis=0))


def crop(phantom: Phantom, box: Box) -> Phantom:
    """Return what lies in a box, at its place; lesions keep their numbers."""
    first, end = box
    part = tuple(slice(a, b) for a, b in zip(first, end, strict=True))
    affine = phantom.grid.affine
    affine[:3, 3] = (affine @ [*first[::-1], 1])[:3]
    image = phantom.image[part]
    return replace(
        phantom,
        grid=Grid.of(image.shape, affine),
        image=image,
        masks={name: mask[part] for name, mask in phantom.masks.items()},
        instances=phantom.instances[part],
    )


def _windowed(phantom: Phantom) -> Phantom:
    """Return the field of view around the patient's window, with the lesions inside it."""
    first, end = box_of(phantom.masks[phantom.patient.window])
    box = (
        tuple(max(0, n - WINDOW_MARGIN) for n in first),
        tuple(min(n + WINDOW_MARGIN, s) for n, s in zip(end, phantom.grid.shape, strict=True)),
    )
    part = crop(phantom, box)
    voxels = np.bincount(phantom.instances.ravel(), minlength=len(phantom.lesions) + 1)
    inside = np.bincount(part.instances.ravel(), minlength=len(phantom.lesions) + 1)
    if ((inside > 0) & (inside < voxels))[1:].any():
        raise ValueError(f"the window of {phantom.patient.name} cuts a lesion")
    kept = [n for n in range(1, len(voxels)) if inside[n]]
    renumber = np.zeros(len(voxels), np.uint16)
    renumber[kept] = np.arange(1, len(kept) + 1)
    lesions = tuple(phantom.lesions[n - 1] for n in kept)
    return replace(part, instances=renumber[part.instances], lesions=lesions)


def _atlas_points(grid: Grid, scale: tuple[float, float, float]) -> tuple[NDArray[np.float32], ...]:
    """Return the (x, y, z) atlas coordinates of every voxel, as three (z, y, x) arrays."""
    axes = [
        ((np.arange(n) - (n - 1) / 2) * step / factor).astype(np.float32)
        for n, step, factor in zip(grid.shape[::-1], grid.spacing_mm, scale, strict=True)
    ]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    return x, y, z


def _warped(
    points: tuple[NDArray[np.float32], ...], rng: np.random.Generator
) -> tuple[NDArray[np.float32], ...]:
    """Shift every point by smooth waves of about 2 mm, so that no organ is a plain ellipsoid."""
    moved = []
    for axis, values in enumerate(points):
        wave = np.zeros_like(values)
        for other in {0, 1, 2} - {axis}:
            length, phase = rng.uniform(55, 80), rng.uniform(0, 2 * np.pi)
            wave += 1.1 * np.sin(points[other] * np.float32(2 * np.pi / length) + phase)
        moved.append((values + wave).astype(np.float32))
    return tuple(moved)


def _inside(
    points: tuple[NDArray[np.float32], ...], shape: Shape, shift: NDArray[np.float64], size: float
) -> NDArray[np.bool_]:
    """Return the voxels inside a shape that is moved by ``shift`` mm and scaled by ``size``."""
    if isinstance(shape, Ellipsoid):
        total = np.zeros_like(points[0])
        for axis, values in enumerate(points):
            centre = np.float32(shape.centre[axis] + shift[axis])
            total += ((values - centre) / np.float32(shape.semi[axis] * size)) ** 2
        return total < 1
    found = np.zeros(points[0].shape, dtype=bool)
    ends = np.array(shape.points) + shift
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        along = end - start
        offset = [values - np.float32(start[axis]) for axis, values in enumerate(points)]
        part = sum(o * np.float32(a) for o, a in zip(offset, along, strict=True))
        part = np.clip(part / np.float32(along @ along), 0, 1)
        square = sum((o - part * np.float32(a)) ** 2 for o, a in zip(offset, along, strict=True))
        found |= square < np.float32((shape.radius * size) ** 2)
    return found


def _organs(
    points: tuple[NDArray[np.float32], ...],
    patient: Patient,
    table: dict[str, int],
    rng: np.random.Generator,
) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.float32]]:
    """Return the mask of every structure and the noise-free HU (z, y, x) without lesions."""
    x, y, _ = points
    hu = np.full(x.shape, table["air"], dtype=np.float32)
    # Skin to fat, fat to muscle, muscle to the cavity: ellipses around the atlas axis.
    for tissue, a, b in (("fat", 69, 57), ("muscle", 66, 54), ("inside", 63, 51)):
        cavity = (x / np.float32(a)) ** 2 + (y / np.float32(b)) ** 2 < 1
        hu[cavity] = table[tissue]
    free = cavity.copy()
    masks = {}
    for name, shape in SHAPES.items():
        shift, size = rng.uniform(-1, 1, 3), rng.uniform(0.98, 1.04)
        if name == ("uterus" if patient.sex == "M" else "prostate"):
            masks[name] = np.zeros(x.shape, dtype=bool)
            continue
        mask = _inside(points, shape, shift, size) & free
        free &= ~mask
        masks[name] = mask
        hu[mask] = table[name]
    vessel = _inside(points, HEPATIC_VESSEL, np.zeros(3), 1.0) & masks["liver"]
    hu[vessel] = table["hepatic_vessel"]
    del masks["spine"]
    return {**masks, "hepatic_vessel": vessel}, hu


def _place(
    lesions: tuple[Lesion, ...],
    masks: dict[str, NDArray[np.bool_]],
    grid: Grid,
    rng: np.random.Generator,
) -> NDArray[np.uint16]:
    """Put each ball at a random place inside its structure, clear of the other balls."""
    depths = {}
    for name in sorted({lesion.structure for lesion in lesions}):
        # A border of zeros makes the edge of the scan an edge of the organ.
        padded = np.pad(masks[name], 1)
        depth = ndimage.distance_transform_edt(padded, sampling=grid.spacing_mm[::-1])
        depths[name] = depth[1:-1, 1:-1, 1:-1]
    for _ in range(20):
        instances = _try_to_place(lesions, depths, grid, rng)
        if instances is not None:
            return instances
    raise ValueError(f"no room for {lesions}")


def _try_to_place(
    lesions: tuple[Lesion, ...],
    depths: dict[str, NDArray[np.float64]],
    grid: Grid,
    rng: np.random.Generator,
) -> NDArray[np.uint16] | None:
    """Place the largest first; None where one finds no room."""
    step = np.array(grid.spacing_mm[::-1])
    instances = np.zeros(grid.shape, dtype=np.uint16)
    placed: list[tuple[NDArray[np.float64], float]] = []
    for number in sorted(range(len(lesions)), key=lambda i: -lesions[i].radius_mm):
        radius, depth = lesions[number].radius_mm, depths[lesions[number].structure]
        for _ in range(60):
            jitter = rng.uniform(-0.5, 0.5, 3) * step
            room = np.argwhere(depth > radius + np.linalg.norm(jitter))
            for other, other_radius in placed:
                # Two voxels apart along the coarsest axis: never 26-adjacent.
                gap = radius + other_radius + 2 * step.max() + np.linalg.norm(jitter)
                room = room[np.linalg.norm(room * step - other, axis=1) > gap]
            if not len(room):
                continue
            centre = room[rng.integers(len(room))] * step + jitter
            ball = _ball(grid, centre, radius)
            ratio = ball.sum() * grid.voxel_volume_mm3 / (4 / 3 * np.pi * radius**3)
            if abs(ratio - 1) < VOLUME_TOLERANCE:
                instances[ball] = number + 1
                placed.append((centre, radius))
                break
        else:
            return None
    return instances


def _ball(grid: Grid, centre: NDArray[np.float64], radius_mm: float) -> NDArray[np.bool_]:
    """Return the voxels whose centre lies in a ball; ``centre`` is (z, y, x) mm from voxel 0."""
    square = np.zeros(grid.shape)
    for axis, (count, step) in enumerate(zip(grid.shape, grid.spacing_mm[::-1], strict=True)):
        along = (np.arange(count) * step - centre[axis]) ** 2
        square += along.reshape([-1 if i == axis else 1 for i in range(3)])
    return square <= radius_mm**2
