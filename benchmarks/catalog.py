"""A made-up catalog of scans: sources, copies, patients, tumors, candidates and decisions.

It has the proportions of the paper (Table 6: 13 public sources with the parent release, and a
private one) at any size, and no voxels. It knows its own counts, which the tables of the
pipeline must find again.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

PAPER_SCANS = 10_135
PAPER_TUMORS = 15_130
PAPER_CANDIDATES = 60_000
PARENT = "abdomenatlas11"
PRIVATE = "private"
TEST_SET = "ircadb"
# Scans of Table 6, in the order of `ingest.precedence`; of a scan and its copy, which lies in a
# later source, the first is kept.
POOL = {
    PRIVATE: 233, "msd_ct": 945, "lits": 130, "kits23": 489, "chaos": 20, "btcv": 47,
    "pancreas_ct": 42, "word": 120, "amos22": 200, "rsna_atd23": 4711, "ct_org": 140,
    "abdomenct1k": 1000, "flare23": 4100,
}  # fmt: skip
_PARENT_SCANS = 9901
_TEST_SCANS = 20
# Share of a source that may be copies of earlier ones.
_COPIED = {"ct_org": 0.93, "abdomenct1k": 0.9, "flare23": 0.5}
# Scans of one patient.
_PER_PATIENT = {"rsna_atd23": 1.5}
ANNOTATED = {"lits": ["liver"], "kits23": ["kidney"], "msd_ct": ["liver", "pancreas", "colon"],
             PRIVATE: ["esophagus", "uterus"]}  # fmt: skip
ORGANS = ("liver", "pancreas", "kidney", "colon", "esophagus", "uterus")
_TUMOR_SHARES = (0.4, 0.15, 0.3, 0.07, 0.04, 0.04)
_EDGES_MM = {5.0: "tiny", 10.0: "small", 20.0: "medium", math.inf: "large"}


@dataclass(frozen=True)
class Scan:
    """A scan of a source.

    Attributes
    ----------
    source, case, patient
        Its source, and its names there.
    content
        Hash of its voxels; an equal copy has the same.
    copy_of, relation
        Scan id of the one it is a copy of, and how (``same`` or ``crop``), or empty.
    is_readable
        An unreadable one is excluded when it is fingerprinted.
    """

    source: str
    case: str
    patient: str
    content: str
    copy_of: str = ""
    relation: str = ""
    is_readable: bool = True

    @property
    def scan_id(self) -> str:
        """Its id in the pipeline."""
        return f"{self.source}_{self.case}"


@dataclass(frozen=True)
class Finding:
    """What is known of the tumors of one organ of a case.

    Attributes
    ----------
    organ
        The organ.
    state
        present, confirmed_empty or unknown.
    source
        Source whose labels it is, or empty.
    radii_mm
        Radius of each tumor.
    candidates
        How many were proposed; each tumor without a source was one of them.
    """

    organ: str
    state: str
    source: str
    radii_mm: list[float]
    candidates: int


@dataclass
class Catalog:
    """All scans, and what review found in the kept ones.

    Attributes
    ----------
    scans
        Every scan by id, by source in order of precedence, the parent release and test set last.
    kept
        Ids of the scans that become cases, in this order.
    tumors, candidates
        How many there are in all.
    """

    seed: int
    scans: dict[str, Scan] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    tumors: int = 0
    candidates: int = 0

    def findings(self) -> Iterator[tuple[str, list[Finding]]]:
        """Yield what is found in each kept scan: `tumors` and `candidates` in all."""
        chance = random.Random(f"{self.seed} findings")
        ill = sorted(chance.sample(range(len(self.kept)), math.ceil(0.45 * len(self.kept))))
        homes = Counter(
            (chance.choice(ill), chance.choices(ORGANS, _TUMOR_SHARES)[0])
            for _ in range(self.tumors)
        )
        spread = self.candidates - self.tumors
        extra = Counter(chance.randrange(len(self.kept) * len(ORGANS)) for _ in range(spread))
        for number, scan_id in enumerate(self.kept):
            source = self.scans[scan_id].source
            annotated = ANNOTATED.get(source, [])
            if source == "msd_ct":  # a task each
                annotated = [annotated[number % len(annotated)]]
            found = []
            for place, organ in enumerate(ORGANS):
                tumors = homes[number, organ]
                radii = [round(chance.lognormvariate(2.0, 0.6), 3) for _ in range(tumors)]
                proposed = tumors + extra[number * len(ORGANS) + place]
                unknown = not tumors and organ not in annotated and chance.random() < 0.2
                state = "unknown" if unknown else "present" if tumors else "confirmed_empty"
                label = source if organ in annotated else ""
                found.append(Finding(organ, state, label, radii, proposed))
            yield scan_id, found

    def truth(self) -> dict[str, Any]:
        """Return the counts that the tables must show."""
        truth: dict[str, Any] = {
            "scans": sum(scan.is_readable for scan in self.scans.values()),
            "cases": len(self.kept),
            "unreadable": sum(not scan.is_readable for scan in self.scans.values()),
            "test_scans": sum(scan.source == TEST_SET for scan in self.scans.values()),
        }
        copies = Counter(s.relation for s in self.scans.values() if s.source != TEST_SET)
        truth |= {"equal_copies": copies["same"], "cropped_copies": copies["crop"]}
        sizes: Counter[tuple[str, str]] = Counter()
        states: Counter[tuple[str, str]] = Counter()
        candidates = events = 0
        for _, found in self.findings():
            for one in found:
                sizes.update((one.organ, size_class(radius)) for radius in one.radii_mm)
                states[one.organ, one.state] += 1
                candidates += one.candidates
                events += one.candidates + bool(one.source)
        return truth | {
            "tumors": dict(sizes), "states": dict(states), "candidates": candidates,
            "events": events,
        }  # fmt: skip


def size_class(radius_mm: float) -> str:
    """Return the paper's size class of a radius, closed above."""
    return next(name for edge, name in _EDGES_MM.items() if radius_mm <= edge)


def fake_sha256(*parts: object) -> str:
    """Return 64 hexadecimal digits made of some names."""
    return sha256(" ".join(map(str, parts)).encode()).hexdigest()


def make_catalog(cases: int, seed: int) -> Catalog:
    """Make a catalog of which ``cases`` scans are kept; everything else is in proportion."""
    share = cases / PAPER_SCANS
    catalog = Catalog(
        seed, tumors=round(PAPER_TUMORS * share), candidates=round(PAPER_CANDIDATES * share)
    )
    chance = random.Random(f"{seed} scans")
    sizes = {source: max(1, round(count * share)) for source, count in POOL.items()}
    copies = _copies(sizes, sum(sizes.values()) - cases)
    for source, count in sizes.items():
        for number in range(count):
            copied = number >= count - copies.get(source, 0)
            earlier = chance.choice(catalog.kept) if copied else ""
            scan = _scan(catalog, source, number, earlier, "same" if number % 2 else "crop")
            catalog.scans[scan.scan_id] = scan
            if not earlier:
                catalog.kept.append(scan.scan_id)
    for number in range(max(1, cases // 400)):
        scan = Scan("flare23", f"bad{number:05d}", f"flare23/bad{number}", "", is_readable=False)
        catalog.scans[scan.scan_id] = scan
    public = [name for name in catalog.kept if catalog.scans[name].source != PRIVATE]
    parents = min(len(public), round(_PARENT_SCANS * share))
    for number, name in enumerate(sorted(chance.sample(public, parents))):
        scan = _scan(catalog, PARENT, number, name, "crop")
        catalog.scans[scan.scan_id] = scan
    for number in range(max(1, round(_TEST_SCANS * share))):
        name = public[chance.randrange(len(public))] if number % 5 else ""
        scan = _scan(catalog, TEST_SET, number, name, "same")
        catalog.scans[scan.scan_id] = scan
    return catalog


def _copies(sizes: dict[str, int], wanted: int) -> dict[str, int]:
    """Return how many scans of each source are copies, ``wanted`` in all."""
    copies = {}
    for source, most in _COPIED.items():
        copies[source] = min(wanted, int(most * sizes[source]))
        wanted -= copies[source]
    if wanted:
        raise ValueError(f"{wanted} scans too many for the catalog")
    return copies


def _scan(catalog: Catalog, source: str, number: int, copy_of: str, relation: str) -> Scan:
    case = f"BDMAP_{number + 1:08d}" if source == PARENT else f"{number:05d}"
    if source == PRIVATE:
        case = f"p{fake_sha256(catalog.seed, number)[:16]}"
    patient = f"{source}/{int(number / _PER_PATIENT.get(source, 1))}"
    content = fake_sha256(catalog.seed, source, number)
    if copy_of and relation == "same":
        content = catalog.scans[copy_of].content
    return Scan(source, case, patient, content, copy_of, relation if copy_of else "")
