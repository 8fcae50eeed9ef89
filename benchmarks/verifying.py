"""Verifying a release, against the bare reading, inflating and hashing of its volumes."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from benchmarks.phantom import SPACING_MM, TUMORS, write_phantom
from benchmarks.timing import Timing, time_methods
from tumoratlas.core.files import sha256_file
from tumoratlas.core.structures import structure_bit, structures, tumor_structures
from tumoratlas.images.arrays import write_array
from tumoratlas.images.grid import Grid
from tumoratlas.images.nifti import write_nifti
from tumoratlas.measure.instances import label_instances, measure_instances
from tumoratlas.release.cases import write_case
from tumoratlas.release.verify.case import verify_case
from tumoratlas.release.verify.tumors import ReleasedCase

OURS = "tumoratlas: every check of a case's volumes"
FLOOR = "floor: read, inflate, SHA-256 of file and voxels"
_DEFINITIONS = {
    "target": "internal",
    "connectivity": 26,
    "size_edges_mm": [5, 10, 20],
    "early_diameter_mm": 20,
    "minimum_volume_mm3": 14,
}
_MEASURE = ("size_edges_mm", "early_diameter_mm", "minimum_volume_mm3")


def compare_verifying(folder: Path, shapes: list[tuple[int, int, int]], rounds: int) -> str:
    """Make a case of every (z, y, x) shape, time both ways and return their table."""
    cases = [
        _write_case(folder, f"BDMAP_{number:08}", shape, seed=number)
        for number, shape in enumerate(shapes, 1)
    ]
    files = [folder / place for case in cases for place in case.sums]

    def ours() -> list[str]:
        return [line for case in cases for line in verify_case(folder, case).problems]

    timings, results = time_methods({OURS: ours, FLOOR: lambda: _floor(files)}, rounds)
    if results[OURS]:
        raise ValueError(f"problems: {results[OURS][:3]}")
    megabytes, raw = sum(path.stat().st_size for path in files) / 1e6, results[FLOOR] / 1e6
    title = f"Verify {len(cases)} cases, {len(files)} files, {megabytes:.0f} MB, {raw:.0f} MB raw"
    return f"{_table(title, timings)}\n\nEvery promise of the cases holds."


def _table(title: str, timings: list[Timing]) -> str:
    floor = next(timing for timing in timings if timing.name == FLOOR)
    lines = [f"### {title}", "", "| method | CPU s | wall s | share of the floor's speed |",
             "|---|---:|---:|---:|"]  # fmt: skip
    for timing in timings:
        share = "1 (base)" if timing is floor else f"{floor.cpu_s / timing.cpu_s:.2f}"
        lines.append(f"| {timing.name} | {timing.cpu_s:.2f} | {timing.wall_s:.2f} | {share} |")
    return "\n".join(lines)


def _floor(files: list[Path]) -> int:
    """Hash every file and its voxels; return the number of bytes inflated."""
    total = 0
    for path in files:
        data = path.read_bytes()
        hashlib.sha256(data).hexdigest()
        raw = np.empty(int.from_bytes(data[-4:], "little"), np.uint8)
        imagecodecs.gzip_decode(data, out=raw)
        hashlib.sha256(raw[352:]).hexdigest()
        total += raw.size
    return total


def _write_case(
    folder: Path, case_id: str, shape: tuple[int, int, int], *, seed: int
) -> ReleasedCase:
    """Write a case with every organ structure, and tumors of four organs."""
    work = folder / "work" / case_id
    work.mkdir(parents=True)
    grid = Grid.of(shape, np.diag([*SPACING_MM, 1.0]))
    phantom = write_phantom(work, shape, tumors=20, seed=seed)
    write_nifti(work / "ct.nii.gz", phantom.hu, grid)
    organs = [row.name for row in structures().values() if row.kind == "organ"]
    write_array(work / "structures.b2nd", _planes(shape, organs, seed), grid=grid.to_json())
    masks, instances, tumors = [], {}, []
    for organ in tumor_structures():
        labels = label_instances(phantom.values == TUMORS.get(organ, 255))
        write_nifti(work / f"{organ}.nii.gz", labels, grid)
        state = "present" if labels.any() else "confirmed_empty"
        masks.append({"case_id": case_id, "organ": organ, "state": state, "released": True})
        measured = measure_instances(
            labels, phantom.hu, grid, **{key: _DEFINITIONS[key] for key in _MEASURE}
        )
        instances[organ] = {str(found.label): {"kind": "tumor"} for found in measured}
        tumors += [
            {**asdict(found), "number": found.label, "organ": organ, "lesion_kind": "tumor"}
            for found in measured
        ]
    row = write_case(
        folder / case_id,
        harmonized=work,
        merged=work,
        harmonized_row={"case_id": case_id, "source": "phantom", "grid": grid.to_json(),
                        "structures": dict.fromkeys(organs, {})},
        merged_row={"masks": masks, "instances": instances},
        connectivity=_DEFINITIONS["connectivity"],
    )  # fmt: skip
    return _released(folder, case_id, row["voxel_sha256"], masks, tumors)


def _released(
    folder: Path,
    case_id: str,
    voxels: dict[str, str],
    masks: list[dict[str, Any]],
    tumors: list[dict[str, Any]],
) -> ReleasedCase:
    """Move the files to their places in a release."""
    (folder / "ct" / case_id).mkdir(parents=True)
    (folder / "label").mkdir(exist_ok=True)
    (folder / case_id / "ct.nii.gz").rename(folder / f"ct/{case_id}/ct.nii.gz")
    (folder / case_id).rename(folder / "label" / case_id)
    places = {
        name: f"{'ct' if name == 'ct.nii.gz' else 'label'}/{case_id}/{name}" for name in voxels
    }
    return ReleasedCase(
        case_id,
        {place: sha256_file(folder / place) for place in places.values()},
        {places[name]: sha256 for name, sha256 in voxels.items()},
        masks,
        tumors,
        _DEFINITIONS,
        hides_tumors=False,
    )


def _planes(shape: tuple[int, int, int], organs: list[str], seed: int) -> NDArray[np.uint32]:
    """Return an ellipsoid for every organ, uint32 bit planes (z, y, x)."""
    rng = np.random.default_rng(seed)
    planes = np.zeros(shape, np.uint32)
    z, y, x = (np.linspace(0, 1, n, dtype=np.float32) for n in shape)
    for name in organs:
        center, half = rng.uniform(0.3, 0.7, 3), rng.uniform(0.04, 0.16, 3)
        parts = [((p - c) / h) ** 2 for p, c, h in zip((z, y, x), center, half, strict=True)]
        inside = parts[0][:, None, None] + parts[1][:, None] + parts[2] < 1
        planes[inside] |= np.uint32(structure_bit(name))
    return planes
