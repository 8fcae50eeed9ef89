"""The lists that a release ships are read back, and every kind of leak in them is told."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_splits import OOD, OPTIONS, SOURCES, case
from tumoratlas.release.facts import ReleaseFacts
from tumoratlas.release.layouts.monai import monai_files
from tumoratlas.release.layouts.nnunet import nnunet_files
from tumoratlas.release.splits.emitted import emitted_problems
from tumoratlas.release.splits.schemes import split_cases
from tumoratlas.review.packets.labels import ORGANS

DATASET = "layouts/nnunet/Dataset620_TumorAtlas/dataset.json"
SPLITS = "layouts/nnunet/Dataset620_TumorAtlas/splits_final.json"
IID, OUTSIDE = (f"layouts/monai/datalist_{scheme}.json" for scheme in ("iid", "ood"))
CASES = [
    case(n, f"group {n // 2}", SOURCES[n // 2 % 4], reserved="LiTS test" if n in (6, 20) else "",
         sources=[OOD] if n == 8 else ())
    for n in range(40)
]  # fmt: skip
ROWS = split_cases(CASES, earlier=[], **OPTIONS).rows
IDS = [row["case_id"] for row in CASES]
TUMORS = [
    {"case_id": case_id, "organ": "liver", "lesion_kind": "tumor", "origin": "source"}
    for case_id in IDS
]
VOLUMES = ("ct/{}/ct", "label/{}/tumor_labels", "label/{}/segmentations/liver_lesion")
PLACES = {(row["scheme"], row["case_id"]): row["split"] for row in ROWS}


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a release with the lists that its producers make; its volumes hold nothing."""
    folder = tmp_path_factory.mktemp("release")
    files = dict.fromkeys([f"{name.format(c)}.nii.gz" for c in IDS for name in VOLUMES], "")
    facts = ReleaseFacts(
        version="2.0", target="internal", sources=[], definitions={}, resources=ROOT / "resources",
        cases=[{"case_id": c, "organs": ORGANS, "structures": []} for c in IDS],
        tables={"tumors": TUMORS, "splits": ROWS, "masks": [], "licences": []}, sums=files,
    )  # fmt: skip
    for place, text in [*files.items(), *nnunet_files(facts).items(),
                        *monai_files(facts).items()]:  # fmt: skip
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)
    return folder


def placed(scheme: str, split: str) -> str:
    """Return a case that stands in this place."""
    return next(c for c in IDS if PLACES[scheme, c] == split)


def entry(case_id: str) -> dict[str, object]:
    """Return a line of a datalist as it should be; of a reserved case there should be none."""
    fold = PLACES["fold", case_id]
    return {
        "case_id": case_id, "image": f"../../ct/{case_id}/ct.nii.gz",
        "label": f"../../label/{case_id}/tumor_labels.nii.gz",
        "fold": int(fold.removeprefix("fold_")) if "_" in fold else 0,
    }  # fmt: skip


def of_dataset(case_id: str) -> dict[str, object]:
    """Return an entry of nnU-Net's dataset as it should be."""
    row = entry(case_id)
    return {"images": [f"../{row['image']}"], "label": f"../{row['label']}"}


TEST, TRAIN, KEPT = placed("iid", "test"), placed("iid", "train"), placed("iid", "reserved")
GROUP = CASES[IDS.index(TRAIN)]["group"]
OTHER = next(c["case_id"] for c in CASES
             if PLACES["iid", c["case_id"]] == "train" and c["group"] != GROUP)  # fmt: skip
LEFT = placed("ood", "left_out")
OWN_FOLD = int(PLACES["fold", TRAIN].removeprefix("fold_"))


def test_what_the_producers_make_has_no_leak(emitted: Path) -> None:
    """All lists are there, and each reads as the splits say."""
    assert all((emitted / place).is_file() for place in (DATASET, SPLITS, IID, OUTSIDE))
    assert emitted_problems(emitted, ROWS, IDS) == []
    assert emitted_problems(emitted / "ct", ROWS, IDS) == []  # no layout, no problem


@pytest.mark.parametrize(
    ("place", "change", "told"),
    [
        (DATASET, lambda d: d["dataset"].update({TEST: of_dataset(TEST)}),
         f"{TEST} is listed, and test in the scheme iid"),
        (DATASET, lambda d: d["dataset"].update({KEPT: of_dataset(KEPT)}),
         f"{KEPT} is listed, and reserved in the scheme iid"),
        (DATASET, lambda d: d["dataset"].update(BDMAP_99999999=of_dataset(TRAIN)),
         "BDMAP_99999999 is not in the release"),
        (DATASET, lambda d: d["dataset"].update({TRAIN: of_dataset(TEST)}),
         f"{TRAIN} leads to ../../../ct/{TEST}/ct.nii.gz, not to ct/{TRAIN}/ct.nii.gz"),
        (DATASET, lambda d: d["labels"].update(ignore=3), f"{TRAIN} leads to"),
        (IID, lambda d: d["labels"].update({"1": "kidney_lesion", "3": "liver_lesion"}),
         "its labels are not those of tumor_labels.nii.gz"),
        (IID, lambda d: d.update(test=[row["image"] for row in d["training"]]),
         "holds something without a case in test"),
        (DATASET, lambda d: d["dataset"][TRAIN].update(label="../../../label/x.nii.gz"),
         f"{TRAIN} leads to ../../../label/x.nii.gz"),
        (DATASET, lambda d: d["dataset"][TRAIN].update(
            label=f"../../../label/{TRAIN}/none.nii.gz"),
         f"{TRAIN} leads to ../../../label/{TRAIN}/none.nii.gz, not to"),
        (DATASET, lambda d: d["dataset"][TRAIN].update(images=[f"/data/ct/{TRAIN}/ct.nii.gz"]),
         f"{TRAIN} leads to /data/ct/{TRAIN}/ct.nii.gz"),
        (DATASET, lambda d: d["dataset"].pop(TRAIN),
         f"fold 0: {TRAIN} is in dataset.json or here, and not in both"),
        (DATASET, lambda d: d.pop("dataset"), "cannot be read as a dataset of nnU-Net"),
        (SPLITS, lambda s: s[1]["train"].append(TEST),
         f"fold 1: {TEST} is listed, and test in the scheme iid"),
        (SPLITS, lambda s: s[1]["val"].append(s[1]["val"][0]), "stands there 2 times"),
        (SPLITS, lambda s: s[OWN_FOLD]["train"].append(TRAIN),
         f"fold {OWN_FOLD}: {TRAIN} stands there 2 times"),
        (SPLITS, lambda s: (s[OWN_FOLD]["val"].remove(TRAIN), s[OWN_FOLD]["train"].append(TRAIN)),
         f"fold {OWN_FOLD}: the group {GROUP} is in train and val"),
        (SPLITS, lambda s: (s[OWN_FOLD]["val"].remove(TRAIN), s[OWN_FOLD]["train"].append(TRAIN)),
         f"{SPLITS}: 0 folds validate on {TRAIN}"),
        (SPLITS, lambda s: s.append(s[OWN_FOLD]), f"{SPLITS}: 2 folds validate on {TRAIN}"),
        (SPLITS, lambda s: s[OWN_FOLD]["train"].pop(0), "and not in both"),
        (SPLITS, lambda s: s.insert(0, s.pop()),
         f"{TRAIN} is listed, and fold_{OWN_FOLD} in the scheme"),
        (SPLITS, lambda s: s[0].pop("val"), "cannot be read as splits of nnU-Net"),
        (IID, lambda d: d["training"].append(entry(TEST)),
         f"training: {TEST} is listed, and test in the scheme iid"),
        (IID, lambda d: d["training"].append(entry(TEST)), "is in test and training"),
        (IID, lambda d: d["validation"].append(entry(KEPT)),
         f"validation: {KEPT} is listed, and reserved in the scheme iid"),
        (IID, lambda d: d["test"].append(entry(TRAIN)),
         f"test: {TRAIN} is listed, and train in the scheme iid"),
        (IID, lambda d: d["training"].append(entry(TRAIN)), f"{TRAIN} stands there 2 times"),
        (IID, lambda d: d["training"][0].update(fold=9), "is in fold 9, and in the table fold_"),
        (IID, lambda d: d["training"].append(entry(OTHER) | {"case_id": TRAIN}),
         f"{TRAIN} leads to ../../ct/{OTHER}/ct.nii.gz"),
        (IID, lambda d: d.update(extra=[entry(TEST)]), "holds images in the unknown list extra"),
        (IID, lambda d: d["training"][0].pop("case_id"), "cannot be read as a datalist of MONAI"),
        (OUTSIDE, lambda d: d["training"].append(entry(LEFT)),
         f"training: {LEFT} is listed, and left_out in the scheme ood"),
        (OUTSIDE, lambda d: d["validation"].append(d["test"][0]),
         "is listed, and test in the scheme ood"),
    ],
)  # fmt: skip
def test_each_kind_of_leak_is_told(emitted, tmp_path, place, change, told) -> None:
    """A forged list says so in one line."""
    folder = Path(shutil.copytree(emitted, tmp_path / "copy"))
    value = json.loads((folder / place).read_text())
    change(value)
    (folder / place).write_text(json.dumps(value))
    problems = emitted_problems(folder, ROWS, IDS)
    assert any(told in line for line in problems), problems
    assert all(line.startswith("LEAK: layouts/") and "\n" not in line for line in problems)
    assert problems == sorted(set(problems))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[1]",
        '[{"train": [{}], "val": []}]',
        '{"training": [1]}',
        '{"a": "\udcff"}',
        "null",
    ],
)
@pytest.mark.parametrize("place", [DATASET, SPLITS, IID])
def test_a_list_that_cannot_be_read_is_told(emitted, tmp_path, place, text) -> None:
    """Whatever stands in a copy, the audit goes on."""
    folder = Path(shutil.copytree(emitted, tmp_path / "copy"))
    (folder / place).write_text(text, errors="surrogateescape")
    problems = emitted_problems(folder, ROWS, IDS)
    assert any(line.startswith(f"LEAK: {place}: cannot be read") for line in problems), problems


def test_a_list_of_no_scheme_and_half_a_layout_are_told(emitted, tmp_path) -> None:
    """What the table does not know proves nothing."""
    folder = Path(shutil.copytree(emitted, tmp_path / "copy"))
    (folder / IID).rename(folder / "layouts/monai/datalist_all.json")
    (folder / SPLITS).unlink()
    problems = emitted_problems(folder, ROWS, IDS)
    assert "LEAK: layouts/monai/datalist_all.json: belongs to no scheme of the splits" in problems
    assert f"LEAK: {SPLITS}: cannot be read as splits of nnU-Net" in problems


def test_a_case_that_is_gone_and_a_table_that_changed_are_told(emitted) -> None:
    """The lists are held against the release and its table, not against themselves."""
    gone = emitted_problems(emitted, ROWS, [c for c in IDS if c != TRAIN])
    assert {line.partition(": ")[2] for line in gone} >= {
        f"{IID} training: {TRAIN} is not in the release",
        f"{DATASET}: {TRAIN} is not in the release",
    }
    rows = [row | {"split": "reserved"} if row["case_id"] == TRAIN else row for row in ROWS]
    assert any(
        f"{TRAIN} is listed, and reserved" in x for x in emitted_problems(emitted, rows, IDS)
    )
