"""The files that other tools read: which cases they list, and what they promise."""

import fnmatch
import json
from dataclasses import replace
from itertools import chain
from typing import Any

import pyarrow as pa
import pytest
import yaml

from tests.conftest import ROOT
from tumoratlas.ingest.sources import read_source
from tumoratlas.release.facts import ReleaseFacts
from tumoratlas.release.layouts.croissant import context, croissant_files
from tumoratlas.release.layouts.huggingface import CARD, front_matter, huggingface_files
from tumoratlas.release.layouts.listed import listed_cases
from tumoratlas.release.layouts.monai import monai_files
from tumoratlas.release.layouts.nnunet import dataset_name, nnunet_files
from tumoratlas.release.tables import ORDER, released_schema
from tumoratlas.review.packets.labels import ORGANS

MASKS = ["colon", "esophagus", "kidney_left", "kidney_right", "liver", "pancreas", "uterus"]
ONE_KIDNEY = [name for name in MASKS if name != "kidney_right"]
# By case: organs whose tumors are known, masks, rows of `tumors`, places in iid, ood and fold.
CASES = {
    "all_known": (ORGANS, [], [], "train", "test", "fold_0"),
    "bounded": (("liver",), MASKS, [], "train", "train", "fold_1"),
    "one_kidney": (("liver",), ONE_KIDNEY, [], "train", "train", "fold_1"),
    "kidney_known": (("kidney",), ONE_KIDNEY, [], "validation", "train", "fold_1"),
    "unbounded": (("liver",), ["liver"], [], "train", "train", "fold_0"),
    "with_tumor": (
        ("liver",),
        ["liver"],
        [("tumor", "source")],
        "validation",
        "left_out",
        "fold_2",
    ),
    "with_cyst": (("kidney",), ["liver"], [("cyst", "source")], "train", "train", "fold_0"),
    "pooled": (("liver",), [], [("lesion", "pooled")], "train", "train", "fold_0"),
    "unknown": ((), MASKS, [], "train", "train", "fold_0"),
    "tested": (ORGANS, [], [("tumor", "model")], "test", "validation", "fold_0"),
    "reserved": (ORGANS, [], [("tumor", "source")], "reserved", "reserved", "reserved"),
}
LISTED = ["all_known", "bounded", "kidney_known", "reserved", "tested", "with_tumor"]


def facts(target: str = "internal", **changes: Any) -> ReleaseFacts:
    """Return the facts of a release of `CASES`, in no order."""
    files = ("combined_labels", "tumor_labels", "segmentations/liver", "instances/liver")
    places = [f"label/{case}/{name}.nii.gz" for case in CASES for name in files]
    if target != "labels_only":
        places += [f"ct/{case}/ct.nii.gz" for case in CASES]
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in ORDER}
    for case_id, (_, _, tumors, *splits) in CASES.items():
        for scheme, split in zip(("iid", "ood", "fold"), splits, strict=True):
            row = {"scheme": scheme, "case_id": case_id, "split": split, "group": case_id}
            tables["splits"].append(row)
        for number, (kind, origin) in enumerate(tumors, start=1):
            row = {"case_id": case_id, "organ": "liver", "number": number, "size_class": "tiny"}
            row |= {"lesion_kind": kind, "origin": origin, "is_fragment": False, "radius_mm": 3.0}
            tables["tumors"].append(row | {"is_early": True, "is_early_recist": True})
        tables["masks"].append({"case_id": case_id, "organ": "colon", "state": "unknown"})
    reviews = [("r02", "senior", "ITK-SNAP"), ("r01", "junior", "3D Slicer"), ("x", "source", "")]
    for reviewer, role, tool in reviews:
        tables["reviews"].append({"reviewer_id": reviewer, "role": role, "tool": tool})
    places += [f"tables/{name}.{suffix}" for name in ORDER for suffix in ("csv", "parquet")]
    places += ["class_map.json", "licences.csv", "counts/a.svg", "viewer/a.json"]
    return ReleaseFacts(
        version="2.0",
        target=target,
        cases=[
            {"case_id": case, "source": "lits", "slices": 9, "organs": list(o), "structures": s}
            for case, (o, s, *_) in CASES.items()
        ],
        tables=tables,
        sources=[read_source(ROOT / f"resources/sources/{name}.yaml") for name in ("word", "lits")],
        definitions={
            "connectivity": 26,
            "minimum_volume_mm3": 14,
            "size_edges_mm": [5, 10, 20],
            "early_diameter_mm": 20,
        },
        sums={place: f"{number:064x}" for number, place in enumerate(places)},
        resources=ROOT / "resources/release",
    )


def card(given: ReleaseFacts) -> str:
    """Return the data card of a release with its layouts."""
    written = {**nnunet_files(given), **monai_files(given)}
    sums = {**given.sums, **dict.fromkeys(written, "0" * 64)}
    return huggingface_files(replace(given, sums=sums))[CARD]


def test_a_case_is_listed_if_its_labels_say_something() -> None:
    """Some organ is known, and a tumor is there or masks bound what is not known."""
    assert listed_cases(facts()) == LISTED


def test_nnunet_has_the_cases_of_training_and_validation() -> None:
    """No case of a test set, and paths from the dataset's folder to the files of the release."""
    folder = f"layouts/nnunet/{dataset_name()}"
    files = nnunet_files(facts())
    description = json.loads(files[f"{folder}/dataset.json"])
    cases = ["all_known", "bounded", "kidney_known", "with_tumor"]
    assert list(description["dataset"]) == cases
    assert description["numTraining"] == 4
    assert description["dataset"]["bounded"] == {
        "images": ["../../../ct/bounded/ct.nii.gz"],
        "label": "../../../label/bounded/tumor_labels.nii.gz",
    }
    assert list(description["labels"].values()) == list(range(8))
    assert description["labels"]["background"] == 0 and description["labels"]["ignore"] == 7
    splits = json.loads(files[f"{folder}/splits_final.json"])
    assert [split["val"] for split in splits] == [
        ["all_known"],
        ["bounded", "kidney_known"],
        ["with_tumor"],
    ]
    assert all(sorted(split["train"] + split["val"]) == cases for split in splits)


def test_nnunet_has_a_dataset_for_each_organ_with_tumors() -> None:
    """It holds every case in which the organ is known, with the organ's own mask."""
    files = nnunet_files(facts())
    folders = {place.split("/")[2] for place in files}
    assert folders == {dataset_name(), dataset_name(621, "TumorAtlasLiver")}
    liver = json.loads(files["layouts/nnunet/Dataset621_TumorAtlasLiver/dataset.json"])
    assert list(liver["dataset"]) == [
        "all_known", "bounded", "one_kidney", "pooled", "unbounded", "with_tumor",
    ]  # fmt: skip
    assert liver["labels"] == {"background": 0, "liver_lesion": 1}
    assert liver["dataset"]["pooled"]["label"] == (
        "../../../label/pooled/segmentations/liver_lesion.nii.gz"
    )
    splits = json.loads(files["layouts/nnunet/Dataset621_TumorAtlasLiver/splits_final.json"])
    assert splits[2]["val"] == ["with_tumor"] and len(splits[2]["train"]) == 5


def test_nnunet_knows_the_reader() -> None:
    """The class that ``dataset.json`` names exists."""
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    text = nnunet_files(facts())[f"layouts/nnunet/{dataset_name()}/dataset.json"]
    reader = json.loads(text)["overwrite_image_reader_writer"]
    assert recursive_find_reader_writer_by_name(reader).__name__ == reader


def test_monai_lists_both_schemes() -> None:
    """``fold`` is for training only; sources left out and reserved cases are in no list."""
    lists = {name: json.loads(text) for name, text in monai_files(facts()).items()}
    iid, ood = lists["layouts/monai/datalist_iid.json"], lists["layouts/monai/datalist_ood.json"]

    def named(found: dict[str, Any], key: str) -> list[str]:
        return [row["case_id"] for row in found[key]]

    assert named(iid, "training") == ["all_known", "bounded"]
    assert named(iid, "validation") == ["kidney_known", "with_tumor"]
    assert named(iid, "test") == ["tested"]
    assert named(ood, "training") == ["bounded", "kidney_known"]
    assert named(ood, "validation") == ["tested"]
    assert named(ood, "test") == ["all_known"]
    assert (iid["numTraining"], iid["numValidation"], iid["numTest"]) == (2, 2, 1)
    assert [row["fold"] for row in iid["training"]] == [0, 1]
    assert all("fold" not in row for row in chain(iid["validation"], iid["test"]))
    assert iid["training"][0]["image"] == "../../ct/all_known/ct.nii.gz"
    assert iid["training"][0]["label"] == "../../label/all_known/tumor_labels.nii.gz"


def test_monai_has_no_empty_list() -> None:
    """Of an empty ``test`` MONAI would read the first entry."""
    given = facts()
    rows = [row for row in given.tables["splits"] if row["split"] != "test"]
    files = monai_files(replace(given, tables={**given.tables, "splits": rows}))
    iid = json.loads(files["layouts/monai/datalist_iid.json"])
    assert "test" not in iid and iid["numTest"] == 0


def test_without_scans_there_are_no_lists() -> None:
    """A release of labels says so on its card."""
    given = facts("labels_only")
    assert nnunet_files(given) == monai_files(given) == {}
    text = card(given)
    assert "no lists for nnU-Net and MONAI" in text and "nnUNet_raw" not in text
    assert "no lists for nnU-Net and MONAI" not in card(facts())
    assert "ct/CASE/ct.nii.gz" not in text and "ct/CASE/ct.nii.gz" in card(facts())


@pytest.mark.parametrize("target", ["internal", "labels_only", "full"])
def test_the_card_names_what_is_there(target: str) -> None:
    """Its head is YAML; each target is explained; every shown path of a layout is written."""
    given = facts(target)
    text = card(given)
    _, head, body = text.split("---\n", maxsplit=2)
    matter = yaml.safe_load(head)
    assert matter == front_matter(given)
    assert (matter["license"], matter["license_link"]) == ("other", "licences.csv")
    assert [c["config_name"] for c in matter["configs"]] == ["tumors", "masks", "reviews", "splits"]
    assert [c for c in matter["configs"] if c.get("default")] == [matter["configs"][0]]
    assert f"Target `{target}`" in body
    assert ("Do not publish" in body) == (target == "internal")
    assert "11 CT scans" in body and "| 7 | ignore |" in body
    assert body.index("| lits |") < body.index("| word |")


@pytest.mark.parametrize(
    ("cases", "size"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (10_135, "10K<n<100K"), (100_000, "100K<n<1M")],
)
def test_the_card_names_the_size(cases: int, size: str) -> None:
    """The categories of the Hub count scans."""
    given = replace(facts(), cases=[{"case_id": str(n)} for n in range(cases)])
    assert front_matter(given)["size_categories"] == [size]


def test_croissant_names_every_file_once() -> None:
    """Tables and documents with their hash, volumes in sets, drawings and pages in none."""
    given = facts()
    description = json.loads(croissant_files(given)["croissant.json"])
    objects = {d["@id"]: d for d in description["distribution"] if d["@type"] == "cr:FileObject"}
    assert set(objects) == {"class_map.json", "licences.csv"} | {
        f"tables/{name}.parquet" for name in ORDER
    }
    assert all(objects[place]["sha256"] == given.sums[place] for place in objects)
    sets = [d for d in description["distribution"] if d["@type"] == "cr:FileSet"]
    for place in given.sums:
        found = [s["@id"] for s in sets if fnmatch.fnmatch(place, s["includes"])]
        assert len(found) == place.endswith(".nii.gz"), (place, found)
    labels = json.loads(croissant_files(facts("labels_only"))["croissant.json"])
    kept = {d["@id"] for d in labels["distribution"]}
    assert {s["@id"] for s in sets} - kept == {"scans-files"}


def test_croissant_has_every_column() -> None:
    """Types and shapes of columns are those of the schemas; keys are columns."""
    description = json.loads(croissant_files(facts())["croissant.json"])
    assert [r["@id"] for r in description["recordSet"]] == list(ORDER)
    for record_set in description["recordSet"]:
        name, schema = record_set["@id"], released_schema(record_set["@id"])
        columns = {field["name"]: field for field in record_set["field"]}
        assert list(columns) == schema.names
        assert all(key["@id"].split("/")[1] in columns for key in record_set.get("key", []))
        for column, field in columns.items():
            assert field["source"]["fileObject"]["@id"] == f"tables/{name}.parquet"
            assert ("isArray" in field) == isinstance(
                schema.field(column).type, pa.ListType | pa.FixedSizeListType
            )
    (spacing,) = (
        field
        for record_set in description["recordSet"]
        for field in record_set["field"]
        if field["@id"] == "scans/spacing_mm"
    )
    assert (spacing["arrayShape"], spacing["dataType"]) == ("3", "cr:Float64")


def test_croissant_has_the_standard_context() -> None:
    """Every term of the library's own context of Croissant 1.1 has the same meaning."""
    from mlcroissant._src.core.context import Context, CroissantVersion
    from mlcroissant._src.core.rdf import make_context

    assert context() == make_context(Context(conforms_to=CroissantVersion.V_1_1))


def test_croissant_answers_the_rai_vocabulary() -> None:
    """The library knows each property; the numbers are the tables'."""
    from mlcroissant._src.core import constants

    known = {str(v) for k, v in vars(constants).items() if k.startswith("ML_COMMONS_RAI_")}
    description = json.loads(croissant_files(facts())["croissant.json"])
    rai = {k.removeprefix("rai:"): v for k, v in description.items() if k.startswith("rai:")}
    assert len(rai) >= 17
    assert {f"{constants.RAI}{key}" for key in rai} <= known
    assert rai["dataAnnotationPlatform"] == ["3D Slicer", "ITK-SNAP"]
    assert rai["annotationsPerItem"].startswith("2 decisions by 2 reviewers")
    assert f"0 of {len(CASES)} organs" in rai["dataCollectionMissingData"]


def test_order_changes_nothing() -> None:
    """Equal facts in another order give the same bytes."""
    given = facts()
    turned = replace(
        given,
        cases=given.cases[::-1],
        sources=given.sources[::-1],
        sums=dict(reversed(given.sums.items())),
        tables={name: rows[::-1] for name, rows in given.tables.items()},
    )
    for produce in (nnunet_files, monai_files, huggingface_files, croissant_files):
        assert produce(given) == produce(turned)
