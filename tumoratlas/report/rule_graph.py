"""The rules of a run as a graph, each below what it reads: a small SVG, equal for equal input."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from html import escape
from typing import Any

from tumoratlas.release.counts.drawing import svg, text

_WIDTH = 1080
_NODE_W, _NODE_H = 142, 30
_GAP_X, _GAP_Y = 10, 26
_PAD = 4
_SWEEPS = 12
_LANE = 14  # width of an edge that passes a layer

Edge = tuple[str, str]


def rule_graph(rows: Sequence[Mapping[str, Any]], edges: Iterable[Edge]) -> str:
    """Return the graph of rules with a link to each rule's section.

    Parameters
    ----------
    rows
        ``rule, jobs, verdict`` of each rule, in the workflow's order.
    edges
        Pairs of rules of which the second reads what the first writes. Those that follow from
        others are not drawn.
    """
    names = [row["rule"] for row in rows]
    edges = _reduced(_without_cycles(names, edges))
    layers, lanes = _layers(names, edges)
    places = _places(_ordered(layers, lanes))
    parts = [_edge(path, places) for path in _paths(edges, lanes)]
    for row in rows:
        x, y = places[row["rule"]]
        left, top = x - _NODE_W / 2, y - _NODE_H / 2
        said = f"{row['jobs']} {'job' if row['jobs'] == 1 else 'jobs'}, {row['verdict_words']}"
        parts.append(
            f'<a href="#{escape(row["rule"])}"><g class="node {row["verdict"]}">'
            f"<title>{escape(row['rule'])}: {escape(said)}</title>"
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{_NODE_W}" height="{_NODE_H}" rx="4"/>'
            f"{text('name', x, y + 0.5, row['rule'])}{text('said', x, y + 11.5, said)}</g></a>"
        )
    height = max(y for _, y in places.values()) + _NODE_H / 2 + _PAD
    return svg("rules", _WIDTH, height, "Rules of the run", parts)


def _without_cycles(names: Sequence[str], edges: Iterable[Edge]) -> set[Edge]:
    """Leave out edges that close a circle: shards of a rule may read each other's whole."""
    place = {name: n for n, name in enumerate(names)}
    kept = {edge for edge in edges if edge[0] in place and edge[1] in place}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for before, after in kept:
        graph[after].add(before)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return {(a, b) for a, b in kept if place[a] < place[b]}
    return kept


def _reduced(edges: set[Edge]) -> set[Edge]:
    """Return the edges without those that a longer way says, too."""
    after: dict[str, set[str]] = defaultdict(set)
    for one, other in edges:
        after[one].add(other)
    reach: dict[str, set[str]] = {}

    def below(name: str) -> set[str]:
        if name not in reach:
            reach[name] = after[name].union(*(below(n) for n in sorted(after[name])))
        return reach[name]

    return {
        (one, other)
        for one, other in edges
        if not any(other in below(middle) for middle in after[one] - {other})
    }


def _layers(
    names: Sequence[str], edges: set[Edge]
) -> tuple[list[list[str]], dict[Edge, list[str]]]:
    """Return the rules by their depth, with a lane in each layer that an edge passes."""
    before: dict[str, set[str]] = {name: set() for name in names}
    for one, other in edges:
        before[other].add(one)
    depth: dict[str, int] = {}
    for name in TopologicalSorter(before).static_order():
        depth[name] = 1 + max((depth[other] for other in before[name]), default=-1)
    layers: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in names:
        layers[depth[name]].append(name)
    lanes = {}
    for one, other in sorted(edges):
        lanes[one, other] = [f"{one}>{other}>{n}" for n in range(depth[one] + 1, depth[other])]
        for n, lane in enumerate(lanes[one, other], depth[one] + 1):
            layers[n].append(lane)
    return layers, lanes


def _paths(edges: set[Edge], lanes: Mapping[Edge, list[str]]) -> list[list[str]]:
    return [[one, *lanes[one, other], other] for one, other in sorted(edges)]


def _ordered(layers: list[list[str]], lanes: Mapping[Edge, list[str]]) -> "_Ordered":
    """Order each layer by the mean place of the neighbours, up and down a few times."""
    near: dict[str, dict[int, list[str]]] = defaultdict(lambda: {-1: [], 1: []})
    for path in _paths(set(lanes), lanes):
        for one, other in zip(path, path[1:], strict=False):
            near[one][1].append(other)
            near[other][-1].append(one)
    for sweep in range(_SWEEPS):
        side, rows = (-1, layers) if sweep % 2 == 0 else (1, layers[::-1])
        for before, layer in zip(rows, rows[1:], strict=False):
            _sort(layer, before, {name: near[name][side] for name in layer})
    return _Ordered(layers, near)


def _sort(layer: list[str], before: list[str], near: Mapping[str, list[str]]) -> None:
    """Order a layer by the mean place of its neighbours in the one before."""
    place = {name: (n + 0.5) / len(before) for n, name in enumerate(before)}
    own = {name: (n + 0.5) / len(layer) for n, name in enumerate(layer)}

    def middle(name: str) -> float:
        found = [place[other] for other in near[name] if other in place]
        return sum(found) / len(found) if found else own[name]

    layer.sort(key=middle)


class _Ordered:
    """Layers in order, and the neighbours of each place above (-1) and below (1)."""

    def __init__(self, layers: list[list[str]], near: Mapping[str, dict[int, list[str]]]) -> None:
        self.layers, self.near = layers, near


def _places(ordered: _Ordered) -> dict[str, tuple[float, float]]:
    """Return the middle of each rule and lane; each is drawn to its neighbours, none overlaps."""
    x: dict[str, float] = {}
    for layer in ordered.layers:
        _spread(layer, x, {name: _WIDTH * (n + 0.5) / len(layer) for n, name in enumerate(layer)})
    for sweep in range(_SWEEPS):
        for layer in ordered.layers if sweep % 2 == 0 else ordered.layers[::-1]:
            wanted = {}
            for name in layer:
                near = [x[n] for side in (-1, 1) for n in ordered.near[name][side]]
                wanted[name] = sum(near) / len(near) if near else x[name]
            _spread(layer, x, wanted)
    step = _NODE_H + _GAP_Y
    return {
        name: (x[name], _PAD + _NODE_H / 2 + step * depth)
        for depth, layer in enumerate(ordered.layers)
        for name in layer
    }


def _spread(layer: list[str], x: dict[str, float], wanted: Mapping[str, float]) -> None:
    """Put a layer as near to the wanted places as widths and page allow, in its order."""
    widths = [_LANE if ">" in name else _NODE_W + _GAP_X for name in layer]
    total = sum(widths)
    shrink = min(1.0, (_WIDTH - 2 * _PAD) / total)
    widths = [width * shrink for width in widths]
    # Pushed from the left and from the right alike: the mean of both drifts to neither side.
    from_left, end = [], float(_PAD)
    for name, width in zip(layer, widths, strict=True):
        from_left.append(max(end, wanted[name] - width / 2))
        end = from_left[-1] + width
    from_left = _within(from_left, widths)
    from_right, start = [], float(_WIDTH - _PAD)
    for name, width in zip(layer[::-1], widths[::-1], strict=True):
        from_right.append(min(start, wanted[name] + width / 2))
        start = from_right[-1] - width
    mirrored = _within([_WIDTH - place for place in from_right], widths[::-1])[::-1]
    for name, one, other, width in zip(layer, from_left, mirrored, widths, strict=True):
        x[name] = (one + width / 2 + _WIDTH - other - width / 2) / 2


def _within(places: list[float], widths: Sequence[float]) -> list[float]:
    """Move what sticks out of the page's end back, and what it then meets."""
    right = float(_WIDTH - _PAD)
    kept = []
    for place, width in zip(places[::-1], list(widths)[::-1], strict=True):
        kept.append(min(place, right - width))
        right = kept[-1]
    return kept[::-1]


def _edge(path: Sequence[str], places: Mapping[str, tuple[float, float]]) -> str:
    x, y = places[path[0]]
    parts = [f"M{x:.1f} {y + _NODE_H / 2:.1f}"]
    y += _NODE_H / 2
    for name in path[1:]:
        to_x, middle = places[name]
        to_y = middle - _NODE_H / 2
        bend = (y + to_y) / 2
        parts.append(f"C{x:.1f} {bend:.1f} {to_x:.1f} {bend:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
        if name != path[-1]:
            y = middle + _NODE_H / 2
            parts.append(f"L{x:.1f} {y:.1f}")
    return f'<path class="edge" d="{"".join(parts)}"/>'
