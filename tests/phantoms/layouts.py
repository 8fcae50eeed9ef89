"""All sources' folders as downloaded, and their truth beside them."""

from __future__ import annotations

from pathlib import Path

from tests.phantoms import atlas_sources, dicom_sources, nifti_sources
from tests.phantoms.anatomy import draw
from tests.phantoms.copies import stored
from tests.phantoms.expectations import View, write_expectations
from tests.phantoms.more_patients import FULL
from tests.phantoms.patients import MICRO
from tests.phantoms.private_source import private
from tests.phantoms.truth import write_truth

_WRITERS = {
    **atlas_sources.WRITERS, **dicom_sources.WRITERS, **nifti_sources.WRITERS, "private": private,
}  # fmt: skip


def write_phantoms(folder: Path, micro: bool = False, seed: int = 0) -> None:
    """Write all phantom sources below ``folder/sources`` and their truth below ``folder/truth``.

    Parameters
    ----------
    folder
        Made if absent; its files of an older run are overwritten.
    micro
        Only three tiny LiTS volumes and one duplicate of AbdomenAtlas 1.1.
    seed
        Other anatomies, noise and tumor places; sizes and layouts stay.
    """
    views, told = [], []
    phantoms = [draw(patient, seed) for patient in (MICRO if micro else FULL)]
    for phantom in phantoms:
        for scan in phantom.patient.scans:
            shown, box = stored(phantom, scan)
            views.append(View(scan, phantom, shown.grid, box))
            root = folder / "sources" / scan.source
            files = _WRITERS[scan.source](root, shown, scan)
            told += [(scan.source, file, report) for file, report in files]
    write_truth(folder / "truth", phantoms, views)
    write_expectations(folder / "truth", views, told)
