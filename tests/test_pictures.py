"""The contact sheet: outlines where the tumors are, turned as a radiologist sees them."""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import ROOT
from tests.small_release import make_release
from tumoratlas.core.tables import read_rows_of, read_table, write_table
from tumoratlas.images.grid import Grid
from tumoratlas.measure.counts import headline_tumors
from tumoratlas.measure.pooled import UNASSIGNED
from tumoratlas.report.pictures import SIDE_PX, tumor_picture
from tumoratlas.report.tumors import SHOWN, choose_tumors, write_contact_sheet

TEMPLATE = ROOT / "resources/report/tumors.html.jinja"
YELLOW, BLUE = (255, 214, 64), (92, 200, 255)
# Pixels are higher than wide, so that a mistaken axis makes an egg of a ball.
GRID = Grid.of((20, 60, 90), np.diag([0.8, 1.6, 3.0, 1.0]))
CENTRE = (10, 30, 45)
FIELD_MM = 90.0


def ball(centre: tuple[int, int, int], radius_mm: float, grid: Grid = GRID) -> NDArray[np.bool_]:
    steps = np.moveaxis(np.indices(grid.shape), 0, -1) - centre
    return np.square(steps * grid.spacing_mm[::-1]).sum(axis=-1) <= radius_mm**2


def box_of(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    places = np.argwhere(mask)
    return (*map(int, places.min(axis=0)), *map(int, places.max(axis=0) + 1))


def picture(
    labels: NDArray[Any], number: int = 1, ct: NDArray[np.int16] | None = None, grid: Grid = GRID
) -> NDArray[np.int64]:
    """Return the picture of a label's tumor (row, column, RGB)."""
    ct = np.full(grid.shape, 40, np.int16) if ct is None else ct
    box = box_of(labels == number)
    png = tumor_picture(ct, labels.astype(np.uint16), number, box, grid)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def of(pixels: NDArray[np.int64], color: tuple[int, int, int]) -> NDArray[np.int64]:
    """Return rows and columns of a colour's pixels."""
    return np.argwhere((pixels == color).all(axis=2))


def test_outline_of_a_ball_is_round_and_in_the_middle() -> None:
    """A circle of the ball's radius, in millimetres of both axes, though voxels are no cubes."""
    pixels = picture(ball(CENTRE, 12.0))
    assert pixels.shape == (SIDE_PX, SIDE_PX, 3)
    line = of(pixels, YELLOW)
    mm = FIELD_MM / SIDE_PX
    distances = np.hypot(*(line - (SIDE_PX - 1) / 2).T) * mm
    # The line runs along the borders of voxels, the highest of which is 1.6 mm.
    assert 12.0 - 1.6 < distances.min() and distances.max() < 12.0 + 1.6
    height, width = (np.ptp(line, axis=0) + 1) * mm
    assert abs(height - width) < 2 * 1.6
    assert abs(line.mean(axis=0) - (SIDE_PX - 1) / 2).max() < 2


def test_right_is_on_the_left_and_anterior_is_up() -> None:
    """Others of the organ are blue, each on the side that a radiologist expects."""
    z, y, x = CENTRE
    own = ball(CENTRE, 6.0)
    for other, side in (
        ((z, y, x + 25), (0, -1)),  # 20 mm to the patient's right
        ((z, y, x - 25), (0, 1)),
        ((z, y + 13, x), (-1, 0)),  # 21 mm to anterior
        ((z, y - 13, x), (1, 0)),
    ):
        labels = own + 2 * ball(other, 6.0)
        away = of(picture(labels), BLUE).mean(axis=0) - (SIDE_PX - 1) / 2
        assert np.sign(np.round(away / 10)).tolist() == list(side), other
        assert np.abs(away).max() * FIELD_MM / SIDE_PX == pytest.approx(20.4, abs=1.5)


def test_the_slice_of_the_largest_area_is_shown() -> None:
    """Neither the first slice nor the middle one of a pear."""
    labels = ball((4, 30, 45), 12.0) | ball((10, 30, 45), 5.0)
    ct = np.broadcast_to(np.arange(20, dtype=np.int16)[:, None, None] * 10, GRID.shape).copy()
    pixels = picture(labels, ct=ct)
    gray = round((40 + 160) / 400 * 255)
    assert pixels[SIDE_PX // 2, SIDE_PX // 2].tolist() == [gray] * 3


def test_window_is_that_of_the_abdomen() -> None:
    """-160 HU and less is black, 240 and more is white, between them it is linear."""
    ct = np.full(GRID.shape, -160, np.int16)
    ct[:, :, 45:] = 40
    ct[:, :, 60:] = 240
    ct[:, :, 75:] = 3000
    # The patient's right, with the higher values, is on the left.
    row = picture(ball(CENTRE, 5.0), ct=ct)[SIDE_PX // 4]
    assert [row[column].tolist() for column in (32, 60, 90, 130)] == [
        [255] * 3, [255] * 3, [128] * 3, [0] * 3
    ]  # fmt: skip


def test_a_tumor_of_one_voxel_is_seen_inside_its_outline() -> None:
    """The line runs outside, so that the voxel keeps its gray."""
    labels = np.zeros(GRID.shape, bool)
    labels[CENTRE] = True
    pixels = picture(labels, ct=np.where(labels, 240, -160).astype(np.int16))
    assert len(of(pixels, (255, 255, 255))) >= 1
    assert len(of(pixels, YELLOW)) >= 4


@pytest.mark.parametrize("corner", [(0, 0, 0), (19, 59, 89), (0, 59, 0)])
def test_a_tumor_at_the_border_has_a_closed_outline(corner: tuple[int, int, int]) -> None:
    """What lies beyond the scan is black, the outline runs there too."""
    pixels = picture(ball(corner, 8.0))
    line = of(pixels, YELLOW)
    assert len(line) > 30
    inside = (pixels == pixels.max()).all(axis=2)
    assert not inside.any()
    outside = of(pixels, (0, 0, 0))
    # A corner: at least half of the field is not of the scan.
    assert len(outside) > SIDE_PX**2 / 2
    # Closed: what surrounds the middle has pixels on all four sides of it.
    middle = line.mean(axis=0)
    assert (line.min(axis=0) < middle - 5).all() and (line.max(axis=0) > middle + 5).all()


def test_a_large_tumor_fits_into_its_picture() -> None:
    """The field grows with it."""
    grid = Grid.of((8, 160, 160), np.diag([1.0, 1.0, 5.0, 1.0]))
    line = of(picture(ball((4, 80, 80), 70.0, grid), grid=grid), YELLOW)
    share = (np.ptp(line, axis=0) + 1) / SIDE_PX
    assert (share > 0.55).all() and (share < 0.65).all()


def rows_of(count: int, case_count: int) -> list[dict[str, Any]]:
    return [
        {"case_id": f"BDMAP_{n % case_count:08d}", "tumor_id": f"{n:016x}"} for n in range(count)
    ]


def test_choice_takes_different_cases_first() -> None:
    """A case with many tumors does not fill the row; few cases are used twice."""
    assert len({row["case_id"] for row in choose_tumors(rows_of(40, 4), 1)}) == SHOWN
    assert len(choose_tumors(rows_of(40, 2), 1)) == SHOWN
    assert len({row["case_id"] for row in choose_tumors(rows_of(40, 2), 1)}) == 2
    assert choose_tumors([], 1) == []


def test_choice_depends_on_the_seed_and_on_no_order() -> None:
    """The same tumors in another order give the same row."""
    rows = rows_of(40, 40)
    assert choose_tumors(rows, 1) == choose_tumors(rows[::-1], 1)
    assert len({tuple(row["tumor_id"] for row in choose_tumors(rows, s)) for s in range(5)}) > 1


def test_a_new_tumor_takes_at_most_one_place() -> None:
    """The others stay, in their order, when one comes or goes."""
    rows = rows_of(41, 41)
    for new in rows[::8]:
        before = choose_tumors([row for row in rows if row is not new], 1)
        after = choose_tumors(rows, 1)
        kept = [row for row in after if row is not new]
        assert kept == before[: len(kept)]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    return make_release(work, work / "release")


def test_sheet_shows_every_headline_tumor_of_a_small_release(release: Path, tmp_path: Path) -> None:
    """One picture with a caption each, equal bytes when it is written again."""
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    for page in pages:
        write_contact_sheet(page, release=release, seed=1, template=TEMPLATE)
    text = pages[0].read_text(encoding="utf-8")
    assert pages[0].read_bytes() == pages[1].read_bytes()
    shown = headline_tumors(read_table(release / "tables/tumors.parquet"))
    captions = re.findall(r"<figcaption><code>(.+?)</code><br>(\w+) (\d+), r ([\d.]+) mm", text)
    assert sorted((case, organ, int(number)) for case, organ, number, _ in captions) == sorted(
        zip(shown["case_id"], shown["organ"], shown["number"], strict=True)
    )
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)" alt="([^"]+)"', text)
    assert len(pictures) == len(shown) == 4
    for encoded, alternative in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(encoded)))
        assert len(of(np.asarray(image).astype(int), YELLOW)) > 4, alternative
    assert "http" not in text.replace("http-equiv", "")
    assert "No pictures" not in text


def test_sheet_shows_lesions_of_no_organ_where_there_are_any(release: Path, tmp_path: Path) -> None:
    """They stand last, drawn from the map of pooled lesions."""
    folder = shutil.copytree(release, tmp_path / "copy")
    rows = read_rows_of(folder / "tables/tumors.parquet")
    row = next(row for row in rows if row["organ"] == "liver" and row["number"] == 1)
    maps = folder / "label" / row["case_id"] / "instances"
    shutil.copyfile(maps / "liver.nii.gz", maps / "pooled.nii.gz")
    pooled = {"organ": UNASSIGNED, "lesion_kind": "lesion", "origin": "pooled"}
    write_table(folder / "tables/tumors.parquet", "tumors", [*rows, row | pooled])
    for page, place in (("a.html", release), ("b.html", folder)):
        write_contact_sheet(tmp_path / page, release=place, seed=1, template=TEMPLATE)
    before, after = ((tmp_path / page).read_text(encoding="utf-8") for page in ("a.html", "b.html"))
    assert UNASSIGNED not in before and after.count("<img") == before.count("<img") + 1
    caption = rf"<code>{row['case_id']}</code><br>pooled 1, r [\d.]+ mm"
    assert re.search(caption, after.split(UNASSIGNED)[-1])


def test_sheet_without_images_says_so(release: Path, tmp_path: Path) -> None:
    """Captions of all tumors stay, the reason is told, and no picture is broken."""
    folder = make_release(tmp_path, tmp_path / "labels", target="labels_only")
    assert not (folder / "ct").exists()
    write_contact_sheet(tmp_path / "a.html", release=folder, seed=1, template=TEMPLATE)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<img" not in text and "the target labels_only holds no image" in text
    tumors = headline_tumors(read_table(folder / "tables/tumors.parquet"))
    assert text.count("<figcaption>") == len(tumors) > 0
