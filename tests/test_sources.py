"""Descriptions of sources, and the listing of folders as they are downloaded."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from tumoratlas.core.errors import InputError
from tumoratlas.core.structures import structures
from tumoratlas.images.checks import CHECKS
from tumoratlas.ingest.listing import list_scans
from tumoratlas.ingest.pseudonyms import pseudonym
from tumoratlas.ingest.sources import ANSWERS, is_label_name, read_source
from tumoratlas.ingest.tree import FileTree, glob_regex

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    path.stem: read_source(path) for path in sorted((ROOT / "resources/sources").glob("*.yaml"))
}
TEST_ONLY = {"ircadb", "jhh", "kipa22", "panorama", "pants", "uls23"}
KEY = bytes(range(32))

# Scans per source, Table 6 of the paper (AbdomenAtlas 2.0, ICCV 2025).
TABLE_6 = {
    "chaos": 20, "btcv": 47, "pancreas_ct": 42, "ct_org": 140, "word": 120, "lits": 130,
    "amos22": 200, "kits23": 489, "abdomenct1k": 1000, "msd_ct": 945, "flare23": 4100,
    "rsna_atd23": 4711,
}  # fmt: skip

# Every defect that the survey of the sources names.
DEFECTS = {
    "chaos": "slice-order-is-filename-order png-stack-flipped-vs-nifti mr-mixed-in"
    " users-report-misaligned-masks",
    "btcv": "test-folder-name-varies zenodo-labels-cropped-fov",
    "pancreas_ct": "duplicates-25-70 label-image-axis-flip suspected-misregistration",
    "ct_org": "auto-lung-bone-labels orientation-varies",
    "word": "laterality-fragile",
    "lits": "identity-affine-28-47 mixed-orientation csv-off-by-one",
    "amos22": "mr-mixed-in id-500-600-ambiguous-meta damaged-unlabelled",
    "kits23": "slices-on-axis-0 zero-origin-no-qform non-square repeated-phase-slices"
    " label-error-15 missing-imaging-after-download cyst-tumor-duplicate-205"
    " phase-not-in-metadata dust-components",
    "abdomenct1k": "non-orthonormal-affine identity-spacing missing-spleen axis-order"
    " dropped-by-sat-ds",
    "msd_ct": "appledouble-files identity-affine-liver lung-63-not-64",
    "flare23": "partial-labels non-diagonal-affine relabelled-subset folder-name-variants"
    " axis-order",
    "rsna_atd23": "nifti-dicom-orientation-differ pixel-representation rle-lossless"
    " instance-number-offset one-or-two-series-per-patient slice-order-by-position",
    "abdomenatlas11": "per-file-affine-conflict mini-crop-keeps-affine mixed-orientation"
    " images-missing-5196-9262 empty-lesion-with-positive-metadata micro-lesions"
    " phase-metadata-wrong spacing-npz duplicates-inside unreviewed-masks class-maps-conflict",
    "private": "",
    "ircadb": "not-ood tumor-is-adrenal-in-7",
    "panorama": "values-7-8 no-official-mapping two-studies-of-a-patient",
    "kipa22": "hu-offset cropped-single-kidney",
    "uls23": "count-743-vs-750 monai-version slices-are-padding",
    "jhh": "",
    "pants": "ids-of-its-own",
}
# Told from memory or inferred, in the survey.
UNVERIFIED = {
    ("btcv", "zenodo-labels-cropped-fov"), ("ct_org", "orientation-varies"),
    ("abdomenct1k", "axis-order"), ("flare23", "axis-order"), ("msd_ct", "identity-affine-liver"),
    ("rsna_atd23", "slice-order-by-position"), ("abdomenatlas11", "duplicates-inside"),
}  # fmt: skip

_BTCV = (
    "spleen kidney_right kidney_left gall_bladder esophagus liver stomach aorta postcava"
    " portal_vein_and_splenic_vein pancreas adrenal_gland_right adrenal_gland_left"
)
_LIVER = "liver liver+liver_tumor"
_ZENODO = {
    "1": "spleen", "3": "kidney_left", "4": "gall_bladder", "5": "esophagus", "6": "liver",
    "7": "stomach", "11": "pancreas", "14": "duodenum",
}  # fmt: skip
_FLARE = (
    "liver kidney_right spleen pancreas aorta postcava adrenal_gland_right adrenal_gland_left"
    " gall_bladder esophagus stomach duodenum kidney_left pooled_tumor"
)
# Meaning of each label map of each source, in the order of layouts: names of value 1, 2, ...
MEANINGS: dict[str, list[str | dict[str, str]]] = {
    "chaos": [{"255": "liver"}],
    "btcv": [
        _BTCV,
        {k: v if v == "duodenum" else f"other_{v.removesuffix('_left')}"
         for k, v in _ZENODO.items()},
        _ZENODO,
    ],
    "pancreas_ct": ["pancreas", _ZENODO | {"11": "other_pancreas"}],
    "ct_org": ["liver bladder other_lung kidney other_bone other_brain"],
    "word": 2 * [
        "liver spleen kidney_left kidney_right stomach gall_bladder esophagus pancreas duodenum"
        " colon intestine other_adrenal_glands rectum bladder femur_left femur_right"
    ],
    "lits": [_LIVER],
    "amos22": [
        "spleen kidney_right kidney_left gall_bladder esophagus liver stomach aorta postcava"
        " pancreas adrenal_gland_right adrenal_gland_left duodenum bladder other_prostate_or_uterus"
    ],
    "kits23": ["kidney kidney+kidney_tumor kidney+kidney_cyst"],
    "abdomenct1k": ["liver kidney spleen pancreas"],
    "msd_ct": [
        _LIVER, "other_lung_tumor", "pancreas pancreas+pancreas_tumor",
        "hepatic_vessel liver_tumor", "spleen", "colon_tumor",
    ],
    "flare23": [_FLARE, _FLARE],
    "rsna_atd23": 2 * ["liver spleen kidney_left kidney_right other_bowel"],
    "abdomenatlas11": [{}],
    "private": [{}, {}],
    "ircadb": [
        {"liver": "liver", "livertumor.*": "liver+liver_tumor",
         "livercyst.*": "liver+liver_cyst", "tumor": "other_adrenal_tumor"}
    ],
    "panorama": [
        "pancreas+pancreas_tumor other_veins other_arteries pancreas other_pancreatic_duct"
        " other_common_bile_duct"
    ],
    "kipa22": ["other_renal_vein kidney other_renal_artery kidney+kidney_tumor"],
    "uls23": ["pooled_tumor"],
    "jhh": [{}],
    "pants": [],
}  # fmt: skip


# Descriptions


def test_the_sources_are_those_of_the_paper() -> None:
    """Twelve public ones, the parent release, the private scans and six test sets."""
    assert set(SOURCES) == set(TABLE_6) | {"abdomenatlas11", "private"} | TEST_ONLY
    assert {name for name, source in SOURCES.items() if source.role == "test_only"} == TEST_ONLY
    assert {name: SOURCES[name].expected.paper for name in TABLE_6} == TABLE_6
    assert sum(TABLE_6.values()) == 11_944
    assert SOURCES["private"].expected.paper == 233
    assert [name for name, source in SOURCES.items() if source.keeps_case_id] == ["abdomenatlas11"]
    assert {name for name, s in SOURCES.items() if s.licence == "internal"} == {"private", "jhh"}


@pytest.mark.parametrize("name", SOURCES)
def test_every_defect_has_an_answer(name: str) -> None:
    """None of the survey's is left out, none is answered by something that does not exist."""
    found = {defect.id: defect for defect in SOURCES[name].defects}
    assert set(found) == set(DEFECTS[name].split())
    assert len(found) == len(SOURCES[name].defects)
    for defect in found.values():
        assert defect.answer in CHECKS or defect.answer in ANSWERS
        assert defect.text
        assert defect.verified == ((name, defect.id) not in UNVERIFIED)


def test_answers_are_used_and_are_no_checks() -> None:
    """The list of answers holds no word that no defect needs."""
    used = {defect.answer for source in SOURCES.values() for defect in source.defects}
    assert used >= set(ANSWERS)
    assert not set(ANSWERS) & set(CHECKS)


@pytest.mark.parametrize("name", SOURCES)
def test_label_values_mean_what_the_survey_says(name: str) -> None:
    """Every value of every label map, in the order of the layouts."""
    labels = [label for layout in SOURCES[name].layouts for label in layout.labels]
    expected = []
    for meaning in MEANINGS[name]:
        if isinstance(meaning, str):
            meaning = {str(n): text for n, text in enumerate(meaning.split(), 1)}
        expected.append({value: text.split("+") for value, text in meaning.items()})
    assert [dict(label.values) for label in labels] == expected


def test_what_a_mask_does_not_say_is_marked() -> None:
    """Partial labels, odd headers and remembered values."""
    every = {(n, label) for n, s in SOURCES.items() for lay in s.layouts for label in (
        (lay.format, one.format, one.partial, one.header, one.verified) for one in lay.labels
    )}  # fmt: skip
    partial = Counter(name for name, (_, _, is_partial, _, _) in every if is_partial)
    assert set(partial) == {"btcv", "flare23", "pancreas_ct", "uls23"}
    assert {name for name, label in every if label[3] != "own"} == {"pancreas_ct"}
    assert {name for name, label in every if not label[4]} == {"pancreas_ct", "rsna_atd23"}
    assert {name for name, label in every if label[1] == "dicom_masks"} == {"ircadb"}
    zenodo = [label for label in SOURCES["btcv"].layouts[1].labels if label.licence]
    assert zenodo[0].licence == "CC BY 4.0"


def test_named_cases_are_those_of_the_survey() -> None:
    """Lists that are long enough to be mistyped."""
    lits, abdomen = SOURCES["lits"], SOURCES["abdomenct1k"]
    assert lits.false_spacing_cases == tuple(str(n) for n in range(28, 48))
    ids = {78, *range(273, 287), 462, *range(574, 579)} - {279}
    assert abdomen.false_spacing_cases == tuple(f"Case_{n:05d}" for n in sorted(ids))
    assert len(abdomen.false_spacing_cases) == 20
    sheared = next(d for d in abdomen.defects if d.id == "non-orthonormal-affine")
    assert len(set(sheared.cases)) == 30
    assert SOURCES["ct_org"].reserved_cases["CT-ORG test"] == tuple(str(n) for n in range(21))
    assert SOURCES["btcv"].reserved_cases["BTCV test"] == tuple(f"{n:04d}" for n in range(61, 81))
    assert SOURCES["kipa22"].repairs_of("0") == [{"name": "hu_offset", "add_hu": -1024}]
    assert SOURCES["kits23"].suspects_of("case_00015") == ["APPENDED_PHASE", "LABEL_ERROR"]
    assert SOURCES["kits23"].suspects_of("case_00016") == []


def test_every_named_case_can_be_listed() -> None:
    """A case in a list is written as the layouts write it."""
    images = {
        "lits": "volume-{}.nii", "amos22": "imagesTr/{}.nii.gz", "kits23": "{}/imaging.nii.gz",
        "abdomenct1k": "Images/{}_0000.nii.gz", "ct_org": "volume-{}.nii.gz",
        "btcv": "RawData/Testing/img/img{}.nii.gz", "pancreas_ct": "PANCREAS_{}/a/b/1.dcm",
        "ircadb": "{}/PATIENT_DICOM/image_0", "abdomenatlas11": "{}/ct.nii.gz",
    }  # fmt: skip
    for name, source in SOURCES.items():
        cases = {
            *source.false_spacing_cases,
            *(case for named in source.suspect_cases.values() for case in named.cases),
            *(case for named in source.reserved_cases.values() for case in named),
            *(case for defect in source.defects for case in defect.cases),
        }
        for case in cases:
            path = images[name].format(case)
            layouts = [one for one in source.layouts if re.fullmatch(glob_regex(one.images), path)]
            assert layouts[0].case.search(f"/{path}")["case"] == case


SMALL = {
    "id": "small", "name": "Small", "citation": "", "licence": "CC BY 4.0",
    "tumor_free_means": "unknown",
    "layouts": [
        {"format": "nifti", "images": "*.nii.gz", "case": r"/(?P<case>\w+)\.nii", "labels": [
            {"format": "nifti", "path": "labels/{case}.nii.gz", "values": {1: ["liver"]}},
        ]},
    ],
}  # fmt: skip


def small(folder: Path, **changes: Any) -> Path:
    """Write a small description; ``layout`` and ``label`` change its only ones."""
    raw = json.loads(json.dumps(SMALL))
    raw["layouts"][0]["labels"][0].update(changes.pop("label", {}))
    raw["layouts"][0].update(changes.pop("layout", {}))
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(raw | changes))
    return path


OFFSET = {"name": "hu_offset", "add_hu": -1024, "cases": "all", "verified": True, "evidence": "x"}
DEFECT = {"id": "x", "verified": True, "text": "x", "answer": "NOT_CT"}


def test_a_small_description_is_read(tmp_path: Path) -> None:
    """Defaults: in the pool, nothing reserved, own header."""
    truths = {"3": [0.7, 0.7, 1.6]}
    spacing = {"name": "spacing", "spacing_mm": truths, "verified": False, "evidence": "x"}
    path = small(tmp_path, repairs=[OFFSET | {"cases": ["1", "3"]}, spacing], defects=[DEFECT])
    source = read_source(path)
    assert (source.role, source.layouts[0].reserved) == ("pool", "")
    assert source.layouts[0].labels[0].path == ("labels/{case}.nii.gz",)
    assert source.repairs_of("1") == [{"name": "hu_offset", "add_hu": -1024}]
    assert source.repairs_of("3")[1] == {"name": "spacing", "spacing_mm": truths["3"]}
    assert source.repairs_of("2") == []
    assert source.reserved_as("1", source.layouts[0]) == ""
    test_only = read_source(small(tmp_path, role="test_only"))
    assert test_only.reserved_as("1", test_only.layouts[0]) == "Small"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"licens": "x"}, "unknown keys ['licens']"),
        ({"layout": {"modality": "CT"}}, "Layout: unknown keys ['modality']"),
        ({"label": {"paths": []}}, "LabelLayout: unknown keys ['paths']"),
        ({"label": {"values": {1: ["livr"]}}}, "no structure is named ['livr']"),
        ({"label": {"values": {1: ["other_Lung"]}}}, "no structure is named ['other_Lung']"),
        ({"label": {"format": "nrrd"}}, "labels.format is 'nrrd'"),
        ({"label": {"header": "none"}}, "labels.header is 'none'"),
        ({"label": {"format": "dicom_masks", "values": {"li(": ["liver"]}}}, "unterminated"),
        ({"layout": {"format": "zip"}}, "layouts.format is 'zip'"),
        ({"layout": {"case": r"(?P<case>\d+"}}, "unterminated"),
        ({"layout": {"case": r"\d+"}}, "no group `case`"),
        ({"layout": {"images": "{a,b.nii"}}, "braces"),
        ({"layout": {"images": "**.nii"}}, "does not stand for whole folders"),
        ({"label": {"path": "{folder}/{a,b.nii"}}, "braces"),
        ({"excluded": [{"pattern": "(", "code": "NOT_CT", "reason": ""}]}, "unterminated"),
        ({"excluded": [{"pattern": "x"}]}, "NameRule: missing keys ['code', 'reason']"),
        ({"companions": ["*"]}, "nothing to repeat"),
        ({"repairs": [OFFSET | {"name": "flip"}]}, "repairs.name is 'flip'"),
        ({"repairs": [OFFSET | {"spacing_mm": {"1": [1, 1, 1]}}]}, "has parameters"),
        ({"repairs": [{k: v for k, v in OFFSET.items() if k != "cases"}]}, "names no cases"),
        ({"defects": [DEFECT | {"answer": "prayer"}]}, "named 'prayer'"),
        ({"role": "pole"}, "role is 'pole'"),
        ({"tumor_free_means": "empty"}, "tumor_free_means is 'empty'"),
        ({"id": "other"}, "not the file's name"),
        ({"expected": {"papers": 3}}, "Expected: unknown keys"),
        ({"layouts": None}, ""),
    ],
)
def test_mistakes_in_a_description_are_told(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    """With the file's name and what is wrong."""
    path = small(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"^small\.yaml: .*{re.escape(told)}"):
        read_source(path)


def test_label_names() -> None:
    """Organs, tumors, cysts, pooled ones and what is outside the release."""
    organs = [row.name for row in structures().values() if row.kind == "organ"]
    for name in (*organs, "uterus_tumor", "kidney_cyst", "pooled_tumor", "other_renal_vein"):
        assert is_label_name(name)
    for name in ("liver_lesion", "lung_tumor", "other_", "tumor", "Liver"):
        assert not is_label_name(name)


# Files and globs


def test_globs_find_what_pathlib_finds(tmp_path: Path) -> None:
    """Stars, folders of any depth, in any folder; braces are the union of their parts."""
    names = ["a.nii", "x/a.nii", "x/y/a.nii", "x/y/b.nii.gz", "x/yz/a.nii", "z/x/.a.nii", "xy/b(1)"]
    touch(tmp_path, names)
    tree = FileTree.read(tmp_path)
    patterns = ["*", "a.nii", "**/a.nii", "x/*", "x/**/a.nii", "*/y/*", "**/y*/?.nii", "x/y/a.nii"]
    patterns += ["**/x/*a.nii", "*/*", "x/y/none", "none/a.nii", "xy/b(1)", "**/[a].nii"]
    for pattern in patterns:
        found = (p.relative_to(tmp_path).as_posix() for p in tmp_path.glob(pattern) if p.is_file())
        assert tree.find(pattern) == ([] if "[" in pattern else sorted(found))
    assert tree.find("**/{y,yz}/a.nii") == ["x/y/a.nii", "x/yz/a.nii"]
    assert tree.find("x/y/{a,b}.nii{,.gz}") == ["x/y/a.nii", "x/y/b.nii.gz"]
    assert FileTree.read(tmp_path / "none").files == {}


def test_a_folder_that_cannot_be_entered_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scans would be lost unseen."""
    touch(tmp_path, ["volume-1.nii", "locked/volume-2.nii"])
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="UNREADABLE.*locked"):
        list_scans(SOURCES["lits"], tmp_path)


def touch(folder: Path, names: list[str]) -> None:
    """Make empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


# Listing: the files of a download, then per scan its labels, and what is left out. A scan reads
# `id [patient] <reserved>: label files of each layout`.

_ORGANS = ("liver", "spleen")
TREES: dict[str, tuple[list[str], list[str], dict[str, str]]] = {
    "chaos": (
        [
            *(f"Train_Sets/CT/1/DICOM_anon/i{n:04d},0000b.dcm" for n in range(3)),
            *(f"Train_Sets/CT/1/Ground/liver_GT_{n:03d}.png" for n in range(3)),
            "Train_Sets/MR/1/T1DUAL/DICOM_anon/InPhase/IMG-0004-00002.dcm",
            "Train_Sets/MR/1/T2SPIR/Ground/IMG-0002-00001.png",
            "Test_Sets/CT/3/DICOM_anon/i0000,0000b.dcm",
            "Test_Sets/MR/4/T2SPIR/DICOM_anon/IMG-0001.dcm",
            "Train_Sets/CT/7/Ground/liver_GT_000.png",
        ],
        ["1: 3", "3 <CHAOS test>:"],
        {
            "Train_Sets/MR/1/T1DUAL/DICOM_anon/InPhase/IMG-0004-00002.dcm": "NOT_CT",
            "Train_Sets/MR/1/T2SPIR/Ground/IMG-0002-00001.png": "NOT_CT",
            "Test_Sets/MR/4/T2SPIR/DICOM_anon/IMG-0001.dcm": "NOT_CT",
            "Train_Sets/CT/7/Ground/liver_GT_000.png": "IMAGE_MISSING",
        },
    ),
    "btcv": (
        [
            "RawData/Training/img/img0001.nii.gz", "RawData/Training/label/label0001.nii.gz",
            "RawData/Training/img/img0002.nii.gz", "RawData/Training/label/label0002.nii.gz",
            "RawData/Training/label/label0003.nii.gz", "label_btcv_multiorgan/label0001.nii.gz",
            "RawData/Testing/img/img0061.nii.gz", "label_btcv_multiorgan/label0061.nii.gz",
            "Test/img/img0071.nii.gz",
        ],
        ["0001: 1 1", "0002: 1", "0061 <BTCV test>: 1", "0071 <BTCV test>:"],
        {"RawData/Training/label/label0003.nii.gz": "IMAGE_MISSING"},
    ),
    "pancreas_ct": (
        [
            "Pancreas-CT/PANCREAS_0001/11-24-2015-PANCREAS0001/Pancreas-18957/1-001.dcm",
            "Pancreas-CT/PANCREAS_0001/11-24-2015-PANCREAS0001/Pancreas-18957/1-002.dcm",
            "manifest/Pancreas-CT/PANCREAS_0007/a/b/000000.dcm",
            "TCIA_pancreas_labels-02-05-2017/label0001.nii.gz",
            "TCIA_pancreas_labels-02-05-2017/label0007.nii.gz",
            "TCIA_pancreas_labels-02-05-2017/label0025.nii.gz",
            "label_tciapancreasct_multiorgan/label_tcia_multiorgan/label0001.nii.gz",
        ],
        ["0001: 1 1", "0007: 1"],
        {"TCIA_pancreas_labels-02-05-2017/label0025.nii.gz": "IMAGE_MISSING"},
    ),
    "ct_org": (
        [
            "OrganSegmentations/volume-0.nii.gz", "OrganSegmentations/labels-0.nii.gz",
            "volumes/volume-21.nii.gz", "labels/labels-21.nii.gz", "volumes/volume-139.nii.gz",
            "labels/labels-22.nii.gz",
        ],
        ["0 <CT-ORG test>: 1", "139:", "21: 1"],
        {"labels/labels-22.nii.gz": "IMAGE_MISSING"},
    ),
    "word": (
        [
            "WORD-V0.1.0/imagesTr/word_0002.nii.gz", "WORD-V0.1.0/labelsTr/word_0002.nii.gz",
            "WORD-V0.1.0/imagesVal/word_0001.nii.gz", "WORD-V0.1.0/labelsVal/word_0001.nii.gz",
            "WORD-V0.1.0/imagesTs/word_0007.nii.gz", "WORD-V0.1.0/imagesTs/word_0008.nii.gz",
            "WORD_V0.1.0_labelsTs/labelsTs/word_0007.nii.gz", "WORD-V0.1.0/dataset.json",
        ],
        [
            "word_0001: 1", "word_0002: 1", "word_0007 <WORD test>: 1", "word_0008 <WORD test>:",
        ],
        {},
    ),
    "lits": (
        [
            "Training_Batch1/volume-0.nii", "Training_Batch1/segmentation-0.nii",
            "Training_Batch2/volume-28.nii", "Training_Batch2/segmentation-28.nii",
            "Training_Batch2/segmentation-130.nii", "LITS-Challenge-Test-Data/test-volume-0.nii",
            "Training_Batch1/._volume-0.nii", "Training_Batch1/Volume_9.nii",
        ],
        ["0: 1", "28: 1", "test-volume-0 <LiTS test>:"],
        {
            "Training_Batch2/segmentation-130.nii": "IMAGE_MISSING",
            "Training_Batch1/._volume-0.nii": "APPLE_DOUBLE",
            "Training_Batch1/Volume_9.nii": "NOT_UNDERSTOOD",
        },
    ),
    "amos22": (
        [
            *(f"amos22/{part}Tr/amos_{n}.nii.gz" for part in ("images", "labels")
              for n in ("0001", "0500", "0507", "0600")),
            "amos22/imagesTs/amos_0010.nii.gz", "amos22/imagesTs/amos_0541.nii.gz",
            "amos22/imagesVa/amos_0008.nii.gz", "amos22/labelsVa/amos_0008.nii.gz",
            "amos22/imagesVa/amos_0578.nii.gz", "amos22_unlabeled_ct_5000_5399/amos_5012.nii.gz",
        ],
        ["amos_0001: 1", "amos_0010 <AMOS22 test>:", "amos_0500: 1"],
        {
            **{f"amos22/{part}Tr/amos_{n}.nii.gz": "NOT_CT" for part in ("images", "labels")
               for n in ("0507", "0600")},
            "amos22/imagesTs/amos_0541.nii.gz": "NOT_CT",
            "amos22/imagesVa/amos_0008.nii.gz": "OUT_OF_SCOPE",
            "amos22/labelsVa/amos_0008.nii.gz": "OUT_OF_SCOPE",
            "amos22/imagesVa/amos_0578.nii.gz": "NOT_CT",
            "amos22_unlabeled_ct_5000_5399/amos_5012.nii.gz": "OUT_OF_SCOPE",
        },
    ),
    "kits23": (
        [
            "dataset/case_00000/imaging.nii.gz", "dataset/case_00000/segmentation.nii.gz",
            "dataset/case_00000/instances/kidney_instance-1_annotation-1.nii.gz",
            "dataset/case_00001/segmentation.nii.gz",
            "dataset/case_00001/instances/tumor_instance-1_annotation-1.nii.gz",
            "dataset/case_00588/imaging.nii.gz", "dataset/kits23.json",
        ],
        ["case_00000: 1", "case_00588:"],
        {"dataset/case_00001/segmentation.nii.gz": "IMAGE_MISSING"},
    ),
    "abdomenct1k": (
        [
            "AbdomenCT-1K-ImagePart1/Case_00001_0000.nii.gz", "Mask/Case_00001.nii.gz",
            "AbdomenCT-1K-ImagePart3/Case_01062_0000.nii.gz",
            "AbdomenCT-1K-ImagePart1/Case_00010_0000.nii.gz", "Mask/Case_00002.nii.gz",
            "TumorPseudo/Case_00001.nii.gz",
        ],
        ["Case_00001: 1", "Case_00010:", "Case_01062:"],
        {
            "Mask/Case_00002.nii.gz": "IMAGE_MISSING",
            "TumorPseudo/Case_00001.nii.gz": "NOT_UNDERSTOOD",
        },
    ),
    "msd_ct": (
        [
            *(f"Task03_Liver/{part}Tr/liver_28.nii.gz" for part in ("images", "labels")),
            "Task03_Liver/imagesTs/liver_132.nii.gz", "Task03_Liver/dataset.json",
            "Task03_Liver/imagesTr/._liver_28.nii.gz",
            *(f"Task06_Lung/{part}Tr/lung_001.nii.gz" for part in ("images", "labels")),
            *(f"Task07_Pancreas/{part}Tr/pancreas_001.nii.gz" for part in ("images", "labels")),
            *(f"Task08_HepaticVessel/{part}Tr/hepaticvessel_001.nii.gz"
              for part in ("images", "labels")),
            *(f"more/Task09_Spleen/{part}Tr/spleen_2.nii.gz" for part in ("images", "labels")),
            *(f"Task10_Colon/{part}Tr/colon_001.nii.gz" for part in ("images", "labels")),
            "Task10_Colon/labelsTr/colon_005.nii.gz", "Task10_Colon/imagesTs/colon_002.nii.gz",
            "Task02_Heart/imagesTr/la_007.nii.gz",
        ],
        [
            "colon_001: 1", "colon_002 <MSD test>:", "hepaticvessel_001: 1",
            "liver_132 <MSD test>:", "liver_28: 1", "lung_001: 1", "pancreas_001: 1",
            "spleen_2: 1",
        ],
        {
            "Task03_Liver/imagesTr/._liver_28.nii.gz": "APPLE_DOUBLE",
            "Task10_Colon/labelsTr/colon_005.nii.gz": "IMAGE_MISSING",
            "Task02_Heart/imagesTr/la_007.nii.gz": "NOT_CT",
        },
    ),
    "flare23": (
        [
            "imagesTr2200/FLARE23_0001_0000.nii.gz", "labelsTr2200/FLARE23_0001.nii.gz",
            "labelsTr2200/20230507-fix/FLARE23_0001.nii.gz",
            "imagesTr2200/FLARE23_0002_0000.nii.gz", "labelsTr2200/FLARE23_0002.nii.gz",
            "labelsTr2200/FLARE23_0003.nii.gz", "unlabelTr1800/FLARE23_2201.nii.gz",
            "unlabeledTr1800/FLARE23_2202_0000.nii.gz",
            "validation/FLARE23Ts_0001_0000.nii.gz",
            "val-gt-50cases-for-sanity-check/FLARE23Ts_0001.nii.gz",
        ],
        [
            "FLARE23Ts_0001 <FLARE23 validation>: 1", "FLARE23_0001: 1", "FLARE23_0002: 1",
            "FLARE23_2201:", "FLARE23_2202:",
        ],
        {"labelsTr2200/FLARE23_0003.nii.gz": "IMAGE_MISSING"},
    ),
    "rsna_atd23": (
        [
            *(f"train_images/10004/21057/{n}.dcm" for n in range(3)),
            "train_images/10004/51033/1000.dcm", "segmentations/21057.nii",
            "segmentations/99.nii", "train_images/10005/18667.nii.gz",
            "test_images/48843/62825/30.dcm", "train.csv", "train_dicom_tags.parquet",
        ],
        [
            "18667 [10005]:", "21057 [10004]: 1", "51033 [10004]:",
            "62825 [48843] <RSNA 2023 test>:",
        ],
        {"segmentations/99.nii": "IMAGE_MISSING"},
    ),
    "abdomenatlas11": (
        [
            "BDMAP_00000001/ct.nii.gz", "BDMAP_00000001/combined_labels.nii.gz",
            *(f"BDMAP_00000001/segmentations/{organ}.nii.gz" for organ in _ORGANS),
            "BDMAP_00000001/segmentations/_liver_lesion.nii.gz",
            *(f"BDMAP_00005196/segmentations/{organ}.nii.gz" for organ in _ORGANS),
            "BDMAP_00005196/combined_labels.nii.gz",
            "AbdomenAtlas2.0/ct/BDMAP_A0000002/ct.nii.gz",
            *(f"AbdomenAtlas2.0/label/BDMAP_A0000002/segmentations/{o}.nii.gz" for o in _ORGANS),
            "AbdomenAtlas2.0/label/BDMAP_00000003/segmentations/liver.nii.gz",
        ],
        ["BDMAP_00000001: 2", "BDMAP_A0000002: 2"],
        {
            "BDMAP_00000001/segmentations/_liver_lesion.nii.gz": "UNREVIEWED_MASK",
            "BDMAP_00005196/segmentations/liver.nii.gz": "IMAGE_MISSING",
            "AbdomenAtlas2.0/label/BDMAP_00000003/segmentations/liver.nii.gz": "IMAGE_MISSING",
        },
    ),
    "ircadb": (
        [
            *(f"3Dircadb1.1/PATIENT_DICOM/image_{n}" for n in range(3)),
            *(f"3Dircadb1.1/MASKS_DICOM/{organ}/image_{n}" for n in range(3)
              for organ in ("liver", "livertumor01", "livertumor02", "livercyst", "bone")),
            "3Dircadb1.7/PATIENT_DICOM/PATIENT_DICOM/image_0",
            *(f"3Dircadb1.7/MASKS_DICOM/MASKS_DICOM/{organ}/image_0"
              for organ in ("liver", "tumor", "leftkidney")),
            "3Dircadb1.9/MASKS_DICOM/livertumors/image_0", "3Dircadb1.1/MESHES_VTK/liver.vtk",
        ],
        ["3Dircadb1.1 <3D-IRCADb>: 12", "3Dircadb1.7 <3D-IRCADb>: 2"],
        {"3Dircadb1.9/MASKS_DICOM/livertumors/image_0": "IMAGE_MISSING"},
    ),
    "panorama": (
        [
            "batch_1/100001_00001_0000.nii.gz", "batch_2/100001_00002_0000.nii.gz",
            "panorama_labels/automatic_labels/100001_00001.nii.gz",
            "panorama_labels/manual_labels/100001_00001.nii.gz",
            "panorama_labels/automatic_labels/100001_00002.nii.gz",
            "panorama_labels/manual_labels/100403_00001.nii.gz",
        ],
        [
            "100001_00001 [100001] <PANORAMA>: 1", "100001_00002 [100001] <PANORAMA>: 1",
        ],
        {"panorama_labels/manual_labels/100403_00001.nii.gz": "IMAGE_MISSING"},
    ),
    "kipa22": (
        ["train/image/0.nii.gz", "train/label/0.nii.gz", "open_test/image/70.nii.gz"],
        ["0 <KiPA22>: 1", "70 <KiPA22>:"],
        {},
    ),
    "uls23": (
        [
            "ULS23/novel_data/ULS23_DeepLesion3D/images/000001_01_01_187_lesion_01.nii.gz",
            "annotations/ULS23/novel_data/ULS23_DeepLesion3D/labels/"
            "000001_01_01_187_lesion_01.nii.gz",
            "ULS23/novel_data/ULS23_Radboudumc_Pancreas/images/100001_lesion_01.nii.gz",
            "ULS23/novel_data/ULS23_Radboudumc_Bone/images/100002_lesion_01.nii.gz",
            "ULS23/processed_data/fully_annotated/LiTS/images/LiTS_1_lesion_01.nii.gz",
        ],
        ["000001_01_01_187_lesion_01 <ULS23>: 1", "100001_lesion_01 <ULS23>:"],
        {
            "ULS23/novel_data/ULS23_Radboudumc_Bone/images/100002_lesion_01.nii.gz":
                "OUT_OF_SCOPE",
            "ULS23/processed_data/fully_annotated/LiTS/images/LiTS_1_lesion_01.nii.gz":
                "OUT_OF_SCOPE",
        },
    ),
    "pants": (
        [
            "data/ImageTe/PanTS_00009001/ct.nii.gz", "data/ImageTr/PanTS_00000001/ct.nii.gz",
            "data/LabelTe/PanTS_00009001/segmentations/liver.nii.gz", "metadata.xlsx",
        ],
        ["PanTS_00009001 <PanTS test>:"],
        {"data/ImageTr/PanTS_00000001/ct.nii.gz": "OUT_OF_SCOPE"},
    ),
}  # fmt: skip


def shown(scan: dict[str, Any]) -> str:
    """Return a scan as the trees above write it."""
    case, source = scan["source_case"], scan["source"]
    patient = scan["patient_key"].removeprefix(f"{source}/")
    text = case if patient == case else f"{case} [{patient}]"
    text += f" <{scan['reserved']}>" if scan["reserved"] else ""
    counts = " ".join(str(len(label["paths"])) for label in scan["labels"])
    return f"{text}: {counts}".rstrip()


@pytest.mark.parametrize("name", TREES)
def test_a_download_is_listed(name: str, tmp_path: Path) -> None:
    """Scans with patients, test sets and labels; every file left out, by code."""
    files, scans, left_out = TREES[name]
    touch(tmp_path, files)
    source = SOURCES[name]
    listing = list_scans(source, tmp_path)
    assert sorted(shown(scan) for scan in listing["scans"]) == sorted(scans)
    codes = {row["id"].removeprefix(f"{name}/"): row["code"] for row in listing["excluded"]}
    assert codes == left_out
    assert len(codes) == len(listing["excluded"])
    for row in listing["excluded"]:
        assert list(row) == ["id", "rule", "code", "reason", "evidence", "remedy"]
        assert row["rule"] == "list_scans"
    for scan in listing["scans"]:
        paths = [path for label in scan["labels"] for path in label["paths"]]
        assert all(Path(path).is_file() for path in paths)
        assert Path(scan["image_path"]).is_dir() == (scan["format"] == "dicom")
        assert scan["role"] == source.role and scan["files"] == []
        assert scan["scan_id"] == f"{name}_{scan['source_case'].replace('.', '_')}"
        for label in scan["labels"]:
            assert label["licence"] in (source.licence, "CC BY 4.0", "CC BY-NC-SA 4.0")
    assert json.loads(json.dumps(listing)) == listing


def test_every_public_source_has_a_tree() -> None:
    """The two internal ones follow below."""
    assert set(TREES) == set(SOURCES) - {"private", "jhh"}


def listed(name: str, folder: Path, key: bytes | None = None) -> dict[str, dict[str, Any]]:
    """Return a source's scans by case."""
    return {s["source_case"]: s for s in list_scans(SOURCES[name], folder, key)["scans"]}


def test_the_newer_label_is_taken(tmp_path: Path) -> None:
    """FLARE's corrected files and PANORAMA's manual ones."""
    for name in ("flare23", "panorama"):
        touch(tmp_path / name, TREES[name][0])
    flare, panorama = (listed(name, tmp_path / name) for name in ("flare23", "panorama"))
    (label,) = flare["FLARE23_0001"]["labels"]
    assert label["paths"][0].endswith("labelsTr2200/20230507-fix/FLARE23_0001.nii.gz")
    assert label["partial"] and label["values"]["14"] == ["pooled_tumor"]
    (label,) = panorama["100001_00001"]["labels"]
    assert "manual_labels" in label["paths"][0]


def test_defects_of_cases_are_passed_on(tmp_path: Path) -> None:
    """False spacings, suspects, repairs and odd headers reach the reader."""
    for name in ("lits", "kipa22", "pancreas_ct", "amos22"):
        touch(tmp_path / name, TREES[name][0])
    lits, kipa, nih, amos = (
        listed(name, tmp_path / name) for name in ("lits", "kipa22", "pancreas_ct", "amos22")
    )
    assert {case for case, scan in lits.items() if scan["false_spacing"]} == {"28"}
    assert kipa["0"]["repairs"] == [{"name": "hu_offset", "add_hu": -1024}]
    assert lits["0"]["repairs"] == lits["0"]["suspects"] == []
    assert nih["0007"]["suspects"] == ["MISREGISTRATION"]
    assert [label["header"] for label in nih["0001"]["labels"]] == ["orientation"] * 2
    assert [label["licence"] for label in nih["0001"]["labels"]] == ["CC BY 3.0", "CC BY 4.0"]
    assert amos["amos_0500"]["suspects"] == ["MODALITY_UNCERTAIN"]


def test_only_described_structures_are_read(tmp_path: Path) -> None:
    """3D-IRCADb: liver, its tumors and cysts, not the bones."""
    touch(tmp_path, TREES["ircadb"][0])
    (label,) = listed("ircadb", tmp_path)["3Dircadb1.1"]["labels"]
    folders = {Path(path).parent.name for path in label["paths"]}
    assert folders == {"liver", "livertumor01", "livertumor02", "livercyst"}


def test_a_case_in_two_places_is_refused(tmp_path: Path) -> None:
    """Two files, two folders of a series, or two names that make one id."""
    series = ["PANCREAS_0001/a/1.dcm", "PANCREAS_0001/b/1.dcm"]
    both = ["train_images/1/2/3.dcm", "train_images/1/2.nii.gz"]
    for n, (name, files) in enumerate((("pancreas_ct", series), ("rsna_atd23", both))):
        touch(tmp_path / str(n), files)
        with pytest.raises(InputError, match="SCAN_ID_TWICE"):
            list_scans(SOURCES[name], tmp_path / str(n))
    lesions = [f"ULS23_a/images/x{sign}y_lesion_01.nii.gz" for sign in "+ "]
    touch(tmp_path / "2", lesions)
    with pytest.raises(InputError, match="SCAN_ID_TWICE"):
        list_scans(SOURCES["uls23"], tmp_path / "2")


def test_names_with_signs_of_globs(tmp_path: Path) -> None:
    """A case's name is never taken for a pattern."""
    names = ["a*", "ab", "{c", "d?", "[e]"]
    touch(tmp_path, [f"{n}/{f}" for n in names for f in ("ct.nii.gz", "masks/liver.nii.gz")])
    scans = list_scans(SOURCES["private"], tmp_path, KEY)["scans"]
    assert len(scans) == len(names)
    for scan in scans:
        folder = Path(scan["image_path"]).parent
        assert str(folder / "masks/liver.nii.gz") in scan["labels"][0]["paths"]


MANY = {
    "rsna_atd23": [f"train_images/{n}/{n + 1000}/{m}.dcm" for n in range(50) for m in range(3)],
    "abdomenct1k": [
        name.format(n) for n in range(50)
        for name in ("Mask/Case_{:05d}.nii.gz", "Images/Case_{:05d}_0000.nii.gz")
    ],
    "panorama": [
        name.format(n) for n in range(100000, 100050)
        for name in ("manual_labels/{}_00001.nii.gz", "batch_1/{}_00001_0000.nii.gz")
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", MANY)
def test_one_pass_over_the_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each folder is entered once and each file asked once, however many scans there are."""
    touch(tmp_path, MANY[name])
    counts = {"scandir": Counter(), "stat": Counter()}

    def counted(function: str) -> Callable[..., Any]:
        real, seen = getattr(os, function), counts[function]
        return lambda path, *rest, **more: (seen.update([str(path)]), real(path, *rest, **more))[1]

    for function in counts:
        monkeypatch.setattr(os, function, counted(function))
    scans = list_scans(SOURCES[name], tmp_path)["scans"]
    monkeypatch.undo()
    assert len(scans) == 50
    for seen in counts.values():
        assert seen and set(seen.values()) == {1}


# Internal sources

NAMES = ("DOE_JANE", "Mueller", "4711")


def private_tree(folder: Path) -> None:
    """Write two cases, one without an image, and files that fit nothing."""
    touch(folder, [
        "DOE_JANE/ct.nii.gz", "DOE_JANE/masks/liver.nii.gz", "Mueller/masks/liver.nii.gz",
        "Mueller/masks/spleen.nii.gz", "scans of 4711/export.nii", "DOE_JANE/._ct.nii.gz",
    ])  # fmt: skip
    (folder / "link to 4711").symlink_to(folder / "DOE_JANE", target_is_directory=True)


def test_names_of_internal_cases_stay_inside(tmp_path: Path) -> None:
    """Ids and rows hold pseudonyms; only paths to the files hold names."""
    private_tree(tmp_path / "in")
    listing = list_scans(SOURCES["private"], tmp_path / "in", KEY)
    (scan,) = listing["scans"]
    name = pseudonym(KEY, "DOE_JANE")
    assert scan["scan_id"] == f"private_{name}"
    assert scan["source_case"] == name
    assert scan["patient_key"] == f"private/{name}"
    rows = {row["id"]: row for row in listing["excluded"]}
    codes = Counter(row["code"] for row in rows.values())
    assert codes == dict.fromkeys(
        ("APPLE_DOUBLE", "IMAGE_MISSING", "NOT_UNDERSTOOD", "LINK_NOT_FOLLOWED"), 1
    )
    assert rows[f"private_{pseudonym(KEY, 'Mueller')}"]["code"] == "IMAGE_MISSING"
    outside = [{k: v for k, v in scan.items() if k not in ("image_path", "labels", "files")}]
    text = json.dumps([outside, listing["excluded"]])
    assert not [word for word in (*NAMES, str(tmp_path)) if word in text]
    other = list_scans(SOURCES["private"], tmp_path / "in", bytes(32))
    assert other["scans"][0]["scan_id"] != scan["scan_id"]


def test_an_internal_source_needs_a_key(tmp_path: Path) -> None:
    """With what to do; an empty folder is told first."""
    with pytest.raises(InputError, match="SOURCE_EMPTY"):
        list_scans(SOURCES["jhh"], tmp_path)
    touch(tmp_path, ["J0001/ct.nii.gz"])
    with pytest.raises(InputError, match="PSEUDONYM_KEY.*python -m tumoratlas key"):
        list_scans(SOURCES["jhh"], tmp_path)
    (scan,) = list_scans(SOURCES["jhh"], tmp_path, KEY)["scans"]
    assert scan["reserved"] == "JHH" and scan["role"] == "test_only"


def write_ct(folder: Path, number: int, modality: str = "CT") -> None:
    """Write five slices of a series with a number."""
    folder.mkdir(parents=True, exist_ok=True)
    series = f"1.2.3.{number}"
    for n in range(5):
        slice_ = Dataset()
        slice_.SOPClassUID = CTImageStorage
        slice_.SOPInstanceUID = f"{series}.{n}"
        slice_.PatientName, slice_.PatientID = "DOE^JANE", "4711"
        slice_.SeriesInstanceUID, slice_.SeriesNumber = series, number
        slice_.SeriesDescription, slice_.Modality = "DOE late", modality
        slice_.ImagePositionPatient = [0, 0, 2 * n]
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slice_.PixelSpacing, slice_.Rows, slice_.Columns = [1, 1], 8, 8
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
        slice_.PixelRepresentation, slice_.PixelData = 1, bytes(128)
        slice_.file_meta = FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.save_as(folder / f"{number}-{n}", enforce_file_format=True)


def test_series_of_one_folder_become_scans(tmp_path: Path) -> None:
    """Each with its files; masks must say whose they are, files that are no CT are told."""
    case = tmp_path / "DOE_JANE"
    write_ct(case / "ct", 2)
    write_ct(case / "ct/late", 3)
    (case / "ct/notes DOE").write_text("DOE")
    touch(tmp_path, ["DOE_JANE/masks/s3/liver.nii.gz", "DOE_JANE/masks/spleen.nii.gz"])
    listing = list_scans(SOURCES["private"], tmp_path, KEY)
    name = pseudonym(KEY, "DOE_JANE")
    second, third = listing["scans"]
    assert [s["scan_id"] for s in listing["scans"]] == [f"private_{name}_s2", f"private_{name}_s3"]
    assert {s["patient_key"] for s in listing["scans"]} == {f"private/{name}"}
    assert Path(second["image_path"]) == case / "ct" and second["files"][0] == "2-0"
    assert Path(third["image_path"]) / third["files"][0] == case / "ct/late/3-0"
    assert second["labels"] == []
    (label,) = third["labels"]
    assert label["paths"] == [str(case / "masks/s3/liver.nii.gz")]
    assert {row["code"] for row in listing["excluded"]} == {"OTHER_FILES", "LABEL_SERIES"}
    assert "DOE" not in json.dumps(listing["excluded"])


def test_a_single_series_needs_no_list_of_files(tmp_path: Path) -> None:
    """The folder tells them, at any depth, and masks need no name of a series."""
    write_ct(tmp_path / "a/ct", 1)
    write_ct(tmp_path / "b/ct/export/1", 1)
    touch(tmp_path, ["a/masks/liver.nii.gz", "b/masks/liver.nii.gz"])
    first, second = sorted(
        list_scans(SOURCES["private"], tmp_path, KEY)["scans"], key=lambda s: s["image_path"]
    )
    assert Path(first["image_path"]) == tmp_path / "a/ct"
    assert Path(second["image_path"]) == tmp_path / "b/ct/export/1"
    for scan in (first, second):
        assert scan["files"] == [] and scan["pattern"] == "*"
        assert scan["labels"][0]["paths"][0].endswith("masks/liver.nii.gz")
        assert scan["stamp"][0] == 6


def test_a_case_without_any_ct_is_told(tmp_path: Path) -> None:
    """A folder that holds only other series is a row, its masks have no image."""
    write_ct(tmp_path / "a/ct", 1)
    write_ct(tmp_path / "b/ct", 1, modality="MR")
    touch(tmp_path, ["b/masks/liver.nii.gz"])
    listing = list_scans(SOURCES["private"], tmp_path, KEY)
    assert len(listing["scans"]) == 1
    found = {row["id"]: row["code"] for row in listing["excluded"]}
    scan_id = f"private_{pseudonym(KEY, 'b')}"
    assert found == {scan_id: "IMAGE_MISSING", f"{scan_id}_s1": "NOT_CT_SERIES"}
