"""Figure 4 of the paper as SVG files that need nothing else: equal counts give equal bytes."""

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tumoratlas.measure.pooled import UNASSIGNED
from tumoratlas.release.counts.definitions import definition_line, size_ranges
from tumoratlas.release.counts.drawing import Scale, even_ticks, line, rectangle, svg, text, tick

WIDTH = 360
_LEFT, _RIGHT, _TOP = 86, 14, 46
_WRAP = 72
# Scoped by the class, so that a page can hold several and keep its own style.
_STYLE = """
.figure4 { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
 sans-serif; font-size: 11px; background: #fff; }
.figure4 text { fill: #5b6672; text-anchor: middle; }
.figure4 .title { fill: #1d2329; font-size: 13px; font-weight: 600; text-anchor: start; }
.figure4 .start { text-anchor: start; }
.figure4 .end { text-anchor: end; }
.figure4 .small-print { font-size: 9px; text-anchor: start; }
.figure4 .organ { fill: #1d2329; text-anchor: end; }
.figure4 .value { fill: #1d2329; font-size: 10px; }
.figure4 .grid { stroke: #d9dee3; stroke-width: .7; }
.figure4 .edge { stroke: #b4552d; stroke-width: 1; stroke-dasharray: 3 3; }
.figure4 .plain, .figure4 .medium { fill: #3f81b0; }
.figure4 .tiny { fill: #bcd4e6; }
.figure4 .small { fill: #7fb0d1; }
.figure4 .large { fill: #154a73; }
"""


def share_figure(shares: pd.DataFrame, definitions: Mapping[str, Any]) -> str:
    """Return Figure 4a: the share of the tumors of every organ.

    Parameters
    ----------
    shares
        ``organ, tumors, share_percent`` of `tumoratlas.release.counts.files.count_shares`.
    definitions
        Configuration that defines a tumor and its size (`definition_line`).
    """
    row_height = 26
    shown = shares["share_percent"].fillna(0)
    ticks = even_ticks(0, max(10.0, float(shown.max())))
    bottom = _TOP + row_height * len(shares)
    # Room for the numbers behind the longest bar.
    x = Scale(0, ticks[-1], _LEFT, WIDTH - _RIGHT - 84)
    parts = [_vertical(x, value, bottom) for value in ticks]
    for n, row in enumerate(shares.itertuples()):
        top = _TOP + n * row_height
        share = 0.0 if pd.isna(row.share_percent) else row.share_percent
        parts.append(text("organ", _LEFT - 8, top + 17, row.organ))
        parts.append(rectangle("plain", _LEFT, top + 5, x(share) - _LEFT, top + 21))
        words = f"{row.tumors:,} ({share:.1f} %)"
        parts.append(text("value start", x(share) + 5, top + 17, words))
    parts.append(text("caption", (_LEFT + x(ticks[-1])) / 2, bottom + 29, "share of tumors (%)"))
    title = "a. Share of tumors by organ"
    total = int(shares["tumors"].sum())
    organs = int((shares.loc[shares["organ"] != UNASSIGNED, "tumors"] > 0).sum())
    loose = int(shares.loc[shares["organ"] == UNASSIGNED, "tumors"].sum())
    subtitle = f"{_counted(total, 'tumor')} in {_counted(organs, 'organ')}"
    subtitle += f", {loose:,} of them unassigned" if loose else ""
    return _figure(title, subtitle, parts, bottom + 36, definitions)


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def radius_figure(radii: pd.DataFrame, definitions: Mapping[str, Any]) -> str:
    """Return Figure 4b: the distribution of radii of every organ, with the edges of the classes.

    Parameters
    ----------
    radii
        ``organ, above_mm, to_mm, tumors`` of `tumoratlas.release.counts.files.count_radii`; the
        last bin of an organ has no upper end.
    definitions
        As in `share_figure`.
    """
    row_height, gap = 46, 4
    closed = radii[radii["to_mm"].notna()]
    top_mm, step_mm = float(closed["to_mm"].max()), float(closed["to_mm"].min())
    groups = list(radii.groupby("organ", sort=False))
    bottom = _TOP + row_height * len(groups)
    x = Scale(0, top_mm + 3 * step_mm, _LEFT, WIDTH - _RIGHT)
    parts = [_vertical(x, value, bottom) for value in even_ticks(0, top_mm)]
    for edge in definitions["size_edges_mm"]:
        parts.append(line("edge", x(edge), _TOP, x(edge), bottom))
    width = x(step_mm) - x(0)
    for n, (organ, rows) in enumerate(groups):
        base = _TOP + (n + 1) * row_height
        peak, total = int(rows["tumors"].max()), int(rows["tumors"].sum())
        y = Scale(0, max(1, peak), base, base - row_height + 14)
        parts.append(text("organ", _LEFT - 8, base - 16, str(organ)))
        parts.append(text("end value", _LEFT - 8, base - 4, f"{total:,}"))
        words = f"highest {peak:,}" if peak else "none"
        parts.append(text("end value", WIDTH - _RIGHT, base - row_height + 12, words))
        parts.append(line("grid", _LEFT, base, WIDTH - _RIGHT, base))
        for row in rows.itertuples():
            # The open bin stands apart, right of the axis.
            left = x(row.above_mm) if row.to_mm == row.to_mm else x(top_mm + 2 * step_mm)
            if row.tumors:
                parts.append(rectangle("plain", left, y(row.tumors), width - 0.6, base))
    parts.append(text("caption", (_LEFT + WIDTH) / 2, bottom + 29, "radius of equal volume (mm)"))
    title = "b. Tumor radius by organ"
    subtitle = f"Tumors per {step_mm:g} mm; last bar: above {top_mm:g} mm"
    return _figure(title, subtitle, parts, bottom + 36 + gap, definitions)


def size_figure(sizes: pd.DataFrame, definitions: Mapping[str, Any]) -> str:
    """Return Figure 4c: the tumors of every organ and size class.

    Parameters
    ----------
    sizes
        ``organ, size_class, tumors`` of `tumoratlas.measure.counts.count_tumors`.
    definitions
        As in `share_figure`.
    """
    row_height = 50
    groups = list(sizes.groupby("organ", sort=False))
    bottom = _TOP + row_height * len(groups)
    classes = list(sizes["size_class"].unique())
    x = Scale(0, len(classes), _LEFT, WIDTH - _RIGHT)
    parts = []
    for n, (organ, rows) in enumerate(groups):
        base = _TOP + (n + 1) * row_height
        y = Scale(0, max(1, int(rows["tumors"].max())), base, base - row_height + 16)
        parts.append(text("organ", _LEFT - 8, base - 16, str(organ)))
        parts.append(text("end value", _LEFT - 8, base - 4, f"{int(rows['tumors'].sum()):,}"))
        parts.append(line("grid", _LEFT, base, WIDTH - _RIGHT, base))
        for place, row in enumerate(rows.itertuples()):
            left, width = x(place + 0.2), x(0.6) - x(0)
            parts.append(rectangle(row.size_class, left, y(row.tumors), width, base))
            middle = left + width / 2
            parts.append(text("value", middle, y(row.tumors) - 3, f"{row.tumors:,}"))
    for place, (name, span) in enumerate(zip(classes, size_ranges(definitions), strict=True)):
        parts.append(text("tick", x(place + 0.5), bottom + 14, name))
        parts.append(text("tick", x(place + 0.5), bottom + 26, span))
    parts.append(
        text("caption", (_LEFT + WIDTH) / 2, bottom + 41, "size class: radius of equal volume (mm)")
    )
    title = "c. Tumors by organ and size class"
    subtitle = "Number of tumors; own height per organ"
    return _figure(title, subtitle, parts, bottom + 48, definitions)


def _vertical(x: Scale, value: float, bottom: float) -> str:
    mark = text("tick", x(value), bottom + 14, tick(value))
    return line("grid", x(value), _TOP, x(value), bottom) + mark


def _figure(
    title: str, subtitle: str, parts: list[str], bottom: float, definitions: Mapping[str, Any]
) -> str:
    lines = textwrap.wrap(definition_line(definitions), _WRAP)
    notes = [text("small-print", 4, bottom + 12 * (n + 1), row) for n, row in enumerate(lines)]
    head = [
        f"<style>{_STYLE}</style>",
        text("title", 4, 16, title),
        text("start", 4, 32, subtitle),
    ]
    height = bottom + 12 * len(lines) + 8
    return svg("figure4", WIDTH, height, title, [*head, *parts, *notes])
