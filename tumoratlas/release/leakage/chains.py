"""Chains of links between scans: shared voxels, equal content, one patient."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tumoratlas.ingest.sources import INTERNAL

Rows = Sequence[Mapping[str, Any]]

IMAGE_RELATIONS = ("same", "crop", "resample", "overlap")
# A comparison that failed: it may be any of these.
UNCONFIRMED = "unconfirmed"
COPY, PATIENT = "copy", "same patient"
# A chain is as long as the sum of its steps; of two chains the shorter one is told. A step
# through something shared has two halves. A group of copies says least, so it comes last.
_STEPS = {"same": 10, "crop": 11, "resample": 12, "overlap": 13, UNCONFIRMED: 14}
_HALVES = {"content": 6, "patient": 10, "copies": 500}
_RELATION_OF = {"content": "same", "patient": PATIENT, "copies": COPY}
_SHOWN_STEPS = 12
_WORDS = {
    "same": "=",
    "resample": "resampled",
    "overlap": "overlaps",
    UNCONFIRMED: "may be a copy of",
    COPY: "copy of",
    PATIENT: "same patient as",
}


@dataclass(frozen=True)
class Link:
    """A way to another node: a scan, or something that scans share.

    Attributes
    ----------
    outer
        The scan that holds the other one, of a ``crop``.
    """

    other: str
    cost: int
    relation: str
    outer: str | None = None
    evidence: str = ""

    @property
    def is_image(self) -> bool:
        """Whether the link says that voxels are shared."""
        return self.relation != PATIENT


@dataclass(frozen=True)
class Reached:
    """The last step of a shortest chain: its length, the node before and the link from there."""

    cost: int
    before: str
    link: Link | None


class Network:
    """Scans and what links them; something shared is a node of its own, with a space in it.

    Parameters
    ----------
    scans
        ``scan_id, patient_key, links, licence, voxel_sha256, duplicate_group`` of every scan.
    relations
        ``scan_a, scan_b, relation, outer, evidence`` of compared pairs.
    """

    def __init__(self, scans: Rows, relations: Rows) -> None:
        self.scans = {scan["scan_id"]: scan for scan in scans}
        self.links: dict[str, list[Link]] = {scan_id: [] for scan_id in self.scans}
        for row in relations:
            relation = row["relation"]
            if relation != "none":
                facts = (_STEPS[relation], relation, row["outer"], row["evidence"])
                self._join(row["scan_a"], row["scan_b"], *facts)
        for scan_id, scan in self.scans.items():
            content, group = scan["voxel_sha256"], scan["duplicate_group"]
            self._share(scan_id, "content", content, f"equal voxels {content[:16]}")
            if group:
                self._share(scan_id, "copies", group, f"both in the group of copies {group}")
            # The names that a hospital gives its patients stay in it.
            is_internal = scan["licence"] == INTERNAL
            patient = "one patient" if is_internal else f"the patient {scan['patient_key']}"
            self._share(scan_id, "patient", scan["patient_key"], f"both of {patient}")
            for link in scan["links"]:
                self._share(scan_id, "patient", f"by {link}", "both of one patient or study")

    def _share(self, scan_id: str, kind: str, value: str, evidence: str) -> None:
        name, relation = f"{kind} {value}", _RELATION_OF[kind]
        self._join(scan_id, name, _HALVES[kind], relation, None, evidence)

    def _join(
        self, one: str, other: str, cost: int, relation: str, outer: str | None, evidence: str
    ) -> None:
        for start, end in ((one, other), (other, one)):
            link = Link(end, cost, relation, outer, evidence)
            self.links.setdefault(start, []).append(link)

    def chains(self, starts: Iterable[str]) -> Iterator[tuple[str, Reached]]:
        """Give every node that a chain leads to from any of these scans, nearest first.

        Equally short chains are told apart by name: the order of rows is of no consequence.
        """
        found: set[str] = set()
        queue: list[tuple[int, str, str, str, str, Link | None]]
        queue = [(0, start, "", "", "", None) for start in sorted(starts)]
        while queue:
            cost, node, before, _, _, link = heapq.heappop(queue)
            if node in found:
                continue
            found.add(node)
            yield node, Reached(cost, before, link)
            for way in self.links[node]:
                if way.other not in found:
                    order = (cost + way.cost, way.other, node, way.evidence, way.outer or "")
                    heapq.heappush(queue, (*order, way))

    def tell(self, found: Mapping[str, Reached], scan_id: str) -> dict[str, str]:
        """Return the chain from a scan to its start as texts.

        Parameters
        ----------
        found
            What `chains` gave, as a mapping, as far as ``scan_id``.
        scan_id
            A scan in it.

        Returns
        -------
        ``start``, ``relation`` (of a single step, else ``chain`` or ``itself``), ``path`` and
        ``evidence``. The middle of a very long chain is left out.
        """
        steps: list[tuple[str, str, str]] = []
        relations = []
        node = scan_id
        while (link := found[node].link) is not None:
            before = found[node].before
            if before not in self.scans and " " in before:
                before = found[before].before  # the scan behind what is shared
            relations.append(link.relation)
            evidence = f"{node}, {before}: {link.evidence or link.relation}"
            steps.append((_word(link, node, before), before, evidence))
            node = before
        if len(steps) > _SHOWN_STEPS:
            left_out = len(steps) - _SHOWN_STEPS
            half = _SHOWN_STEPS // 2
            gap = ("...", f"({left_out} more) ...", f"{left_out} more steps")
            steps[half:-half] = [gap]
        relation = relations[0] if len(relations) == 1 else "chain" if relations else "itself"
        path = [scan_id, *(f"{word} {name}" for word, name, _ in steps)]
        return {
            "start": node,
            "relation": relation,
            "path": " ".join(path),
            "evidence": "; ".join(evidence for _, _, evidence in steps),
        }

    def components(self, is_used: Callable[[Link], bool]) -> Iterator[list[str]]:
        """Give the scans of every set that chains of such links hold together, sorted."""
        seen: set[str] = set()
        for start in sorted(self.scans):
            if start in seen:
                continue
            seen.add(start)
            stack, found = [start], []
            while stack:
                node = stack.pop()
                if node in self.scans:
                    found.append(node)
                for link in self.links[node]:
                    if link.other not in seen and is_used(link):
                        seen.add(link.other)
                        stack.append(link.other)
            yield sorted(found)

    def direct(self, scan_id: str) -> dict[str, str]:
        """Return the closest image relation of a scan to every source it is directly linked to."""
        found: dict[str, list[str]] = defaultdict(list)
        for link in self.links[scan_id]:
            if link.relation not in IMAGE_RELATIONS:
                continue
            others = [link.other]
            if link.other not in self.scans:
                others = [way.other for way in self.links[link.other]]
            for other in others:
                if other != scan_id and other in self.scans:
                    found[self.scans[other]["source"]].append(link.relation)
        return {source: min(kinds, key=_STEPS.__getitem__) for source, kinds in found.items()}


def _word(link: Link, node: str, before: str) -> str:
    if link.relation != "crop":
        return _WORDS[link.relation]
    return {node: "holds", before: "inside"}.get(link.outer or "", "crop of")
