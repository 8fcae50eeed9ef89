"""The pixels of DICOM slices: decoded, within their stored bits, in HU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import HTJ2K as HTJ2KAny
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tumoratlas.images.checks import Finding, Repair, refusal, warning
from tumoratlas.images.dicom_files import Slice, text_of

_NATIVE = {
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
}
_DECODERS: dict[UID, Callable[[bytes], NDArray[Any]]] = {
    JPEGBaseline8Bit: imagecodecs.jpeg8_decode,
    JPEGExtended12Bit: imagecodecs.jpeg8_decode,
    JPEGLossless: imagecodecs.jpeg8_decode,
    JPEGLosslessSV1: imagecodecs.jpeg8_decode,
    JPEGLSLossless: imagecodecs.jpegls_decode,
    JPEGLSNearLossless: imagecodecs.jpegls_decode,
    JPEG2000Lossless: imagecodecs.jpeg2k_decode,
    JPEG2000: imagecodecs.jpeg2k_decode,
    # The JPEG 2000 decoder reads HTJ2K too and, unlike the other one, refuses a cut stream.
    HTJ2KLossless: imagecodecs.jpeg2k_decode,
    HTJ2KLosslessRPCL: imagecodecs.jpeg2k_decode,
    HTJ2KAny: imagecodecs.jpeg2k_decode,
}
_LOSSY = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless}
_LOSSY_UNLESS_STATED = {JPEG2000, HTJ2KAny}
# Mean steps in stored values across the rim of what exceeds its bits, see `_is_cut_right`.
_SMALL_STEP, _LARGE_STEP = 1024, 2048
_END_OF_IMAGE = b"\xff\xd9"


def decode_frames(path: Path, dataset: Dataset) -> Iterator[NDArray[np.uint16]]:
    """Yield each frame's stored values as 16-bit patterns (y, x).

    Raises
    ------
    InputError
        DICOM_UNDECODABLE.
    """
    try:
        shape = (int(dataset.Rows), int(dataset.Columns))
        count = int(dataset.get("NumberOfFrames") or 1)
        syntax = dataset.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian
        if syntax in _NATIVE:
            frames: Iterator[NDArray[Any]] = _native(dataset, count, shape)
        else:
            frames = _encapsulated(dataset, UID(syntax), count, shape)
        for frame in frames:
            if frame.shape != shape:
                raise ValueError(f"decoded shape {frame.shape}")
            yield _as_words(frame, dataset, is_stream=syntax in _DECODERS)
    # Decoders of several libraries raise what they like; each means that this slice is lost.
    except Exception as error:
        raise refusal("DICOM_UNDECODABLE", path, str(error).split("\n")[0]) from error


def is_lossy(dataset: Dataset) -> bool:
    """Return whether the pixels went through a compression that changed them."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    stated = text_of(dataset, "LossyImageCompression")
    return syntax in _LOSSY or stated == "01" or (syntax in _LOSSY_UNLESS_STATED and stated != "00")


def fit_stored_bits(
    words: NDArray[np.uint16], slices: Sequence[Slice]
) -> tuple[tuple[Repair, ...], tuple[Finding, ...]]:
    """Bring the words of a series into the bits that its headers state, in place.

    Only the Bits Stored up to High Bit are the value; what lies in the other bits is no part of
    it (DICOM PS3.5 8.1.1), and its sign need not have been copied into them. Some files state
    too few bits, however, and metal cut to them would turn into air. `_is_cut_right` decides
    where words exceed their bits.

    Parameters
    ----------
    words
        Stored 16-bit patterns (z, y, x), in the order of ``slices``; changed in place.
    slices
        The slices' headers.

    Returns
    -------
    A repair ``stored_bits`` where values changed, and STORED_BITS where words that exceed
    their stated bits were kept.

    Raises
    ------
    InputError
        DICOM_UNDECODABLE where bits below the value are in use, or neither reading of words
        that exceed their bits gives an image.
    """
    moved = [part for z, part in enumerate(slices) if _move_to_low_bits(words[z], part)]
    repairs = [_repair(len(moved), "at High Bit", "in the lowest bits")] if moved else []
    cut: dict[int, NDArray[np.uint16]] = {}
    before: list[int] = []
    after: list[int] = []
    for z, part in enumerate(slices):
        bits, signed = _bits(part.dataset)
        low, high = _range(words[z], signed)
        if low < (-(1 << bits - 1) if signed else 0) or high >= 1 << (bits - signed):
            cut[z] = _cut(words[z], bits, signed)
            before += [low, high]
            after += _range(cut[z], signed)
    if not cut:
        return tuple(repairs), ()
    if not _is_cut_right(words, slices, cut):
        shown = f"{len(cut)} slices, {min(before)} to {max(before)}"
        return tuple(repairs), (warning("STORED_BITS", shown),)
    for z, values in cut.items():
        words[z] = values
    ends = (f"{min(values)} to {max(values)}" for values in (before, after))
    return (*repairs, _repair(len(cut), *ends)), ()


def _is_cut_right(
    words: NDArray[np.uint16], slices: Sequence[Slice], cut: dict[int, NDArray[np.uint16]]
) -> bool:
    """Return whether words that exceed their bits are to be cut, or else to be taken whole.

    Signed: where other words hold negative values whose sign was copied, the writer used all 16
    bits. Else the smaller mean step between words that exceed their bits and neighbours that do
    not tells. Unsigned: overlays leave the image below them as it was, so that this step is
    small after the cut; values of more bits rise from their neighbours by less than half the
    range of 12 bits.
    """
    if any(_has_copied_signs(words[z], part) for z, part in enumerate(slices)):
        return False
    steps = np.sum([_edge_steps(words[z], cut[z], slices[z]) for z in cut], axis=0)
    if all(_bits(slices[z].dataset)[1] for z in cut):
        return bool(steps[2] <= steps[1])
    pairs = max(int(steps[0]), 1)
    if steps[0] and steps[2] < _SMALL_STEP * pairs:
        return True
    if steps[0] and steps[1] < _LARGE_STEP * pairs:
        return False
    shown = f"words exceed the {_bits(slices[min(cut)].dataset)[0]} bits stored"
    raise refusal("DICOM_UNDECODABLE", slices[min(cut)].path, shown)


def to_hounsfield(words: NDArray[np.uint16], part: Slice) -> None:
    """Turn a slice's stored values into int16 HU, rounded half up, in place.

    Raises
    ------
    InputError
        HU_RANGE.
    """
    _, signed = _bits(part.dataset)
    stored = words.view(np.int16) if signed else words
    low, high = sorted(end * part.slope + part.intercept for end in _range(words, signed))
    if not (low >= -32768 and high <= 32767):
        raise refusal("HU_RANGE", part.path, f"values {low} to {high}")
    if part.slope == 1 and part.intercept.is_integer():
        # Sums of 16-bit patterns wrap, and the true sum is known to fit.
        words += np.uint16(int(part.intercept) % (1 << 16))
    else:
        values = np.floor(stored * np.float64(part.slope) + (part.intercept + 0.5))
        words[:] = values.astype(np.int16).view(np.uint16)


def _native(dataset: Dataset, count: int, shape: tuple[int, int]) -> Iterator[NDArray[Any]]:
    bits = int(dataset.BitsAllocated)
    is_little = bool(dataset.original_encoding[1])
    if bits not in (8, 16) or (bits == 8 and not is_little):
        raise ValueError(f"{bits} bits allocated")
    dtype = np.dtype(f"{'<' if is_little else '>'}u{bits // 8}")
    size = shape[0] * shape[1] * dtype.itemsize
    held = len(dataset.PixelData)
    if not count * size <= held < (count + 1) * size:
        raise ValueError(f"{held} bytes of pixels, not {count * size}")
    values = np.frombuffer(dataset.PixelData, dtype, count=count * shape[0] * shape[1])
    yield from values.reshape(count, *shape)


def _encapsulated(
    dataset: Dataset, syntax: UID, count: int, shape: tuple[int, int]
) -> Iterator[NDArray[Any]]:
    if syntax != RLELossless and syntax not in _DECODERS:
        raise ValueError(f"transfer syntax {syntax.name} is not supported")
    found = 0
    for frame in generate_frames(dataset.PixelData, number_of_frames=count):
        found += 1
        if syntax == RLELossless:
            dtype = np.dtype(f"<u{int(dataset.BitsAllocated) // 8}")
            values = np.frombuffer(imagecodecs.dicomrle_decode(frame, dtype.str), dtype)
            yield values.reshape(shape)
        # Without this mark the stream is cut, which the JPEG decoder would hide.
        elif not frame.rstrip(b"\0").endswith(_END_OF_IMAGE):
            raise ValueError("the compressed stream has no end")
        else:
            yield _DECODERS[syntax](frame)
    if found != count:
        raise ValueError(f"{found} of {count} frames")


def _as_words(frame: NDArray[Any], dataset: Dataset, *, is_stream: bool) -> NDArray[np.uint16]:
    if frame.dtype.kind not in "iu" or frame.dtype.itemsize > 2:
        raise ValueError(f"decoded type {frame.dtype}")
    bits, signed = _bits(dataset)
    if signed and frame.dtype == np.uint8:
        frame = frame.view(np.int8)
    words = frame.astype(np.int16 if frame.dtype.kind == "i" else np.uint16).view(np.uint16)
    # Compressed streams hold the bits of the value alone, without copies of its sign.
    if signed and is_stream and frame.dtype.kind == "u" and int(words.max()) < 1 << bits:
        return _cut(words, bits, signed)
    return words


def _bits(dataset: Dataset) -> tuple[int, bool]:
    """Return Bits Stored and whether values are signed."""
    allocated = int(dataset.BitsAllocated)
    bits = int(dataset.get("BitsStored") or allocated)
    if not max(bits - 1, int(dataset.get("HighBit") or 0)) < allocated <= 16:
        raise ValueError(f"{bits} bits stored of {allocated} allocated")
    return bits, int(dataset.get("PixelRepresentation") or 0) == 1


def _cut(words: NDArray[np.uint16], bits: int, signed: bool) -> NDArray[np.uint16]:
    """Return the value of the lowest bits, with its sign copied into the bits above."""
    unused = 16 - bits
    shifted = words << np.uint16(unused)
    if signed:
        return (shifted.view(np.int16) >> np.int16(unused)).view(np.uint16)
    return shifted >> np.uint16(unused)


def _move_to_low_bits(words: NDArray[np.uint16], part: Slice) -> bool:
    """Shift a slice's values down where High Bit says that they lie above unused bits."""
    bits, signed = _bits(part.dataset)
    shift = int(part.dataset.get("HighBit") or 0) - bits + 1
    is_stream = part.dataset.file_meta.get("TransferSyntaxUID") in _DECODERS
    if shift <= 0 or is_stream or not words.any():
        return False
    if (words & ((1 << shift) - 1)).any():
        raise refusal("DICOM_UNDECODABLE", part.path, f"bits below the {bits} stored are in use")
    words[:] = _cut(words >> np.uint16(shift), bits, signed)
    return True


def _repair(slices: int, before: str, after: str) -> Repair:
    return Repair("stored_bits", f"values {before} in {slices} slices", f"values {after}")


def _range(words: NDArray[np.uint16], signed: bool) -> list[int]:
    values = words.view(np.int16) if signed else words
    return [int(values.min()), int(values.max())]


def _has_copied_signs(words: NDArray[np.uint16], part: Slice) -> bool:
    bits, signed = _bits(part.dataset)
    values = words.view(np.int16)
    return signed and bool(((values < 0) & (values >= -(1 << bits - 1))).any())


def _edge_steps(
    words: NDArray[np.uint16], cut: NDArray[np.uint16], part: Slice
) -> tuple[int, int, int]:
    """Return count, sum of steps and sum after the cut of pairs of which one word changes."""
    dtype = np.int16 if _bits(part.dataset)[1] else np.uint16
    whole, shown = words.view(dtype).astype(np.int32), cut.view(dtype).astype(np.int32)
    pairs = whole_sum = cut_sum = 0
    for axis in (0, 1):
        is_edge = np.diff(words != cut, axis=axis)
        pairs += int(is_edge.sum())
        whole_sum += int(np.abs(np.diff(whole, axis=axis))[is_edge].sum(dtype=np.int64))
        cut_sum += int(np.abs(np.diff(shown, axis=axis))[is_edge].sum(dtype=np.int64))
    return pairs, whole_sum, cut_sum
