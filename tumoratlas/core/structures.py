"""The anatomical structures of the release and the six tumor organs."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RESOURCES = Path(__file__).resolve().parents[2] / "resources"


@dataclass(frozen=True)
class Structure:
    """A row of ``resources/structures.csv``.

    Attributes
    ----------
    index
        Value in ``combined_labels`` for 1 to 32 (the class map of the AbdomenAtlas 2.0 data
        page); 33 and above never enter it.
    name
        File name of its mask in the release.
    kind
        ``organ`` or ``tumor``.
    organ
        The tumor organ it belongs to, or empty.
    """

    index: int
    name: str
    kind: str
    organ: str


@cache
def structures() -> dict[str, Structure]:
    """Return every structure by name, in index order."""
    with open(RESOURCES / "structures.csv", newline="", encoding="utf-8") as file:
        rows = [
            Structure(int(row["index"]), row["name"], row["kind"], row["organ"])
            for row in csv.DictReader(file)
        ]
    return {row.name: row for row in rows}


@cache
def tumor_structures() -> dict[str, Structure]:
    """Return the tumor structure of each of the six organs, by organ."""
    return {row.organ: row for row in structures().values() if row.kind == "tumor"}


def structure_bit(name: str) -> int:
    """Return the bit (uint32) that stands for an organ structure in a bit-plane volume.

    A volume of bit planes keeps overlapping masks apart, which a label map cannot.
    """
    organs = [row.name for row in structures().values() if row.kind == "organ"]
    return 1 << organs.index(name)


def organ_mask(planes: NDArray[np.uint32], organ: str) -> NDArray[np.bool_]:
    """Return the voxels (z, y, x) of a tumor organ: any of its structures."""
    names = [r.name for r in structures().values() if r.kind == "organ" and r.organ == organ]
    return (planes & np.uint32(sum(structure_bit(name) for name in names))) != 0
