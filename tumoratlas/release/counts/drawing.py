"""Parts of SVG figures: scales, axes, bars, lines and texts, as texts with fixed digits."""

import math
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape


class Scale:
    """A linear map from numbers to places on the page."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._start = low, start
        self._factor = (end - start) / (high - low)

    def __call__(self, value: float) -> float:
        """Return the place of a number."""
        return self._start + (float(value) - self._low) * self._factor


def rectangle(kind: str, left: float, top: float, width: float, bottom: float) -> str:
    """Return a bar of class ``kind`` from ``top`` down to ``bottom``."""
    return (
        f'<rect class="bar {kind}" x="{left:.1f}" y="{top:.1f}" '
        f'width="{width:.1f}" height="{bottom - top:.1f}"/>'
    )


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a straight line of class ``kind``."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(kind: str, x: float, y: float, words: str) -> str:
    """Return a text of class ``kind``, escaped; nothing for no words."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>' if words else ""


def point_list(values: Iterable[tuple[float, float]], x: Scale, y: Scale) -> str:
    """Return the attribute ``points`` of a polygon or polyline."""
    return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in values)


def even_ticks(low: float, high: float, *, steps: int = 5) -> list[float]:
    """Return round numbers at equal steps, from at most ``low`` to at least ``high``.

    Parameters
    ----------
    low, high
        Range of the numbers.
    steps
        At most so many steps between the ticks, give or take one.
    """
    raw = max(float(high) - float(low), 1e-6) / steps
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * n for n in range(first, max(last, first + 1) + 1)]


def tick(value: float) -> str:
    """Return the text of a tick; thousands as ``k``."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def svg(kind: str, width: int, height: float, title: str, parts: Sequence[str]) -> str:
    """Return a figure of class ``kind`` that a page can hold or a file can be."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{kind}" '
        f'viewBox="0 0 {width} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
