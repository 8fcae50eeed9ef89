"""Figures of the reports as small SVG texts: equal numbers give equal bytes.

They carry no style of their own but classes, so that the page's style sheet sets their colors.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

WIDTH, HEIGHT = 320, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 12, 22, 34
_TICKS, _BINS = 4, 40
# At most so many steps between the ticks of a plane, give or take one.
_STEPS = 5
# More points of a curve than this cannot be told apart.
_POINTS = 250


def size_figure(counts: pd.DataFrame, organ: str) -> str:
    """Return an organ's tumors by size class as bars (Figure 4c of the paper).

    Parameters
    ----------
    counts
        Result of `tumoratlas.measure.counts.count_tumors`.
    organ
        The organ.
    """
    rows = counts[counts["organ"] == organ]
    bars = {f"{row.size_class}": int(row.tumors) for row in rows.itertuples()}
    total = sum(bars.values())
    title = f"{organ}: {total:,} tumor{'' if total == 1 else 's'}"
    high = _round_up(max(bars.values(), default=0))
    x, y = _scale(0, len(bars), _LEFT, WIDTH - _RIGHT), _scale(0, high, HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(x, y, None, high, "")]
    for n, (name, count) in enumerate(bars.items()):
        left, width = x(n + 0.15), x(0.7) - x(0)
        parts.append(_rectangle(name, left, y(count), width, y(0)))
        parts.append(_text("value", left + width / 2, y(count) - 4, f"{count:,}"))
        parts.append(_text("name", left + width / 2, y(0) + 14, name))
    return _figure(title, parts)


def organ_figure(counts: pd.DataFrame) -> str:
    """Return the tumors of every organ as bars (Figure 4a of the paper); see `size_figure`."""
    sums = counts.groupby("organ", sort=False)["tumors"].sum()
    left, room = 72, 48  # of the names and of the numbers
    x = _scale(0, max(1, sums.max()), left, WIDTH - room)
    height = (HEIGHT - _TOP) / len(sums)
    parts = []
    for n, (organ, count) in enumerate(sums.items()):
        top, bottom = _TOP + (n + 0.2) * height, _TOP + (n + 0.8) * height
        middle = (top + bottom) / 2 + 4
        parts.append(_text("name end", left - 6, middle, str(organ)))
        parts.append(_rectangle("plain", left, top, x(count) - left, bottom))
        parts.append(_text("value start", x(count) + 5, middle, f"{count:,}"))
    return _figure("tumors by organ", parts)


def radius_figure(radius_mm: Sequence[float], size_edges_mm: Sequence[float]) -> str:
    """Return the distribution of radii, with the edges of the classes (Figure 4b).

    Parameters
    ----------
    radius_mm
        Radii of the headline tumors.
    size_edges_mm
        Upper edges of the tiny, small and medium classes.
    """
    top_mm = _round_up(max([*radius_mm, size_edges_mm[-1] * 1.25]))
    edges = np.linspace(0, top_mm, _BINS + 1)
    counts, _ = np.histogram(np.asarray(radius_mm, float), edges)
    high = _round_up(counts.max(initial=0))
    x, y = _scale(0, edges[-1], _LEFT, WIDTH - _RIGHT), _scale(0, high, HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(x, y, edges[-1], high, "radius (mm)")]
    for low, upper, count in zip(edges, edges[1:], counts, strict=False):
        parts.append(_rectangle("plain", x(low) + 0.5, y(count), x(upper) - x(low) - 1, y(0)))
    for edge in size_edges_mm:
        parts.append(_line("mark", x(edge), y(0), x(edge), _TOP))
    return _figure(f"{len(radius_mm):,} radii, bins of {top_mm / _BINS:g} mm", parts)


def froc_figure(
    organ: str,
    curve: pd.DataFrame,
    choice: Mapping[str, object],
    paper_fp_per_scan: float | None,
) -> str:
    """Return an organ's FROC curve with its interval, its chosen point and the paper's rate.

    Parameters
    ----------
    organ
        The organ.
    curve
        Rows of one hit rule of `tumoratlas.candidates.froc.froc_curve`.
    choice
        The chosen threshold (`ThresholdChoice` as a mapping).
    paper_fp_per_scan
        The paper's false positives per scan, or None where it gives none.
    """
    points = curve.sort_values("threshold", ascending=False)
    chosen_fp = float(choice["fp_per_scan"])
    high = _round_up(max(points["fp_per_scan"].max(), chosen_fp, paper_fp_per_scan or 0, 1))
    x, y = _scale(0, high, _LEFT, WIDTH - _RIGHT), _scale(0, 1, HEIGHT - _BOTTOM, _TOP)
    fp, low, upper, middle = (
        points[name].to_numpy(float)
        for name in ("fp_per_scan", "sensitivity_low", "sensitivity_high", "sensitivity")
    )
    known = np.isfinite(low) & np.isfinite(upper)
    band = [*zip(fp[known], upper[known], strict=True)]
    band += reversed([*zip(fp[known], low[known], strict=True)])
    target = float(choice["target"])
    parts = [
        _axes(x, y, high, 1, "false positives per scan"),
        f'<polygon class="band" points="{_points(band, x, y)}"/>',
        _line("target", x(0), y(target), x(high), y(target)),
        f'<polyline class="curve" points="{_points(zip(fp, middle, strict=True), x, y)}"/>',
        _circle(x(chosen_fp), y(float(choice["sensitivity"]))),
    ]
    if paper_fp_per_scan is not None:
        parts.append(_line("mark", x(paper_fp_per_scan), y(0), x(paper_fp_per_scan), _TOP))
    return _figure(f"{organ}: sensitivity", parts)


def loss_figure(organ: str, history: pd.DataFrame) -> str:
    """Return the loss curves of an organ's folds: two lines each, training and validation.

    Parameters
    ----------
    organ
        The organ.
    history
        Its rows of `tumoratlas.train.trainer.loss_table`, at least one.
    """
    losses = history[["train_loss", "val_loss"]]
    epochs = _even_ticks(0, max(_TICKS, int(history["epoch"].max()) + 1))
    x, y, axes = _plane(epochs, _even_ticks(losses.min(axis=None), losses.max(axis=None)), "epoch")
    parts = [axes]
    # Validation last, so that it lies on top.
    for kind, name in (("train", "train_loss"), ("validation", "val_loss")):
        for fold, rows in history.sort_values("epoch").groupby("fold"):
            points = zip(rows["epoch"] + 1, rows[name], strict=True)
            parts.append(_polyline(kind, f"fold {fold}, {kind}", _thinned([*points]), x, y))
    return _figure(f"{organ}: loss", parts)


def yield_figure(curve: pd.DataFrame, best: pd.DataFrame) -> str:
    """Return the tumors found against the time of review, with random and best order.

    Parameters
    ----------
    curve
        `tumoratlas.review.plan.yields.YieldCurve.curve` of the order that was followed.
    best
        That of the best order of the same work.
    """
    minutes, tumors = (float(curve[name].iloc[-1]) for name in ("minutes", "tumors"))
    x, y, axes = _plane(
        _even_ticks(0, minutes), _even_ticks(0, max(_TICKS, tumors)), "minutes of review"
    )
    # Random orders find tumors evenly on average.
    parts = [axes, _line("target", x(0), y(0), x(minutes), y(tumors))]
    for kind, table in (("best", best), ("curve", curve)):
        points = [(0.0, 0.0), *zip(table["minutes"], table["tumors"], strict=True)]
        parts.append(_polyline(kind, kind, _thinned(points), x, y))
    return _figure("tumors found", parts)


class _scale:  # noqa: N801 - used as a function
    """A linear map from numbers to places on the page."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._start = low, start
        self._factor = (end - start) / (high - low)

    def __call__(self, value: float) -> float:
        return self._start + (float(value) - self._low) * self._factor


def _axes(x: _scale, y: _scale, x_high: float | None, y_high: float, caption: str) -> str:
    parts = []
    for n in range(_TICKS + 1):
        value = y_high * n / _TICKS
        parts.append(_line("grid", _LEFT, y(value), WIDTH - _RIGHT, y(value)))
        parts.append(_text("tick end", _LEFT - 5, y(value) + 4, _tick(value)))
        if x_high is not None:
            along = x_high * n / _TICKS
            parts.append(_text("tick", x(along), y(0) + 14, _tick(along)))
    parts.append(_text("caption", (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 5, caption))
    return "".join(parts)


def _plane(
    x_ticks: Sequence[float], y_ticks: Sequence[float], caption: str
) -> tuple[_scale, _scale, str]:
    """Return the scales from the first tick to the last of each axis, and the axes."""
    x = _scale(x_ticks[0], x_ticks[-1], _LEFT, WIDTH - _RIGHT)
    y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    bottom = y(y_ticks[0])
    parts = [_text("caption", (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 5, caption)]
    for value in y_ticks:
        parts.append(_line("grid", _LEFT, y(value), WIDTH - _RIGHT, y(value)))
        parts.append(_text("tick end", _LEFT - 5, y(value) + 4, _tick(value)))
    parts += [_text("tick", x(value), bottom + 14, _tick(value)) for value in x_ticks]
    return x, y, "".join(parts)


def _even_ticks(low: float, high: float) -> list[float]:
    """Return round numbers at equal steps, from at most ``low`` to at least ``high``."""
    raw = max(float(high) - float(low), 1e-6) / _STEPS
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * n for n in range(first, max(last, first + 1) + 1)]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most `_POINTS` of the points, the first and the last among them."""
    count = min(len(points), _POINTS)
    return [points[n] for n in np.linspace(0, len(points) - 1, count).round().astype(int)]


def _polyline(
    kind: str, title: str, points: Sequence[tuple[float, float]], x: _scale, y: _scale
) -> str:
    line = _points(points, x, y)
    return f'<polyline class="{kind}" points="{line}"><title>{title}</title></polyline>'


def _figure(title: str, parts: Sequence[str]) -> str:
    head = f'<svg class="figure" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
    return head + _text("title", _LEFT, 12, title) + "".join(parts) + "</svg>"


def _rectangle(kind: str, left: float, top: float, width: float, bottom: float) -> str:
    return (
        f'<rect class="bar {kind}" x="{left:.1f}" y="{top:.1f}" '
        f'width="{width:.1f}" height="{bottom - top:.1f}"/>'
    )


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" {ends}/>'


def _circle(x: float, y: float) -> str:
    return f'<circle class="chosen" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{text}</text>' if text else ""


def _points(values: object, x: _scale, y: _scale) -> str:
    return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in values)


def _round_up(value: float) -> float:
    """Return the next 1, 2, 4 or 8 times a power of ten: the axis ends at whole ticks."""
    if value <= _TICKS:
        return _TICKS
    power = 10 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 4, 8, 10) if m * power >= value)


def _tick(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
