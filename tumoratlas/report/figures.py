"""Figures of the reports as small SVG texts: equal numbers give equal bytes.

They carry no style of their own but classes, so that the page's style sheet sets their colors.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tumoratlas.release.counts.drawing import Scale, even_ticks, line, point_list, svg, text, tick

WIDTH, HEIGHT = 320, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 12, 22, 34
_TICKS = 4
# More points of a curve than this cannot be told apart.
_POINTS = 250


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
    x, y = Scale(0, high, _LEFT, WIDTH - _RIGHT), Scale(0, 1, HEIGHT - _BOTTOM, _TOP)
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
        f'<polygon class="band" points="{point_list(band, x, y)}"/>',
        line("target", x(0), y(target), x(high), y(target)),
        f'<polyline class="curve" points="{point_list(zip(fp, middle, strict=True), x, y)}"/>',
        _circle(x(chosen_fp), y(float(choice["sensitivity"]))),
    ]
    if paper_fp_per_scan is not None:
        parts.append(line("mark", x(paper_fp_per_scan), y(0), x(paper_fp_per_scan), _TOP))
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
    epochs = even_ticks(0, max(_TICKS, int(history["epoch"].max()) + 1))
    x, y, axes = _plane(epochs, even_ticks(losses.min(axis=None), losses.max(axis=None)), "epoch")
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
        even_ticks(0, minutes), even_ticks(0, max(_TICKS, tumors)), "minutes of review"
    )
    # Random orders find tumors evenly on average.
    parts = [axes, line("target", x(0), y(0), x(minutes), y(tumors))]
    for kind, table in (("best", best), ("curve", curve)):
        points = [(0.0, 0.0), *zip(table["minutes"], table["tumors"], strict=True)]
        parts.append(_polyline(kind, kind, _thinned(points), x, y))
    return _figure("tumors found", parts)


def _axes(x: Scale, y: Scale, x_high: float | None, y_high: float, caption: str) -> str:
    parts = []
    for n in range(_TICKS + 1):
        value = y_high * n / _TICKS
        parts.append(line("grid", _LEFT, y(value), WIDTH - _RIGHT, y(value)))
        parts.append(text("tick end", _LEFT - 5, y(value) + 4, tick(value)))
        if x_high is not None:
            along = x_high * n / _TICKS
            parts.append(text("tick", x(along), y(0) + 14, tick(along)))
    parts.append(text("caption", (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 5, caption))
    return "".join(parts)


def _plane(
    x_ticks: Sequence[float], y_ticks: Sequence[float], caption: str
) -> tuple[Scale, Scale, str]:
    """Return the scales from the first tick to the last of each axis, and the axes."""
    x = Scale(x_ticks[0], x_ticks[-1], _LEFT, WIDTH - _RIGHT)
    y = Scale(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    bottom = y(y_ticks[0])
    parts = [text("caption", (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 5, caption)]
    for value in y_ticks:
        parts.append(line("grid", _LEFT, y(value), WIDTH - _RIGHT, y(value)))
        parts.append(text("tick end", _LEFT - 5, y(value) + 4, tick(value)))
    parts += [text("tick", x(value), bottom + 14, tick(value)) for value in x_ticks]
    return x, y, "".join(parts)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most `_POINTS` of the points, the first and the last among them."""
    count = min(len(points), _POINTS)
    return [points[n] for n in np.linspace(0, len(points) - 1, count).round().astype(int)]


def _polyline(
    kind: str, title: str, points: Sequence[tuple[float, float]], x: Scale, y: Scale
) -> str:
    places = point_list(points, x, y)
    return f'<polyline class="{kind}" points="{places}"><title>{title}</title></polyline>'


def _circle(x: float, y: float) -> str:
    return f'<circle class="chosen" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def _round_up(value: float) -> float:
    """Return the next 1, 2, 4 or 8 times a power of ten: the axis ends at whole ticks."""
    if value <= _TICKS:
        return _TICKS
    power = 10 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 4, 8, 10) if m * power >= value)


def _figure(title: str, parts: Sequence[str]) -> str:
    return svg("figure", WIDTH, HEIGHT, title, [text("title", _LEFT, 12, title), *parts])
