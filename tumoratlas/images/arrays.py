"""Intermediate volumes: compressed arrays with their facts in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import xxhash
from numpy.typing import NDArray

from tumoratlas.core.files import replacing, to_json
from tumoratlas.core.results import read_result
from tumoratlas.images.checks import refusal

# Work is parallel by process: the threads of a pool, of which the library has one for whatever is
# not told otherwise, do not survive a fork.
blosc2.set_nthreads(1)
_CHUNK_SLICES = 16
_META = "tumoratlas"


def write_array(path: Path, array: NDArray[Any], **meta: object) -> None:
    """Write an array as Blosc2 (zstd level 1, bit shuffle) with its facts; equal in, equal bytes.

    Chunk and block sizes are fixed, because the library's own choice depends on the machine's
    caches. A hash of the voxels is kept along, because the format has no checksum.

    Parameters
    ----------
    path
        File to write, by habit ``.b2nd``.
    array
        Array of any dtype; volumes are (z, y, x).
    **meta
        Facts as JSON values, such as ``grid=grid.to_json()``.
    """
    array = np.ascontiguousarray(array)
    rows = [1] * (array.ndim - 2)
    plane = [max(1, n) for n in array.shape[-2:]]
    chunks = [*(min(_CHUNK_SLICES, max(1, n)) for n in array.shape[: len(rows)]), *plane]
    stored = blosc2.asarray(
        array,
        chunks=tuple(chunks),
        blocks=tuple(rows + plane),
        contiguous=True,  # as it will be stored: no copy is made for the file
        cparams=blosc2.CParams(
            codec=blosc2.Codec.ZSTD,
            clevel=1,
            filters=[blosc2.Filter.BITSHUFFLE],
            nthreads=1,
        ),
        # Also of reading: a pool of threads in a forked process ends it, and the number is stored.
        dparams=blosc2.DParams(nthreads=1),
    )
    stored.schunk.vlmeta[_META] = to_json({"xxh3": _digest(array), "meta": meta})
    with replacing(path) as temporary:
        temporary.write_bytes(stored.to_cframe())


def read_array(path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    """Read an array and its facts written by `write_array`.

    Raises
    ------
    InputError
        ARRAY_DAMAGED: the file is cut, altered or of another program.
    DamageError
        RESULT_DAMAGED (`read_result`).
    """
    return decode_array(path, read_result(path))


def decode_array(path: Path, data: bytes) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return the array and facts that the bytes of the file ``path`` hold; see `read_array`."""
    try:
        stored = blosc2.ndarray_from_cframe(data)
        facts = json.loads(stored.schunk.vlmeta[_META])
        stored.schunk.dparams = blosc2.DParams(nthreads=1)
        array = np.asarray(stored[...])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise refusal("ARRAY_DAMAGED", path, str(error)) from error
    if _digest(array) != facts["xxh3"]:
        raise refusal("ARRAY_DAMAGED", path, "the hash of the voxels differs")
    return array, facts["meta"]


def _digest(array: NDArray[Any]) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).data)
