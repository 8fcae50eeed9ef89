"""The triage page in a real browser: real clicks and keys, offline, from a local file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page
from scipy import ndimage

from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti
from tumoratlas.review.ledger import REJECT_REASONS
from tumoratlas.review.masks import mask_sha256
from tumoratlas.review.packets.batch import DECISION_COLUMNS
from tumoratlas.review.packets.triage import TOOL, TriageCase, write_triage_page
from tumoratlas.review.returns.read import read_returns

if TYPE_CHECKING:
    from tests.browser import Browsing

pytest_plugins = ["tests.browser"]

BATCH, READER = "b0001", "R01"
# Names of cases come from folders of other people.
HOSTILE = '</script><script>window.hurt=1</script><img src=x onerror="window.hurt=1">&amp;\'{{1}}'
CASES = ("BDMAP_00000001", HOSTILE)
# Indices grow toward L, P, S, and toward A, I, R: a mistaken axis or sign cannot hide.
GRIDS = {
    CASES[0]: Grid.of(
        (36, 60, 64),
        np.array([[-1.5, 0, 0, 40.5], [0, -1.2, 0, 82.8], [0, 0, 2.5, -310], [0, 0, 0, 1]]),
    ),
    CASES[1]: Grid.of(
        (50, 34, 60),
        np.array([[0, 0, 1.6, -75.2], [1.3, 0, 0, -120.9], [0, -2.5, 0, 88], [0, 0, 0, 1]]),
    ),
}
BODY_HU, ORGAN_HU, CANDIDATE_HU = 0, 60, 700
# Case, organ, number, centre (index x, y, z), radius in mm. Two are near the border.
PLACED = [
    (CASES[0], "liver", 1, (20, 22, 12), 6.0),
    (CASES[0], "liver", 2, (44, 40, 27), 5.0),
    (CASES[0], "pancreas", 1, (30, 12, 20), 4.0),
    (CASES[1], "liver", 1, (16, 22, 35), 7.0),
    (CASES[1], "pancreas", 1, (48, 8, 12), 5.0),
]
UNKNOWN_ORGAN = (CASES[1], "pancreas")


@dataclass(frozen=True)
class Candidate:
    """What the page must show: id, and place in RAS mm."""

    case_id: str
    organ: str
    candidate_id: str
    centre_mm: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]


def ball(grid: Grid, index_xyz: tuple[int, ...], radius_mm: float) -> NDArray[np.bool_]:
    z, y, x = np.indices(grid.shape)
    steps = np.stack([x, y, z]) - np.reshape(index_xyz, (3, 1, 1, 1))
    return (np.square(steps * np.reshape(grid.spacing_mm, (3, 1, 1, 1))).sum(0)) <= radius_mm**2


def candidate_row(case_id: str, organ: str, mask: NDArray[Any], number: int, grid: Grid) -> dict:
    volume = float((mask == number).sum() * grid.voxel_volume_mm3)
    return {
        "candidate_id": f"c{CASES.index(case_id)}{organ[0]}{number}",
        "number": number,
        "case_id": case_id,
        "organ": organ,
        "volume_mm3": volume,
        "radius_mm": (volume * 3 / 4 / np.pi) ** (1 / 3),
        "max_p": 0.87,
    }


def phantom() -> tuple[list[TriageCase], list[Candidate]]:
    """Return two cases with two organs each, and the five candidates in the order of reading."""
    cases, candidates = [], []
    for case_id, grid in GRIDS.items():
        # An even body, so that what is bright is a candidate of the organ that is shown.
        ct = np.full(grid.shape, BODY_HU, np.int16)
        for _, _, _, index, radius in (p for p in PLACED if p[0] == case_id):
            ct[ball(grid, index, radius)] = CANDIDATE_HU
        for organ in ("liver", "pancreas"):
            mask, numbers = np.zeros(grid.shape, np.uint16), []
            outline = np.zeros(grid.shape, bool)
            for _, _, number, index, radius in (p for p in PLACED if p[:2] == (case_id, organ)):
                mask[ball(grid, index, radius)] = number
                outline |= ball(grid, index, radius + 12)
                numbers.append((number, index))
            rows = [candidate_row(case_id, organ, mask, number, grid) for number, _ in numbers]
            known = (case_id, organ) != UNKNOWN_ORGAN
            if known:
                ct[outline & (ct == BODY_HU)] = ORGAN_HU
            cases.append(
                TriageCase(
                    case_id, organ, ct, grid, mask, rows, outline if known else None,
                    mask_sha256(mask, grid), len(cases) + 1,
                )
            )  # fmt: skip
            for row, (_, index) in zip(rows, numbers, strict=True):
                centre = (grid.affine @ [*index, 1])[:3]
                candidates.append(
                    Candidate(case_id, organ, row["candidate_id"], centre, _spacing_ras(grid))
                )
    return cases, candidates


def _spacing_ras(grid: Grid) -> tuple[float, float, float]:
    """Return the spacing along R, A and S of a grid that is not oblique."""
    return tuple(float(v) for v in np.abs(grid.affine[:3, :3]).max(axis=1))


TRIAGE_CASES, CANDIDATES = phantom()
BASES = {(case.case_id, case.organ): case.base_sha256 for case in TRIAGE_CASES}

# A scan to read in full, on the model grid: one bright tumor that is no candidate.
MISSED_INDEX = (30, 12, 21)
MODEL_GRID = Grid.of(
    (30, 40, 44), np.array([[1.5, 0, 0, -33], [0, 1.5, 0, -120], [0, 0, 1.5, 200], [0, 0, 0, 1]])
)
MISSED_MM = (MODEL_GRID.affine @ [*MISSED_INDEX, 1])[:3]


def full_case() -> TriageCase:
    tumor = ball(MODEL_GRID, MISSED_INDEX, 6)
    ct = np.where(tumor, CANDIDATE_HU, ORGAN_HU).astype(np.int16)
    nothing = np.zeros(MODEL_GRID.shape, np.uint16)
    base = mask_sha256(nothing, MODEL_GRID)
    return TriageCase(CASES[0], "liver", ct, MODEL_GRID, nothing, [], ~tumor, base, 1)


def empty_case() -> TriageCase:
    """An organ in which the model found nothing."""
    case = TRIAGE_CASES[1]
    nothing = np.zeros_like(case.candidates)
    return replace(case, candidates=nothing, rows=[], base_sha256=mask_sha256(nothing, case.grid))


class Reader:
    """Somebody at the page: presses, clicks, and reads what it shows."""

    def __init__(self, browsing: Browsing, page: Page) -> None:
        self.browsing = browsing
        self.page = page
        self.ready()

    def until(self, condition: str) -> None:
        self.browsing.until(self.page, condition)

    def ready(self) -> None:
        self.until("window.triage.ready")

    def download(self, act: Callable[[], None], folder: Path) -> Path:
        return self.browsing.download(self.page, act, folder)

    def get(self, name: str) -> Any:
        """Return a value of what the page tells about itself."""
        return self.page.evaluate(f"window.triage.{name}")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
            self.ready()

    def click(self, *names: str) -> None:
        for name in names:
            self.page.click(f"#{name}")
            self.ready()

    def to(self, index: int) -> None:
        """Go to an item with next and previous."""
        while self.get("index") != index:
            self.press("n" if self.get("index") < index else "p")

    def text(self, name: str) -> str:
        return self.page.inner_text(f"#{name}")

    @property
    def candidate(self) -> str:
        return self.get("item")["candidate_id"]

    @property
    def standing(self) -> dict[str, str]:
        """Decision on each candidate; of an organ under its name."""
        return {d["candidate_id"] or d["organ"]: d["decision"] for d in self.get("decisions")}

    def pixels(self, name: str) -> NDArray[np.int16]:
        """Return what a canvas shows (row, column, RGB)."""
        canvas = self.page.locator(f"#{name}")
        image = Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")
        pixels = np.asarray(image).astype(np.int16)
        inset = self.page.locator("#zoom").bounding_box() if name == "planes" else None
        if inset:
            # The zoom lies over a corner of the planes.
            box = canvas.bounding_box()
            pixels[
                max(0, int(inset["y"] - box["y"])) : int(inset["y"] - box["y"] + inset["height"]),
                max(0, int(inset["x"] - box["x"])) : int(inset["x"] - box["x"] + inset["width"]),
            ] = 0
        return pixels

    def click_at(self, name: str, row: float, column: float) -> NDArray[np.float64]:
        """Click into a canvas and return where the crosshair goes, in mm."""
        box = self.page.locator(f"#{name}").bounding_box()
        self.page.mouse.click(box["x"] + column, box["y"] + row)
        self.ready()
        return np.array(self.get("crosshair_mm"))


Opener = Callable[..., Reader]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of every kind, written once."""
    folder = tmp_path_factory.mktemp("pages with spaces & ü")
    for name, kind, role in [
        ("senior", "candidates", "senior"),
        ("junior", "candidates", "junior"),
        ("full", "full", "senior"),
    ]:
        write_triage_page(
            folder / f"{name}.html", batch=BATCH, kind=kind, reviewer_id=READER, role=role,
            cases=[full_case()] if kind == "full" else TRIAGE_CASES,
        )  # fmt: skip
    write_triage_page(
        folder / "other.html", batch="b0002", kind="candidates", reviewer_id=READER,
        role="senior", cases=[*TRIAGE_CASES[:1], empty_case()],
    )  # fmt: skip
    return folder


@pytest.fixture
def start(browsing: Browsing, folder: Path) -> Opener:
    """Return a function that opens a page as a reader does."""

    def start(name: str = "senior", **options: Any) -> Reader:
        return Reader(browsing, browsing.open(folder / f"{name}.html", **options))

    return start


def blobs(pixels: NDArray[np.int16]) -> list[tuple[float, float, tuple[slice, slice]]]:
    """Return centre and box of each white disc in a picture: a candidate, no line, no letter."""
    # Crosshair and outlines cut the disc, so closed gaps are allowed.
    white = ndimage.binary_closing(np.pad((pixels >= 245).all(axis=2), 9), np.ones((9, 9)))
    labels, _ = ndimage.label(white[9:-9, 9:-9])
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if (labels[box] == number).sum() > 100:
            row, column = ndimage.center_of_mass(labels == number)
            found.append((row, column, box))
    return found


@pytest.fixture(scope="module")
def looker(windows: Browsing, folder: Path) -> Reader:
    """A window in which nobody decides anything, for all tests of what is shown."""
    return Reader(windows, windows.open(folder / "senior.html", profile="looker"))


@pytest.fixture
def look(looker: Reader) -> Iterator[Reader]:
    """The looker at the first candidate, in the window of the abdomen."""
    looker.to(0)
    looker.press("1", "Home")
    yield looker
    assert looker.get("events") == []
    assert looker.browsing.problems == []


def near(place_mm: Any, candidate: Candidate) -> bool:
    """Tell whether a place is the candidate's centre, to the digit that is shown."""
    return bool(np.abs(np.array(place_mm) - candidate.centre_mm).max() < 0.051)


def test_each_candidate_is_shown_at_its_place(look: Reader) -> None:
    """Five candidates in order of reading, the crosshair at each one's centre."""
    assert look.get("webgl") is True
    assert look.page.locator("#no-webgl").is_hidden()
    assert look.get("count") == len(CANDIDATES)
    for index, candidate in enumerate(CANDIDATES):
        assert look.get("index") == index
        assert look.get("item") == {
            "case_id": candidate.case_id,
            "organ": candidate.organ,
            "candidate_id": candidate.candidate_id,
        }
        assert near(look.get("crosshair_mm"), candidate)
        # The voxel there is the candidate's, and the page tells the place.
        assert look.text("hu") == f"{CANDIDATE_HU} HU"
        for name in ("crosshair", "centroid"):
            assert near(numbers(look.text(name)), candidate)
        assert look.text("case-id") == candidate.case_id
        assert look.text("organ").startswith(candidate.organ)
        look.press("n")


def numbers(text: str) -> list[float]:
    """Return the numbers with one digit in a text."""
    return [float(number) for number in re.findall(r"-?\d+\.\d", text)]


def test_what_is_drawn_lies_where_the_page_says(look: Reader) -> None:
    """A click on the bright disc in each plane finds the candidate; planes lie as on film."""
    for candidate in CANDIDATES:
        assert look.candidate == candidate.candidate_id
        zoom = look.pixels("zoom")
        row, column, _ = max(blobs(zoom), key=lambda blob: _size(blob[2]))
        assert np.abs([row / zoom.shape[0] - 0.5, column / zoom.shape[1] - 0.5]).max() < 0.05
        discs = blobs(look.pixels("planes"))
        assert len(discs) == 3, candidate
        there = []
        for row, column, _ in discs:
            there.append(look.click_at("planes", row, column))
            look.press("Home")
            assert near(look.get("crosshair_mm"), candidate)
        assert (np.abs(there - candidate.centre_mm) <= candidate.spacing_mm).all(), candidate
        if candidate.organ == "pancreas":
            # Patient's right and face on the left of the screen, head and anterior up.
            directions = set()
            for place, (row, column, _) in zip(there, discs, strict=True):
                right = look.click_at("planes", row, column + 16) - place
                down = look.click_at("planes", row + 16, column) - place
                directions.add((_axis(right), _axis(down)))
                look.press("Home")
            assert directions == {("-R", "-A"), ("-R", "-S"), ("-A", "-S")}
        look.press("n")


def _axis(step_mm: NDArray[np.float64]) -> str:
    """Return the direction of a step along one axis, such as ``-R``."""
    axis = int(np.argmax(np.abs(step_mm)))
    return f"{'+' if step_mm[axis] > 0 else '-'}{'RAS'[axis]}"


def _size(box: tuple[slice, slice]) -> int:
    return (box[0].stop - box[0].start) * (box[1].stop - box[1].start)


def test_outlines_surround_the_candidate(look: Reader) -> None:
    """Switching the outlines changes pixels at the candidate; without an organ only there."""
    for index in (0, 4):
        look.to(index)
        candidate = CANDIDATES[index]
        assert look.get("outline") is True
        shown = {name: look.pixels(name) for name in ("planes", "zoom")}
        look.click("outline")
        assert look.get("outline") is False
        plain = {name: look.pixels(name) for name in ("planes", "zoom")}
        look.press("o")
        assert look.get("outline") is True
        assert (shown["zoom"] != plain["zoom"]).any()
        changed = (shown["planes"] != plain["planes"]).any(axis=2)
        beside = np.ones_like(changed)
        for _, _, (rows, columns) in blobs(plain["planes"]):
            place = (
                slice(max(rows.start - 8, 0), rows.stop + 8),
                slice(max(columns.start - 8, 0), columns.stop + 8),
            )
            beside[place] = False
            # The line goes around, along the borders of voxels that the picture blurs.
            line = np.argwhere(changed[place])
            assert len(line) > 20, candidate
            extent = np.ptp(line, axis=0) + 1
            disc = [rows.stop - rows.start, columns.stop - columns.start]
            assert (extent >= disc).all() and (extent <= np.add(disc, 14)).all(), candidate
        is_known = (candidate.case_id, candidate.organ) != UNKNOWN_ORGAN
        assert changed[beside].any() == is_known


def test_wheel_and_arrows_scroll_slices(look: Reader) -> None:
    """One notch, one slice of the plane under the pointer; arrows do the same."""
    spacing = CANDIDATES[0].spacing_mm
    box = look.page.locator("#planes").bounding_box()
    moved = []
    for row, column, _ in blobs(look.pixels("planes")):
        look.page.mouse.move(box["x"] + column, box["y"] + row)
        steps = []
        for notch in (100, 100, -100, -100):
            before = look.get("crosshair_mm")
            look.page.mouse.wheel(0, notch)
            look.until(f"String(window.triage.crosshair_mm) !== String({before})")
            steps.append(np.subtract(look.get("crosshair_mm"), before))
        axis = int(np.argmax(np.abs(steps[0])))
        moved.append(axis)
        step = np.sign(steps[0][axis]) * spacing[axis] * np.eye(3)[axis]
        np.testing.assert_allclose(steps, [step, step, -step, -step], atol=1e-3)
    assert sorted(moved) == [0, 1, 2]
    for axis, pair in enumerate(
        [("Left", "Right"), ("Shift+ArrowUp", "Shift+ArrowDown"), ("Up", "Down")]
    ):
        for key, sign in zip(pair, (1, -1), strict=True):
            before = look.get("crosshair_mm")
            look.press(key if "+" in key else f"Arrow{key}")
            step = np.subtract(look.get("crosshair_mm"), before)
            np.testing.assert_allclose(step, sign * spacing[axis] * np.eye(3)[axis], atol=1e-3)


def test_window_presets_change_what_is_shown(look: Reader) -> None:
    """Each preset has its own limits and picture; exactly one is pressed."""
    limits, pictures = set(), set()
    for number in range(1, 6):
        if number % 2:
            look.press(str(number))
        else:
            look.click(f"window-{number}")
        window = look.get("window")
        assert window["low"] < window["high"]
        limits.add((window["low"], window["high"]))
        pictures.add(look.pixels("planes").tobytes())
        pressed = "all => all.filter(e => e.ariaPressed === 'true').map(e => e.id)"
        assert look.page.eval_on_selector_all("[id^=window-]", pressed) == [f"window-{number}"]
    assert len(limits) == len(pictures) == 5


def test_a_hostile_name_is_text(look: Reader) -> None:
    """A name with markup is shown as it is, in the page and in its table, and runs nothing."""
    look.to(4)
    assert look.text("case-id") == HOSTILE
    look.press("t")
    assert look.page.locator("#table").is_visible()
    assert HOSTILE in look.text("row-4")
    look.click("row-2")
    assert look.page.locator("#table").is_hidden()
    assert look.candidate == CANDIDATES[2].candidate_id
    look.press("?")
    assert look.page.locator("#help").is_visible()
    look.click("close-help")
    assert look.page.locator("#help").is_hidden()
    assert look.page.evaluate("window.hurt") is None
    assert look.page.locator("img").count() == 0


@pytest.mark.parametrize("by", ["keys", "clicks"])
def test_decisions(start: Opener, by: str) -> None:
    """Accept, reject with a reason, uncertain, next, previous and undo."""
    keys = {
        "accept": "a", "reject": "r", "uncertain": "u", "next": "n", "previous": "p", "undo": "z",
        "reason-vessel": "v", "reason-cancel": "Escape",
    }  # fmt: skip
    reader = start()

    def act(*names: str) -> None:
        for name in names:
            reader.press(keys[name]) if by == "keys" else reader.click(name)

    ids = [candidate.candidate_id for candidate in CANDIDATES]
    act("accept")
    assert (reader.candidate, reader.standing) == (ids[1], {ids[0]: "accept"})
    # A rejection needs its reason; it can be called off.
    act("reject")
    assert reader.page.locator("#reasons").is_visible()
    act("reason-cancel")
    assert reader.page.locator("#reasons").is_hidden()
    assert (reader.candidate, reader.standing) == (ids[1], {ids[0]: "accept"})
    act("reject", "reason-vessel")
    assert reader.standing == {ids[0]: "accept", ids[1]: "reject"}
    act("uncertain", "next", "accept")
    assert reader.standing == {
        ids[0]: "accept", ids[1]: "reject", ids[2]: "uncertain", ids[4]: "accept",
    }  # fmt: skip
    # The last decision is taken back, then the one before; both stay in the log.
    act("undo", "undo")
    assert (reader.candidate, reader.standing) == (ids[2], {ids[0]: "accept", ids[1]: "reject"})
    assert [(e["candidate_id"], e["decision"]) for e in reader.get("events")] == [
        (ids[0], "accept"), (ids[1], "reject"), (ids[2], "uncertain"), (ids[4], "accept"),
        (ids[4], "undo"), (ids[2], "undo"),
    ]  # fmt: skip
    # A later decision replaces the earlier one, and undo brings that back.
    act("previous", "accept")
    assert reader.standing == {ids[0]: "accept", ids[1]: "accept"}
    act("undo")
    assert reader.standing == {ids[0]: "accept", ids[1]: "reject"}
    (rejected,) = [d for d in reader.get("decisions") if d["decision"] == "reject"]
    assert rejected["reason"] == "vessel"


def test_reasons_and_comments(start: Opener) -> None:
    """The closed set of reasons by c, v, n, x, o; letters of a comment are no keys."""
    reader = start()
    for key in "cvnx":
        reader.press("r", key)
    reader.page.click("#comment")
    reader.page.keyboard.type('arucz "quoted", =1+1; ü')
    reader.page.keyboard.press("Escape")
    assert len(reader.get("events")) == 4
    reader.press("r", "o")
    events = reader.get("events")
    assert tuple(event["reason"] for event in events) == REJECT_REASONS
    assert [event["comment"] for event in events] == [*[""] * 4, 'arucz "quoted", =1+1; ü']
    assert reader.page.input_value("#comment") == ""
    shown = reader.page.eval_on_selector_all("[id^=reason-]", "all => all.map(e => e.id)")
    assert set(shown) == {f"reason-{reason}" for reason in (*REJECT_REASONS, "cancel")}


def test_time_is_taken_per_candidate(start: Opener) -> None:
    """Seconds add up over visits and never go back; times are UTC."""
    started = datetime.now(UTC).timestamp()
    reader = start()
    reader.page.wait_for_timeout(600)
    reader.press("n")
    reader.page.wait_for_timeout(300)
    reader.press("p", "a", "a")
    ended = datetime.now(UTC).timestamp()
    first, second = reader.get("events")
    assert first["seconds"] >= 0.55
    assert second["seconds"] >= 0.25
    assert first["seconds"] + second["seconds"] <= ended - started + 0.1
    assert reader.get("seconds") >= 0
    times = [datetime.fromisoformat(event["time"]).timestamp() for event in (first, second)]
    assert all(event["time"].endswith("Z") for event in (first, second))
    assert started - 0.01 <= times[0] < times[1] <= ended + 0.01


def test_work_goes_on_after_closing(start: Opener, browsing: Browsing) -> None:
    """Closing and opening the page again keeps decisions and place; undo still works."""
    reader = start()
    reader.press("a", "r", "c", "u", "z")
    before = reader.get("events"), reader.get("decisions"), reader.get("unexported")
    assert reader.get("storage") == "kept"
    browsing.close()
    reader = start()
    after = reader.get("events"), reader.get("decisions"), reader.get("unexported")
    assert after == before
    assert len(before[0]) == before[2] == 4
    # It opens at the first that is not decided.
    assert reader.candidate == CANDIDATES[2].candidate_id
    reader.press("z")
    assert reader.standing == {CANDIDATES[0].candidate_id: "accept"}
    # Another batch in the same browser knows nothing of it.
    assert start("other").get("events") == []


def test_accidents_at_the_desk(start: Opener) -> None:
    """A key held down, the page opened twice, a browser that spoils what it kept."""
    reader = start()
    for _ in range(5):
        reader.page.keyboard.down("u")
    reader.page.keyboard.up("u")
    reader.ready()
    assert reader.standing == {CANDIDATES[0].candidate_id: "uncertain"}
    second = reader.page.context.new_page()
    second.goto(reader.page.url)
    twin = Reader(reader.browsing, second)
    assert twin.get("events") == reader.get("events")
    twin.press("a")
    reader.until("window.triage.events.length === 2")
    assert reader.standing == twin.standing
    second.close()
    reader.page.evaluate("for (const key of Object.keys(localStorage)) localStorage[key] = '{'")
    reader = start()
    assert reader.get("events") == []
    assert "damaged" in reader.text("banner")


def test_an_organ_without_candidates_is_signed(start: Opener) -> None:
    """There is nothing to accept, and no picture that could mislead: only the signature."""
    reader = start("other")
    reader.to(2)
    assert reader.get("item") == {"case_id": CASES[0], "organ": "pancreas", "candidate_id": ""}
    assert reader.page.locator("#nothing").is_visible()
    assert reader.page.locator("#accept").is_disabled()
    assert reader.page.locator("#missed").is_disabled()
    reader.press("a", "u", "m", "f")
    (event,) = reader.get("events")
    assert (event["organ"], event["candidate_id"], event["decision"]) == (
        "pancreas", "", "sign_off",
    )  # fmt: skip
    assert event["base_sha256"] == empty_case().base_sha256


def take_in(folder: Path) -> tuple[list[Any], list[dict[str, str]]]:
    """Read a folder as the pipeline does."""
    return read_returns(
        folder,
        batch=BATCH,
        candidates=pd.DataFrame([row for case in TRIAGE_CASES for row in case.rows]),
        bases=BASES,
        grids=GRIDS,
        reviewers=pd.DataFrame([(READER, "senior")], columns=["reviewer_id", "role"]),
        store=folder / "masks",
        now=datetime.now(UTC),
    )


def test_an_export_is_taken_in_and_restored(start: Opener, tmp_path: Path) -> None:
    """CSV and JSON hold the whole log: for the pipeline, and for a browser that knows nothing."""
    reader = start()
    reader.page.fill("#comment", 'touches "segment 7", see; =2+3; ü\nsecond line')
    reader.page.keyboard.press("Escape")
    reader.press("a", "r", "v", "u", "a", "z", "r", "x", "a")
    reader.to(0)
    reader.press("f")
    log = reader.get("events")
    assert [event["decision"] for event in log] == [
        "accept", "reject", "uncertain", "accept", "undo", "reject", "accept", "sign_off",
    ]  # fmt: skip
    table = reader.download(lambda: reader.click("export-csv"), tmp_path / "csv")
    text = reader.download(lambda: reader.press("e"), tmp_path / "json")
    assert table.name == f"decisions-{BATCH}-{READER}.csv"
    assert text.name == f"decisions-{BATCH}-{READER}.json"
    assert reader.get("unexported") == 0

    given = json.loads(text.read_text(encoding="utf-8"))
    assert given.pop("decisions") == log
    assert datetime.fromisoformat(given.pop("exported")).tzinfo is not None
    assert given == {
        "format": "tumoratlas-decisions", "schema": 1, "batch": BATCH, "reviewer_id": READER,
        "tool": TOOL,
    }  # fmt: skip
    for event in log:
        assert event["base_sha256"] == BASES[event["case_id"], event["organ"]]
    lines = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig"), newline=""))
    assert lines.fieldnames == DECISION_COLUMNS
    for folder in (table.parent, text.parent):
        events, excluded = take_in(folder)
        assert excluded == []
        assert [_told(event) for event in events] == [
            (
                e["case_id"], e["organ"], e["candidate_id"] or None, READER, e["decision"],
                e["time"], e["seconds"], e["reason"], e["comment"], e["base_sha256"],
            )
            for e in log
        ]  # fmt: skip

    before = log, reader.get("decisions"), reader.text("progress")
    reader.browsing.forget("reader")
    fresh = start()
    assert fresh.get("events") == []
    # Twice is as good as once.
    for _ in range(2):
        fresh.page.set_input_files("#import-file", text)
        fresh.until(f"window.triage.events.length === {len(log)}")
        fresh.ready()
        assert (fresh.get("events"), fresh.get("decisions"), fresh.text("progress")) == before
    fresh.press("z")
    assert fresh.get("events")[-1]["decision"] == "undo"


def _told(event: Any) -> tuple[Any, ...]:
    return (
        event.case_id, event.organ, event.candidate_id, event.reviewer_id, event.decision,
        event.time, event.seconds, event.reason, event.comment, event.base_sha256,
    )  # fmt: skip


def test_a_file_that_does_not_belong_here_is_refused(start: Opener, tmp_path: Path) -> None:
    """With a message that names it; what was decided stays as it is."""
    reader = start()
    reader.press("a", "u")
    file = reader.download(lambda: reader.click("export-json"), tmp_path)
    text = file.read_text(encoding="utf-8")
    reader.press("z")
    before = reader.get("events")
    for name, changed, word in [
        ("batch", text.replace(f'"{BATCH}"', '"b0007"'), "batch"),
        ("reviewer", text.replace(f'"{READER}"', '"R09"'), "reviewer_id"),
        ("format", text.replace('"tumoratlas-decisions"', '"something"'), "format"),
        ("base", text.replace(TRIAGE_CASES[0].base_sha256, "0" * 64), "another version"),
        ("candidate", text.replace(CANDIDATES[0].candidate_id, "c9"), "not in this page"),
        ("cut", text[: len(text) // 2], "not a whole JSON file"),
    ]:
        assert changed != text
        (tmp_path / f"{name}.json").write_text(changed, encoding="utf-8")
        reader.page.set_input_files("#import-file", tmp_path / f"{name}.json")
        reader.until(f"document.getElementById('message').innerText.includes('{name}.json')")
        assert word in reader.text("message")
        assert reader.page.locator("#message").is_visible()
        assert reader.get("events") == before


def test_signing_off_needs_every_candidate_decided(start: Opener) -> None:
    """The button is off until then, and the key does nothing; a doubt keeps the organ open."""
    reader = start()
    button = reader.page.locator("#sign-off")
    assert button.is_disabled()
    reader.press("f", "a", "f")
    assert reader.standing == {CANDIDATES[0].candidate_id: "accept"}
    reader.press("u")
    reader.to(1)
    assert button.is_disabled()
    reader.press("f", "r", "n")
    reader.to(1)
    assert button.is_enabled()
    reader.click("sign-off")
    (signed,) = [event for event in reader.get("events") if event["decision"] == "sign_off"]
    assert (signed["case_id"], signed["organ"], signed["candidate_id"]) == (CASES[0], "liver", "")
    assert reader.standing["liver"] == "sign_off"
    assert "signed off" in reader.text("message")
    reader.press("z")
    assert "liver" not in reader.standing
    assert reader.get("decisions")[-1]["decision"] == "reject"


def test_juniors_do_not_sign(start: Opener) -> None:
    """A junior decides every candidate and still cannot sign."""
    reader = start("junior")
    reader.press(*"aaaaa")
    assert list(reader.standing.values()) == ["accept"] * len(CANDIDATES)
    assert reader.page.locator("#sign-off").is_hidden()
    reader.press("f")
    assert "sign_off" not in reader.standing.values()


def test_a_scan_is_read_in_full(start: Opener) -> None:
    """Every slice is passed; a missed tumor becomes a contest of the organ, at its place."""
    reader = start("full")
    assert (reader.get("kind"), reader.get("count")) == ("full", 1)
    count = MODEL_GRID.shape[0]
    reader.press(*["ArrowDown"] * count)
    seen = {round(reader.get("crosshair_mm")[2], 2)}
    for _ in range(count):
        reader.press("ArrowUp")
        seen.add(round(reader.get("crosshair_mm")[2], 2))
    assert sorted(seen) == [200 + 1.5 * k for k in range(count)]
    while reader.get("crosshair_mm")[2] > MISSED_MM[2] + 0.1:
        reader.press("ArrowDown")
    # It is bright in this slice, and in no other plane yet: a click brings all three there.
    (disc,) = blobs(reader.pixels("planes"))
    place = reader.click_at("planes", *disc[:2])
    assert np.abs(place - MISSED_MM).max() <= 1.5
    assert len(blobs(reader.pixels("planes"))) == 3
    # Candidates are decided elsewhere; here a tumor is marked.
    assert reader.page.locator("#accept").is_disabled()
    reader.press("a", "r", "u", "m")
    (event,) = reader.get("events")
    assert (event["decision"], event["reason"]) == ("contest", "missed")
    assert (event["organ"], event["candidate_id"]) == ("liver", "")
    assert re.fullmatch(r"missed tumor at R \S+ A \S+ S \S+ mm", event["comment"])
    np.testing.assert_allclose(numbers(event["comment"]), place, atol=0.051)
    # Who marked a tumor does not sign that nothing is missed.
    assert reader.page.locator("#sign-off").is_disabled()
    reader.press("f", "z", "f")
    assert [e["decision"] for e in reader.get("events")] == ["contest", "undo", "sign_off"]
    assert reader.get("events")[-1]["candidate_id"] == ""


def test_without_webgl_the_page_says_so(browsing: Browsing, folder: Path) -> None:
    """One sentence instead of an empty window, and no decision on what cannot be seen."""
    page = browsing.open(folder / "senior.html", profile="plain", webgl=False)
    page.wait_for_selector("#no-webgl", state="visible")
    assert "WebGL 2 is missing" in page.inner_text("#no-webgl")
    assert page.evaluate("window.triage.webgl") is False
    assert page.locator("#accept").is_disabled()
    page.keyboard.press("a")
    assert page.evaluate("window.triage.events") == []


def test_what_a_page_must_not_do_is_noticed(browsing: Browsing, tmp_path: Path) -> None:
    """The watch itself: errors and requests are found, and not by chance of time."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<script>console.error('bad'); setTimeout(() => { throw Error('late') });"
        "fetch('https://example.org/a').catch(() => document.body.append('refused'))</script>"
    )
    page = browsing.open(path, profile="plain", webgl=False)
    browsing.until(page, "document.body.innerText === 'refused'")
    found = {problem for problem in browsing.problems if "Failed to load" not in problem}
    assert found == {"console: bad", "exception: late", "request: https://example.org/a"}
    browsing.problems.clear()


def test_tumors_of_a_real_scan(real_data: Path, browsing: Browsing, tmp_path: Path) -> None:
    """LiTS 0: the crosshair lies inside each of its 11 tumors, on the scan's own voxel."""
    volumes = {}
    for name in ("ct", "tumor_instances", "liver_pseudo_difftumor"):
        volume = read_nifti(real_data / f"lits_liver_0/{name}.nii.gz", max_voxels=1 << 28)
        volumes[name], grid = to_canonical(volume.array, volume.grid)
    ct, tumors = volumes["ct"], volumes["tumor_instances"].astype(np.uint16)
    rows = [candidate_row(CASES[0], "liver", tumors, n, grid) for n in range(1, 12)]
    case = TriageCase(
        CASES[0], "liver", ct, grid, tumors, rows, volumes["liver_pseudo_difftumor"] > 0,
        mask_sha256(tumors, grid), 1,
    )  # fmt: skip
    path = tmp_path / "triage.html"
    write_triage_page(
        path, batch=BATCH, kind="candidates", reviewer_id=READER, role="senior", cases=[case]
    )
    known = pd.read_csv(real_data / "reference_instances.csv")
    known = known[known.file.str.startswith("lits_liver_0/")]
    centres = known[["centroid_x_lps", "centroid_y_lps", "centroid_z_lps"]].to_numpy() * (-1, -1, 1)
    reader = Reader(browsing, browsing.open(path))
    back = np.linalg.inv(grid.affine)
    assert reader.get("count") == tumors.max() == len(rows) == len(centres)
    found = set()
    for row in rows:
        assert reader.candidate == row["candidate_id"]
        told = numbers(reader.text("centroid"))
        found.add(int(np.abs(centres - told).max(axis=1).argmin()))
        assert np.abs(centres - told).max(axis=1).min() < 0.1
        x, y, z = np.round((back @ [*reader.get("crosshair_mm"), 1])[:3]).astype(int)
        assert tumors[z, y, x] == row["number"]
        assert reader.text("hu") == f"{ct[z, y, x]} HU"
        if row["volume_mm3"] == max(other["volume_mm3"] for other in rows):
            reader.page.set_viewport_size({"width": 1280, "height": 800})
            reader.page.screenshot(path=tmp_path / "largest_tumor.png")
        reader.press("n")
    assert len(found) == len(rows)
