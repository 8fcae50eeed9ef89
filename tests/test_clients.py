"""The release in the hands of the tools that people use; each sees only its folder.

Tools that read settings or place caches when they are imported run in a process of their own,
without network.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT
from tests.micro import RELEASE

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="session", params=["small", "micro"])
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a release: of three small cases, and of the micro workflow."""
    if request.param == "micro":
        return request.getfixturevalue("micro_run") / RELEASE
    from tests.small_release import make_release

    folder = tmp_path_factory.mktemp("clients")
    (folder / "work").mkdir()
    return make_release(folder / "work", folder / "release")


def apart(check: Callable[[Path, Path], None], release: Path, work: Path) -> str:
    """Run a check of this module in a new process without network; return what it prints."""
    caches = {"HF_HOME": "hf", "CROISSANT_CACHE": "croissant", "nnUNet_preprocessed": "nnunet"}
    code = f"""
from pathlib import Path
from tests.test_clients import {check.__name__} as check
check(Path({str(release)!r}), Path({str(work)!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ
        | {name: str(work / folder) for name, folder in caches.items()}
        | {name: NOWHERE for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
        | {
            "HF_HUB_OFFLINE": "1",
            "nnUNet_raw": str(release / "layouts/nnunet"),
            "nnUNet_results": str(work / "results"),
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def files(release: Path) -> list[str]:
    """Return every file of a release."""
    return sorted(p.relative_to(release).as_posix() for p in release.rglob("*") if p.is_file())


def volumes(release: Path) -> Iterator[Path]:
    """Yield every NIfTI file of a release, at least one."""
    found = sorted(release.glob("*/**/*.nii.gz"))
    assert found
    yield from found


def check_nnunet(release: Path, work: Path) -> None:
    """nnU-Net's own verifier and fingerprint take the map of paths."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    folders = sorted((release / "layouts/nnunet").glob("Dataset*"))
    assert folders[0].name == "Dataset620_TumorAtlas" and len(folders) > 1
    for folder in folders:
        verify_dataset_integrity(str(folder), num_processes=1)
        cases = json.loads((folder / "dataset.json").read_text())["dataset"]
        splits = json.loads((folder / "splits_final.json").read_text())
        assert all(sorted(split["train"] + split["val"]) == list(cases) for split in splits)
        extractor = DatasetFingerprintExtractor(folder.name, 1)
        extractor.num_foreground_voxels_for_intensitystats = 1e5  # 1e8 take a gigabyte
        fingerprint = extractor.run()
        for case_id, spacing, shape in zip(
            cases, fingerprint["spacings"], fingerprint["shapes_after_crop"], strict=True
        ):
            image = nib.load(release / f"ct/{case_id}/ct.nii.gz")
            assert np.allclose(spacing, image.header.get_zooms()[::-1])
            # Noise has no zero border, and phantoms lie in air of -1000 HU: nothing is cropped.
            assert tuple(shape) == image.shape[::-1]
        statistics = fingerprint["foreground_intensity_properties_per_channel"][0]
        assert -1024 <= statistics["min"] < statistics["max"]
        assert (work / "nnunet" / folder.name / "dataset_fingerprint.json").is_file()


def test_nnunet_verifies_and_fingerprints_it(release: Path, tmp_path: Path) -> None:
    """Without an error, without a warning, and without a file in the release."""
    before = files(release)
    said = apart(check_nnunet, release, tmp_path)
    folders = list((release / "layouts/nnunet").iterdir())
    assert said.count("verify_dataset_integrity Done") == len(folders)
    assert "Warning" not in said and "Error" not in said
    assert files(release) == before


def test_monai_loads_every_list(release: Path) -> None:
    """Each list is read by MONAI's own function, and scan and labels lie on one grid."""
    from monai.data import load_decathlon_datalist
    from monai.transforms import LoadImaged

    load = LoadImaged(keys=("image", "label"))
    lists = sorted((release / "layouts/monai").glob("datalist_*.json"))
    assert lists
    seen = set()
    for path in lists:
        facts = json.loads(path.read_text())
        for key in ("training", "validation", "test"):
            if key not in facts:
                assert facts[f"num{key.capitalize()}"] == 0
                continue
            items = load_decathlon_datalist(path, data_list_key=key)
            assert len(items) == facts[f"num{key.capitalize()}"] > 0
            for item in items:
                if item["label"] in seen:
                    continue
                seen.add(item["label"])
                loaded = load(item)
                ct = nib.load(release / f"ct/{item['case_id']}/ct.nii.gz")
                assert np.array_equal(loaded["image"], ct.dataobj)
                for name in ("image", "label"):
                    # As they lie in the file, which is RAS+.
                    assert loaded[name].shape == ct.shape
                    assert np.allclose(loaded[name].affine, ct.affine)
                assert set(np.unique(loaded["label"])) <= {int(v) for v in facts["labels"]}
    assert seen


def check_datasets(release: Path, work: Path) -> None:
    """The card's configurations give the tables, and the volumes are a folder of NIfTI files."""
    from datasets import Dataset, Nifti, get_dataset_config_names, load_dataset

    tables = {path.stem: pq.read_table(path) for path in (release / "tables").glob("*.parquet")}
    filled = {name: table.to_pylist() for name, table in tables.items() if len(table)}
    assert set(get_dataset_config_names(str(release))) == set(filled) > {"masks", "splits"}
    for name, rows in filled.items():
        assert load_dataset(str(release), name, split="released").to_list() == rows
    assert load_dataset(str(release), split="released").column_names[0] == "tumor_id"
    labels = sorted(map(str, release.glob("label/*/tumor_labels.nii.gz")))
    pattern = f"{release}/label/*/tumor_labels.nii.gz"
    found = load_dataset("niftifolder", data_files=pattern, split="train", drop_labels=True)
    cast = Dataset.from_dict({"nifti": labels}).cast_column("nifti", Nifti())
    assert len(found) == len(cast) == len(labels) > 0
    for path, row, own in zip(labels, found, cast, strict=True):
        expected = nib.load(path)
        for image in (row["nifti"], own["nifti"]):
            assert np.array_equal(image.dataobj, expected.dataobj)
            assert np.array_equal(image.affine, expected.affine)


def test_datasets_reads_tables_and_volumes(release: Path, tmp_path: Path) -> None:
    """Through the card, offline, with every value of every table."""
    before = files(release)
    apart(check_datasets, release, tmp_path)
    assert files(release) == before


def check_croissant(release: Path, work: Path) -> None:
    """The description is valid, and its records are the rows of the tables."""
    import mlcroissant

    dataset = mlcroissant.Dataset(jsonld=str(release / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    print(sorted(issues.warnings))
    tables = sorted(path.stem for path in (release / "tables").glob("*.parquet"))
    assert sorted(record_set.id for record_set in dataset.metadata.record_sets) == tables
    for name in tables:
        expected = pq.read_table(release / f"tables/{name}.parquet").to_pylist()
        records = [_plain(record) for record in dataset.records(name)]
        assert records == [{f"{name}/{k}": v for k, v in row.items()} for row in expected], name


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(part) for part in value]
        return value.decode() if isinstance(value, bytes) else value

    return {key: plain(value) for key, value in record.items()}


def test_mlcroissant_validates_and_reads_it(release: Path, tmp_path: Path) -> None:
    """Every table comes out as it went in; what the publisher has to add is all that is missing."""
    said = apart(check_croissant, release, tmp_path)
    assert said.count("datePublished") == 1


def check_tampered(release: Path, work: Path) -> None:
    """A changed table is refused by its hash."""
    import mlcroissant

    dataset = mlcroissant.Dataset(jsonld=str(release / "croissant.json"))
    with pytest.raises(mlcroissant.GenerationError) as raised:
        list(dataset.records("masks"))
    assert "Hash of downloaded file" in str(raised.value.__cause__)


def test_mlcroissant_refuses_a_changed_table(release: Path, tmp_path: Path) -> None:
    """The hashes of the description are those of the files."""
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(release / "croissant.json", copy)
    shutil.copytree(release / "tables", copy / "tables")
    path = copy / "tables/masks.parquet"
    pd.read_parquet(path).iloc[:-1].to_parquet(path)
    apart(check_tampered, copy, tmp_path)


def test_simpleitk_and_nibabel_agree_on_every_volume(release: Path) -> None:
    """Size, spacing, origin, axes and voxels are the same for both, and of a case on one grid."""
    import SimpleITK as sitk

    grids = {}
    for path in volumes(release):
        ours, theirs = nib.load(path), sitk.ReadImage(str(path))
        assert ours.shape == theirs.GetSize()
        assert np.array_equal(np.asarray(ours.dataobj).T, sitk.GetArrayFromImage(theirs)), path
        axes = np.reshape(theirs.GetDirection(), (3, 3)) * theirs.GetSpacing()
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ours.affine
        assert np.allclose(axes, lps[:3, :3], atol=1e-5), path
        assert np.allclose(theirs.GetOrigin(), lps[:3, 3], atol=1e-3), path
        assert nib.aff2axcodes(ours.affine) == ("R", "A", "S")
        case_id = path.relative_to(release).parts[1]
        grid = grids.setdefault(case_id, (ours.shape, ours.affine.tolist()))
        assert grid == (ours.shape, ours.affine.tolist()), path
