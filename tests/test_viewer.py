"""The pages of a release in a real browser, from the server of `python -m tumoratlas view`."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import BrowserContext, Page, Route
from playwright.sync_api import sync_playwright as start_playwright

from tests.conftest import ROOT
from tests.small_release import GRID, make_release
from tumoratlas.core.errors import MachineError, ReleaseError
from tumoratlas.core.tables import read_table
from tumoratlas.images.nifti import read_nifti
from tumoratlas.release.facts import ReleaseFacts
from tumoratlas.release.viewer import release_server, viewer_files

if TYPE_CHECKING:
    from tests.browser import Browsing

pytest_plugins = ["tests.browser"]

YELLOW, ORANGE, BLUE = (255, 214, 64), (255, 143, 90), (92, 170, 255)
KIDNEY, LIVER, EMPTY = "BDMAP_90000002", "BDMAP_00000001", "BDMAP_90000001"
HOSTILE = '</script><script>window.hurt=1</script><img src=x onerror="window.hurt=1">/&\'{{1}}#%'


@pytest.fixture(scope="module")
def windows(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browsing]:
    """Return windows that may also reach this machine's servers."""
    # Imported late, so that pytest can explain the module's assertions.
    from tests.browser import Browsing

    class Visiting(Browsing):
        def _launch(self, profile: str, webgl: bool) -> BrowserContext:
            window = super()._launch(profile, webgl)
            window.set_offline(False)
            return window

        def _route(self, route: Route) -> None:
            if route.request.url.startswith("http://127.0.0.1:"):
                route.continue_()
            else:
                super()._route(route)

    with start_playwright() as playwright:
        windows = Visiting(playwright, chromium, tmp_path_factory.mktemp("profiles"))
        yield windows
        windows.close_all()


def visit(
    browsing: Browsing, address: str, *, profile: str = "visitor", webgl: bool = True
) -> Page:
    """Open a page of a server and return it."""
    page = browsing.open(ROOT / "resources/viewer/viewer.css", profile=profile, webgl=webgl)
    page.goto(address)
    return page


class Served:
    """A release and the address of its pages."""

    def __init__(self, release: Path, port: int) -> None:
        self.release = release
        self.port = port
        self.pages = f"http://127.0.0.1:{port}/viewer/"
        self.tumors = read_table(release / "tables/tumors.parquet")

    def get(self, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        """Return the answer to a request whose path is sent as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, headers=headers)
        return connection.getresponse()


def serve(release: Path) -> Iterator[Served]:
    with release_server(release, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Served(release, server.server_port)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a release with images, and its server."""
    work = tmp_path_factory.mktemp("work")
    yield from serve(make_release(work, work / "a release & ü"))


@pytest.fixture(scope="module")
def labels_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a release of masks alone, and its server."""
    work = tmp_path_factory.mktemp("work")
    yield from serve(make_release(work, work / "release", target="labels_only"))


# ------------------------------------------------------------------------------ what is written


def cases_of(text: str) -> list[dict[str, Any]]:
    """Return what `cases.js` tells."""
    return json.loads(text.split("window.CASES = ")[1].removesuffix(";\n"))


def test_cases_hold_what_tables_and_files_hold(served: Served) -> None:
    """Every tumor with its numbers, every volume of a case."""
    cases = cases_of((served.release / "viewer/cases.js").read_text(encoding="utf-8"))
    shown = {
        (case["case_id"], tumor["map"], tumor["number"]): tumor
        for case in cases
        for tumor in case["tumors"]
    }
    assert len(shown) == len(served.tumors) == 7
    for row in served.tumors.to_dict("records"):
        tumor = shown[row["case_id"], row["organ"], row["number"]]
        x, y, z = row["centroid_lps_mm"]
        assert tumor["centroid_ras_mm"] == pytest.approx([-x, -y, z], abs=1e-3)
        assert tumor["radius_mm"] == pytest.approx(row["radius_mm"], abs=0.005)
        assert tumor["longest_axial_mm"] == pytest.approx(row["longest_axial_mm"], abs=0.05)
        for own, column in (("kind", "lesion_kind"), ("early", "is_early")):
            assert tumor[own] == row[column]
    for case in cases:
        folder = served.release / "label" / case["case_id"]
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.nii.gz")}
        assert {f"{name}.nii.gz" for name in case["files"]} == files | {"ct.nii.gz"}


def facts_of(**more: Any) -> ReleaseFacts:
    """Return a release of one case, of which no volume is there."""
    tumor = {
        "case_id": HOSTILE, "organ": "liver", "number": 1, "side": "", "lesion_kind": "tumor",
        "radius_mm": 4.2, "longest_axial_mm": 8.0, "size_class": "tiny", "is_early": True,
        "is_fragment": False, "centroid_lps_mm": [1.0, 2.0, 3.0],
    }  # fmt: skip
    case = {
        "case_id": HOSTILE, "source": HOSTILE, "slices": 9,
        "voxel_sha256": {"ct.nii.gz": "", "instances/liver.nii.gz": ""},
    }  # fmt: skip
    definitions = {"size_edges_mm": [5, 10, 20], "early_diameter_mm": 20, "minimum_volume_mm3": 14}
    facts = ReleaseFacts(
        version="2.0", target="internal", cases=[case], tables={"tumors": [tumor]}, sources=[],
        definitions=definitions, sums={}, resources=ROOT / "resources/release",
    )  # fmt: skip
    return replace(facts, **more)


def test_pages_depend_on_no_order() -> None:
    """Rows in another order give the same text."""
    lesion = {"lesion_kind": "lesion", "organ": "unassigned"}
    rows = [facts_of().tables["tumors"][0] | more for more in ({}, {"number": 2}, lesion)]
    texts = viewer_files(facts_of(tables={"tumors": rows}))
    assert texts == viewer_files(facts_of(tables={"tumors": rows[::-1]}))
    # A pooled lesion is found in the map that holds it, not in its organ's.
    [case] = cases_of(texts["viewer/cases.js"])
    assert [(t["map"], t["number"]) for t in case["tumors"]] == [
        ("liver", 1), ("liver", 2), ("pooled", 1)
    ]  # fmt: skip


# ------------------------------------------------------------------------------ the table


def rows_shown(page: Page) -> list[list[str]]:
    cells = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    return page.locator("#rows tr").evaluate_all(cells)


def test_index_lists_and_filters_every_tumor(browsing: Browsing, served: Served) -> None:
    """All rows of the table, those that are asked for, in the order that is asked for."""
    page = visit(browsing, served.pages)
    expected = {(row.case_id, f"{row.organ} {row.number}") for row in served.tumors.itertuples()}
    assert {tuple(row[:2]) for row in rows_shown(page)} == expected
    assert page.inner_text("#count") == "7 of 7 tumors, cysts and lesions"
    assert page.locator("#how").is_hidden()
    page.select_option("#organ", "kidney")
    assert {row[0] for row in rows_shown(page)} == {KIDNEY} and len(rows_shown(page)) == 4
    page.select_option("#kind", "cyst")
    assert [row[1] for row in rows_shown(page)] == ["kidney 4"]
    page.select_option("#kind", "")
    page.select_option("#size", "medium")
    assert [row[1] for row in rows_shown(page)] == ["kidney 1"]
    page.select_option("#organ", "")
    page.fill("#text", "LITS")
    assert [tuple(row[:2]) for row in rows_shown(page)] == [(LIVER, "liver 1")]
    page.fill("#text", "")
    page.select_option("#size", "")
    for column, key in (("radius", "radius_mm"), ("longest", "longest_axial_mm")):
        for is_down in (False, True):
            page.click(f"#by-{column}")
            sizes = [float(row[5 if column == "radius" else 6]) for row in rows_shown(page)]
            wanted = sorted(served.tumors[key].round(1), reverse=is_down)
            assert sizes == pytest.approx(wanted, abs=0.051), column


def test_index_lists_cases_without_tumors_too(browsing: Browsing, served: Served) -> None:
    """Controls are found, by organ as well."""
    page = visit(browsing, served.pages)
    page.select_option("#rows-of", "cases")
    assert [(row[0], row[2]) for row in rows_shown(page)] == [
        (LIVER, "3"), (EMPTY, "0"), (KIDNEY, "4")
    ]  # fmt: skip
    page.select_option("#organ", "pancreas")
    assert [row[0] for row in rows_shown(page)] == [EMPTY, KIDNEY]


def test_hostile_texts_stay_texts_and_files_need_no_server(
    browsing: Browsing, tmp_path: Path
) -> None:
    """Opened as files: the table works and is cut at 500 rows, a case tells how to open it."""
    [tumor] = facts_of().tables["tumors"]
    tumors = [tumor | {"number": number} for number in range(1, 602)]
    for place, text in viewer_files(facts_of(tables={"tumors": tumors})).items():
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    page = browsing.open(tmp_path / "viewer/index.html")
    rows = rows_shown(page)
    assert len(rows) == 500 and rows[0][0] == HOSTILE and rows[1][1] == "liver 2"
    assert page.inner_text("#count").startswith("601 of 601")
    assert "first 500 are listed" in page.inner_text("#count")
    assert "python -m tumoratlas view FOLDER" in page.inner_text("#how")
    page.click("#rows tr:nth-child(7) a")
    browsing.until(page, "window.viewer && window.viewer.ready")
    assert page.evaluate("viewer.case_id") == HOSTILE
    assert page.evaluate("viewer.tumor") == "liver/7"
    assert page.inner_text("#case-id") == HOSTILE
    assert "python -m tumoratlas view FOLDER" in page.inner_text("#message")
    assert page.evaluate("window.hurt") is None


# ------------------------------------------------------------------------------ a case


class Viewer:
    """Somebody at the page of a case."""

    def __init__(self, browsing: Browsing, page: Page) -> None:
        self.browsing = browsing
        self.page = page
        self.ready()

    def ready(self) -> None:
        self.browsing.until(self.page, "window.viewer && window.viewer.ready")

    def get(self, name: str) -> Any:
        return self.page.evaluate(f"window.viewer.{name}")

    def to(self, tumor: str) -> None:
        """Change the address after `#`, as a link or a person does."""
        self.page.evaluate("hash => { location.hash = hash; }", tumor)
        case, *rest = tumor.split("/")
        self.browsing.until(self.page, f"viewer.case_id === {json.dumps(case)}")
        if rest:
            self.browsing.until(self.page, f"viewer.tumor === {json.dumps('/'.join(rest))}")
        self.ready()

    def pixels(self) -> NDArray[np.int64]:
        """Return what the axial plane shows (row, column, RGB), the left of the stage."""
        shot = self.page.locator("#planes").screenshot()
        pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)
        return pixels[:, : int(0.62 * pixels.shape[1])]

    def box(self, color: tuple[int, int, int]) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return centre and size (row, column) of what is drawn in a colour, in pixels."""
        near = np.argwhere(np.abs(self.pixels() - color).max(axis=2) < 12)
        if not len(near):
            return None
        low, high = near.min(axis=0), near.max(axis=0)
        return (low + high) / 2, high - low + 1


def expected_box(
    viewer: Viewer, low_xy: tuple[int, int], high_xy: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return where a box of voxels must be drawn: right on the left, anterior up."""
    height, width = viewer.pixels().shape[:2]
    shape = np.array(GRID.shape[:0:-1])  # x, y: pixels are square
    scale = min((width, height) / shape)
    away = (np.add(low_xy, high_xy) - shape) / 2 * scale
    centre = np.array([height / 2 - away[1], width / 2 - away[0]])
    return centre, (np.subtract(high_xy, low_xy) * scale)[::-1]


@pytest.fixture(scope="module")
def looker(windows: Browsing, served: Served) -> Viewer:
    """Return a page of a case for all tests that need no new one."""
    return Viewer(windows, visit(windows, f"{served.pages}case.html#{KIDNEY}", profile="looker"))


@pytest.fixture
def viewer(looker: Viewer) -> Iterator[Viewer]:
    """Return the page at the first tumor of the kidney, with its tumors outlined."""
    looker.to(EMPTY)
    looker.to(f"{KIDNEY}/kidney/1")
    yield looker
    assert looker.browsing.problems == []


def test_links_lead_to_each_tumor(browsing: Browsing, served: Served) -> None:
    """The crosshair is at the centroid, the page tells place and HU of the voxel there."""
    page = visit(browsing, served.pages)
    page.click("#rows tr:first-child a")
    viewer = Viewer(browsing, page)
    assert viewer.get("webgl") is True
    rows = served.tumors.to_dict("records")
    assert viewer.get("case_id") == rows[0]["case_id"]
    half_mm = np.array(GRID.spacing_mm) / 2 + 1e-3
    for row in rows:
        viewer.to(f"{row['case_id']}/{row['organ']}/{row['number']}")
        x, y, z = row["centroid_lps_mm"]
        at = np.array(viewer.get("crosshair_mm"))
        assert (np.abs(at - [-x, -y, z]) <= half_mm).all(), row
        ct = read_nifti(served.release / f"ct/{row['case_id']}/ct.nii.gz", max_voxels=2**20).array
        index = np.linalg.solve(GRID.affine, [*at, 1])[2::-1].round().astype(int)
        assert page.inner_text("#hu") == f"{ct[tuple(index)]} HU"
        shown = [float(word) for word in page.inner_text("#place").split()[1::2]]
        np.testing.assert_allclose(shown, at, atol=0.051)
        assert page.locator("#tumors button[aria-current=true]").count() == 1
    assert page.inner_text("#case-id") == KIDNEY
    page.go_back()
    viewer.browsing.until(page, f"viewer.tumor === 'kidney/{rows[-2]['number']}'")


def test_outlines_lie_around_the_masks(viewer: Viewer) -> None:
    """The chosen tumor is yellow, a cyst blue, at the voxels of the instance map."""
    for color, low, high in ((YELLOW, (6, 6), (14, 14)), (BLUE, (20, 8), (24, 12))):
        centre, size = viewer.box(color)
        wanted_centre, wanted_size = expected_box(viewer, low, high)
        assert np.abs(centre - wanted_centre).max() <= 3, color
        assert np.abs(size - wanted_size).max() <= 4, color
    viewer.page.keyboard.press("o")
    assert viewer.box(YELLOW) is None and viewer.box(BLUE) is None
    viewer.page.click("#outlines")
    assert viewer.box(YELLOW) is not None
    # The cyst is chosen: the colours change places.
    viewer.to(f"{KIDNEY}/kidney/4")
    assert viewer.box(BLUE) is None
    assert np.abs(viewer.box(YELLOW)[0] - expected_box(viewer, (20, 8), (24, 12))[0]).max() <= 3
    assert np.abs(viewer.box(ORANGE)[0] - expected_box(viewer, (6, 6), (14, 14))[0]).max() <= 3


def test_each_mask_can_be_shown_and_hidden(viewer: Viewer) -> None:
    """Organs are drawn in the colour beside their name; tumors go when they are not wanted."""
    page = viewer.page
    assert viewer.get("shown") == ["instances/kidney"]
    boxes = page.locator("#masks input")
    names = boxes.evaluate_all("all => all.map(box => box.value)")
    assert names == ["combined_labels"] + [
        f"segmentations/{name}" for name in ("kidney", "kidney_left", "liver", "spleen", "uterus")
    ]
    sign = page.locator("#masks label", has_text="liver").locator("i")
    text = sign.evaluate("sign => getComputedStyle(sign).borderTopColor")
    color = tuple(int(part) for part in text.strip("rgb()").split(","))
    assert viewer.box(color) is None
    page.check("input[value='segmentations/liver']")
    viewer.ready()
    wanted = expected_box(viewer, (4, 4), (16, 28))
    for found, expected in zip(viewer.box(color), wanted, strict=True):
        assert np.abs(found - expected).max() <= 4
    page.uncheck("input[value='segmentations/liver']")
    viewer.ready()
    assert viewer.box(color) is None
    page.check("input[value='combined_labels']")
    viewer.ready()
    assert viewer.box(color) is not None and viewer.box(YELLOW) is not None
    page.uncheck("input[value='instances/kidney']")
    viewer.ready()
    assert viewer.box(YELLOW) is None


def test_buttons_and_keys_go_from_tumor_to_tumor_and_case_to_case(viewer: Viewer) -> None:
    """Next, previous, zoom and slices; a case without tumors tells what was looked for."""
    page = viewer.page
    page.click("#tumors button >> nth=1")
    viewer.browsing.until(page, "viewer.tumor === 'kidney/2'")
    page.keyboard.press("p")
    viewer.browsing.until(page, "viewer.tumor === 'kidney/1'")
    viewer.ready()
    before, size = viewer.get("crosshair_mm"), viewer.box(YELLOW)[1]
    page.keyboard.press("z")
    assert viewer.get("crosshair_mm") == before
    centre, larger = viewer.box(YELLOW)
    height, width = viewer.pixels().shape[:2]
    assert (larger > size).all() and np.abs(centre - [height / 2, width / 2]).max() < 12
    page.keyboard.press("z")
    page.keyboard.press("ArrowUp")
    assert np.subtract(viewer.get("crosshair_mm"), before) == pytest.approx([0, 0, 2.5], abs=1e-3)
    page.click("#previous")
    viewer.browsing.until(page, f"viewer.case_id === '{EMPTY}' && viewer.ready")
    assert "none found: colon, esophagus, kidney, liver" in page.inner_text("#empty")
    assert viewer.box(YELLOW) is None
    page.click("#next")
    viewer.browsing.until(page, f"viewer.case_id === '{KIDNEY}' && viewer.ready")
    assert viewer.get("tumor") == "kidney/1"


def test_windows_change_the_image(viewer: Viewer) -> None:
    """Level and width are those of the chosen name."""
    abdomen = viewer.pixels().mean()
    viewer.page.select_option("#window", label="bone 400/1800")
    assert viewer.pixels().mean() < abdomen - 5
    viewer.page.select_option("#window", label="abdomen 40/400")
    assert viewer.pixels().mean() == pytest.approx(abdomen, abs=0.1)


def test_a_target_without_images_shows_masks_alone(browsing: Browsing, labels_only: Served) -> None:
    """The page says so, and outlines lie where they lie with the image."""
    page = visit(browsing, labels_only.pages)
    assert page.inner_text("#summary") == "1 cases, 0 with their image; target labels_only"
    page.click("#rows tr:first-child a")
    viewer = Viewer(browsing, page)
    assert "holds no image of this case: its masks are shown alone" in page.inner_text("#message")
    assert page.inner_text("#hu") == "" and page.locator("#window").is_disabled()
    centre, size = viewer.box(YELLOW)
    wanted_centre, wanted_size = expected_box(viewer, (6, 6), (14, 14))
    assert np.abs(centre - wanted_centre).max() <= 3 and np.abs(size - wanted_size).max() <= 4
    # Nothing but lines: the rest is black.
    assert (viewer.pixels().max(axis=2) < 30).mean() > 0.9


def test_what_cannot_be_shown_is_told(browsing: Browsing, served: Served, tmp_path: Path) -> None:
    """No such case; a file that is missing or cut short; then a case that is whole."""
    folder = tmp_path / "copy"
    shutil.copytree(served.release, folder)
    (folder / f"ct/{LIVER}/ct.nii.gz").unlink()
    mask = folder / f"label/{KIDNEY}/instances/kidney.nii.gz"
    mask.write_bytes(mask.read_bytes()[:200])
    for copy in serve(folder):
        page = visit(browsing, f"{copy.pages}case.html#BDMAP_1/%E0%A4%A/1")
        viewer = Viewer(browsing, page)
        assert "No case of this release is named" in page.inner_text("#message")
        viewer.to(f"{LIVER}/liver/1")
        assert f"ct/{LIVER}/ct.nii.gz cannot be read (status 404)" in page.inner_text("#message")
        viewer.to(f"{KIDNEY}/kidney/1")
        told = page.inner_text("#message")
        assert f"label/{KIDNEY}/instances/kidney.nii.gz cannot be read" in told
        assert "python -m tumoratlas verify FOLDER" in told
        viewer.to(EMPTY)
        assert page.locator("#message").is_hidden()
    assert [problem for problem in browsing.problems if "404" not in problem] == []
    browsing.problems.clear()


def test_without_webgl_the_page_says_so(browsing: Browsing, served: Served) -> None:
    """The list of tumors stays."""
    address = f"{served.pages}case.html#{KIDNEY}/kidney/1"
    viewer = Viewer(browsing, visit(browsing, address, profile="plain", webgl=False))
    assert viewer.get("webgl") is False
    assert "WebGL 2 is missing" in viewer.page.inner_text("#message")
    assert viewer.page.locator("#tumors button").count() == 4


@pytest.mark.parametrize("name", ["", "case.html#" + KIDNEY + "/kidney/1"])
def test_pages_fit_a_phone(browsing: Browsing, served: Served, name: str) -> None:
    """Nothing is wider than the screen."""
    page = visit(browsing, served.pages + name)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    fits = "all => all.every(each => each.scrollWidth <= each.clientWidth)"
    assert page.locator(".scroll").evaluate_all(fits)


# ------------------------------------------------------------------------------ the server


def test_server_gives_files_as_they_are(served: Served) -> None:
    """Bytes, types and lengths; the start is the table."""
    for place, kind in (
        ("viewer/index.html", "text/html; charset=utf-8"),
        ("viewer/case.js", "text/javascript; charset=utf-8"),
        ("viewer/viewer.css", "text/css; charset=utf-8"),
        (f"ct/{LIVER}/ct.nii.gz", "application/gzip"),
        ("definitions.json", "application/json"),
        ("SHA256SUMS", "application/octet-stream"),
    ):
        answer = served.get(f"/{place}")
        body = answer.read()
        assert (answer.status, answer.headers["Content-Type"]) == (200, kind), place
        assert body == (served.release / place).read_bytes()
        # Unpacked on the way, the bytes would not be those of SHA256SUMS.
        assert "Content-Encoding" not in answer.headers
        assert served.get(f"/{place}", "HEAD").headers["Content-Length"] == str(len(body))
    assert served.get("/").headers["Location"] == "/viewer/"
    assert b"TumorAtlas" in served.get("/viewer/").read()


def test_server_gives_nothing_else(served: Served, tmp_path: Path) -> None:
    """No folder, nothing beside or behind the release, nothing to a foreign name."""
    (tmp_path / "secret.txt").write_text("secret")
    beside = served.release.parent / "secret.txt"
    beside.write_text("secret")
    link = served.release / "viewer/link.txt"
    link.symlink_to(tmp_path / "secret.txt")
    try:
        for path in (
            "/tables/", "/label/", "/../secret.txt", "/%2e%2e/secret.txt",
            "/viewer/..%2f..%2fsecret.txt", "//../secret.txt", "/viewer/link.txt", "/nothing",
            f"/{tmp_path}/secret.txt",
        ):  # fmt: skip
            answer = served.get(path)
            assert answer.status == 404 and b"secret" not in answer.read(), path
    finally:
        link.unlink()
        beside.unlink()
    for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1:1", ""):
        assert served.get("/viewer/", Host=host).status == 403, host
    assert served.get("/viewer/", Host=f"localhost:{served.port}").status == 200
    assert served.get("/viewer/index.html", "POST").status == 501


def test_server_refuses_what_it_cannot_serve(served: Served, tmp_path: Path) -> None:
    """A folder without pages, a port that is taken or none."""
    with pytest.raises(ReleaseError, match="NO_VIEWER.*viewer/index.html.*SHA256SUMS"):
        release_server(tmp_path, 0)
    with pytest.raises(MachineError, match=f"PORT.*{served.port}.*another program"):
        release_server(served.release, served.port)
    with pytest.raises(MachineError, match="PORT.*--port"):
        release_server(served.release, 70000)


def _heed_ctrl_c() -> None:
    """Undo what a test run in the background inherits: there Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_command_serves_until_it_is_ended(served: Served) -> None:
    """The command prints the address first; nothing else is printed while it serves."""
    command = [sys.executable, "-m", "tumoratlas", "view", str(served.release), "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=-1, stderr=-1, text=True, preexec_fn=_heed_ctrl_c
    ) as process:
        address = process.stdout.readline().split()[0]
        host, path = address.removeprefix("http://").split("/", 1)
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("GET", f"/{path}")
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        try:
            output, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (130, "", "")


def test_released_pages_are_in_the_sums(served: Served) -> None:
    """Every page is covered by the release's promise."""
    lines = (served.release / "SHA256SUMS").read_text().splitlines()
    sums = pd.Series({line[66:]: line[:64] for line in lines})
    listed = {place for place in sums.index if place.startswith("viewer/")}
    files = {f"viewer/{path.name}" for path in (served.release / "viewer").iterdir()}
    assert listed == files and "viewer/niivue.js" in files
