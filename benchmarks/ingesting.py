"""Ingesting a CT: the checks, hashes and fingerprint beside the bare inflating of its file."""

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np

from benchmarks.phantom import Phantom
from benchmarks.timing import markdown_table, time_methods
from tumoratlas.images.ct import check_ct
from tumoratlas.images.nifti import read_nifti
from tumoratlas.images.statistics import measure_volume, slice_axis
from tumoratlas.ingest.fingerprint import fingerprint_of, voxel_sha256

FLOOR = "floor: libdeflate from memory to memory, with CRC"
READ = "read_nifti with CRC and SHA-256"
MEASURE = "measure_volume, check_ct, voxel hash"
PRINT = "fingerprint_of"
WHOLE = "tumoratlas: all of ingest, each file read once"


def compare_ingesting(phantom: Phantom, rounds: int) -> str:
    """Time the parts of ingest and the whole, and return their table.

    The ratio below the table is CPU seconds of the whole by those of the floor.
    """
    data = phantom.image.read_bytes()
    buffer = np.empty(352 + phantom.hu.nbytes, np.uint8)
    file = read_nifti(phantom.image, max_voxels=10**9)
    axis = slice_axis(file.grid)
    known = measure_volume(file.array, axis)

    def measure() -> str:
        statistics = measure_volume(file.array, axis)
        check_ct(statistics, phantom.image, stored_dtype=file.array.dtype, min_slices=1)
        return voxel_sha256(statistics)

    def whole() -> tuple[Any, ...]:
        read = read_nifti(phantom.image, max_voxels=10**9)
        statistics = measure_volume(read.array, slice_axis(read.grid))
        dtype = read.array.dtype
        check_ct(statistics, phantom.image, stored_dtype=dtype, min_slices=1)
        content = voxel_sha256(statistics)
        return read.sha256, content, fingerprint_of(read.array, read.grid, statistics)

    methods: dict[str, Callable[[], Any]] = {
        FLOOR: lambda: imagecodecs.gzip_decode(data, out=buffer),
        READ: lambda: read_nifti(phantom.image, max_voxels=10**9).array,
        MEASURE: measure,
        PRINT: lambda: fingerprint_of(file.array, file.grid, known),
        WHOLE: whole,
    }
    timings, results = time_methods(methods, rounds)
    digest, content, fingerprint = results[WHOLE]
    if not np.array_equal(results[READ], phantom.hu):
        raise ValueError(f"{READ} read other voxels")
    if (digest, content) != (file.sha256, results[MEASURE]):
        raise ValueError("parts and whole give other hashes")
    if not np.array_equal(fingerprint.anchors, results[PRINT].anchors):
        raise ValueError("parts and whole give other fingerprints")
    seconds = {timing.name: timing.cpu_s for timing in timings}
    ratio = seconds[WHOLE] / max(seconds[FLOOR], 1e-6)
    shape = " x ".join(map(str, phantom.hu.shape[::-1]))
    title = f"Ingest a CT of {shape} voxels, {len(data) / 1e6:.3g} MB on disk"
    table = markdown_table(title, timings, FLOOR)
    return f"{table}\n\nThe whole takes {ratio:.2f} times the CPU seconds of the floor."
