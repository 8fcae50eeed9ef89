"""Normalized surface distance of predicted tumors."""

import warnings

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray
from surface_distance import compute_surface_dice_at_tolerance, compute_surface_distances

from benchmarks.phantom import SPACING_MM, TUMORS, Phantom
from benchmarks.timing import markdown_table, time_methods
from tumoratlas.evaluate.surface import TOLERANCE_MM, surface_dice

OURS = "tumoratlas: surface_dice"
REFERENCE = "surface-distance 0.1"


def compare_evaluating(phantom: Phantom, rounds: int) -> str:
    """Time the ways of computing the NSD, compare their numbers and return the table."""
    truth = np.isin(phantom.values, list(TUMORS.values()))
    # As a model errs: a little too large, and beside the place.
    prediction = np.roll(ndi.binary_dilation(truth), (0, 1, 2), axis=(0, 1, 2))
    methods = {
        OURS: lambda: surface_dice(truth, prediction, spacing_zyx_mm=SPACING_MM[::-1]),
        REFERENCE: lambda: _reference(truth, prediction),
    }
    timings, results = time_methods(methods, rounds)
    if abs(results[OURS] - results[REFERENCE]) > 1e-9:
        raise ValueError(f"the NSD is {results[REFERENCE]}, not {results[OURS]}")
    shape = " x ".join(map(str, truth.shape))
    title = f"NSD of all tumors of a scan, {shape} voxels, tolerance {TOLERANCE_MM:g} mm"
    return (
        f"{markdown_table(title, timings, REFERENCE)}\n\nBoth find {results[OURS]:.10f}, which "
        "agrees to nine digits."
    )


def _reference(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    with warnings.catch_warnings():
        # It calls scipy by old names.
        warnings.simplefilter("ignore", DeprecationWarning)
        distances = compute_surface_distances(truth, prediction, SPACING_MM[::-1])
    return compute_surface_dice_at_tolerance(distances, TOLERANCE_MM)
