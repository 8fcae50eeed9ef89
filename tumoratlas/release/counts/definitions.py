"""The definitions that move the counts, in words: they stand with every table and figure."""

from collections.abc import Mapping
from typing import Any

from tumoratlas.measure.instances import SIZE_CLASSES


def definition_rows(definitions: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the definitions as rows ``definition, meaning``.

    Parameters
    ----------
    definitions
        Configuration ``connectivity, minimum_volume_mm3, size_edges_mm, early_diameter_mm``.
    """
    early = f"{definitions['early_diameter_mm']:g} mm"
    rows = [
        (
            "tumor",
            f"a {definitions['connectivity']}-connected component of an organ's tumor mask, "
            "unless a reviewer split or merged it; cysts are not counted",
        ),
        (
            "smallest tumor",
            f"{definitions['minimum_volume_mm3']:g} mm³; smaller ones are fragments, which are "
            "in the table and not counted",
        ),
        ("size class", f"by the radius of the sphere of equal volume: {size_edges(definitions)}"),
        ("early", f"diameter of the sphere of equal volume below {early}"),
        ("early, longest axis", f"longest diameter in an axial slice below {early}"),
    ]
    return [{"definition": name, "meaning": meaning} for name, meaning in rows]


def definition_line(definitions: Mapping[str, Any]) -> str:
    """Return all definitions in one line."""
    rows = definition_rows(definitions)
    return " ".join(f"{row['definition'].capitalize()}: {row['meaning']}." for row in rows)


def size_edges(definitions: Mapping[str, Any]) -> str:
    """Return the edges of the size classes, each closed above."""
    edges = definitions["size_edges_mm"]
    closed = " < ".join(f"{c} ≤ {e:g}" for c, e in zip(SIZE_CLASSES, edges, strict=False))
    return f"{closed} < {SIZE_CLASSES[-1]} (mm)"


def size_ranges(definitions: Mapping[str, Any]) -> list[str]:
    """Return the range of every size class in mm, for the ticks of a figure."""
    edges = [f"{edge:g}" for edge in definitions["size_edges_mm"]]
    inner = [f"{low}–{high}" for low, high in zip(edges, edges[1:], strict=False)]
    return [f"≤ {edges[0]}", *inner, f"> {edges[-1]}"]
