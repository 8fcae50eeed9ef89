"""What a licence keeps out of which target, file by file."""

import csv
import io
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.structures import RESOURCES
from tumoratlas.core.tables import SCHEMAS, read_rows_of, write_table
from tumoratlas.ingest.sources import Source, read_source
from tumoratlas.release.facts import ReleaseFacts
from tumoratlas.release.licences.decide import decide_case, licence_files
from tumoratlas.release.licences.policy import OURS, Policy, read_policy
from tumoratlas.release.licences.terms import (
    Permission,
    Terms,
    read_permissions,
    read_terms,
    terms_of,
)

TABLE = RESOURCES / "licences.csv"
TERMS = read_terms(TABLE)
SOURCES = {path.stem: read_source(path) for path in (RESOURCES / "sources").glob("*.yaml")}
OWN = "CC BY-NC-SA 4.0"
LIVER = "segmentations/liver.nii.gz"
TUMORS = "segmentations/liver_lesion.nii.gz"
NUMBERS = "instances/liver.nii.gz"
JOINED = ("combined_labels.nii.gz", "tumor_labels.nii.gz")
FREE = ("CC BY 3.0", "CC BY 4.0", "CC BY-SA 4.0", "CC BY-NC 4.0", "CC BY-NC-SA 4.0")
NOT_FREE = (
    "CC BY-NC-ND 4.0",
    "RSNA terms, not commercial, no redistribution",
    "GPL-3.0, research only",
    "challenge terms",
    "not stated",
    "a licence of next year",
)


def source(name: str, licence: str, *, verified: bool = True) -> Source:
    """Return a source with nothing but a licence."""
    return Source(name, name, f"cite{name}", licence, "unknown", (), licence_verified=verified)


def policy(*sources: Source, permissions: tuple[Permission, ...] = (), own: str = OWN) -> Policy:
    """Return a policy for these sources."""
    return Policy({one.id: one for one in sources}, TERMS, permissions, own)


def permission(covers: str, terms: str) -> Permission:
    """Return a permission for the source ``b``."""
    return Permission("b", covers, terms, "Doe Clinic", "2025-10-21", "letter 7")


def origin(name: str, licence: str) -> dict[str, Any]:
    """Return the origin of a mask as harmonize_case gives it."""
    return {"source": name, "licence": licence, "is_resampled": False}


def case(
    image: str = "a",
    *,
    liver: dict[str, Any] | None = None,
    tumors: dict[str, Any] | None = None,
    origins: tuple[str, ...] | None = None,
    pooled: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rows of a case.

    ``origins`` are those of its liver tumors; None means that their state is unknown.
    """
    harmonized = {
        "case_id": "BDMAP_90000001",
        "source": image,
        "structures": {"liver": liver} if liver else {},
        "pooled": pooled or {},
    }
    mask = {
        "organ": "liver",
        "state": "unknown" if origins is None else "present" if origins else "confirmed_empty",
        "source": tumors["source"] if tumors else "",
        "label_licence": tumors["licence"] if tumors else "",
    }
    instances = {
        str(n): {"kind": "tumor", "origin": one} for n, one in enumerate(origins or (), start=1)
    }
    merged = {
        "masks": [mask, {"organ": "colon", "state": "unknown", "source": "", "label_licence": ""}],
        "instances": {} if origins is None else {"liver": instances},
    }
    return harmonized, merged


def decided(rows: list[dict[str, Any]]) -> dict[str, tuple[bool, bool]]:
    """Return by file whether it is in labels_only and in full."""
    assert all(row["internal"] for row in rows)
    return {row["file"]: (row["labels_only"], row["full"]) for row in rows}


def one(pair: tuple[dict[str, Any], dict[str, Any]], rules: Policy) -> dict[str, dict[str, Any]]:
    """Return the rows of one case by file."""
    return {row["file"]: row for row in decide_case(*pair, rules)}


def test_every_licence_of_a_source_is_described() -> None:
    """At the level of the source and of its labels."""
    named = {one.licence for one in SOURCES.values()} | {
        label.licence
        for one in SOURCES.values()
        for layout in one.layouts
        for label in layout.labels
        if label.licence
    }
    assert named <= TERMS.keys()
    assert TERMS.keys() - named == set(), "a row that no source needs"


def test_the_table_says_what_the_licences_say() -> None:
    """The letters of a Creative Commons licence are its terms."""
    for name, terms in TERMS.items():
        if not name.startswith("CC "):
            assert terms.spdx == "" and terms.share != "yes"
            continue
        letters = name.split()[1].split("-")
        assert terms.spdx == name.replace(" ", "-")
        assert terms.share == "yes"
        assert (terms.share_altered == "no") == ("ND" in letters)
        assert (terms.non_commercial == "yes") == ("NC" in letters)
        assert (terms.share_alike == "yes") == ("SA" in letters)


@pytest.mark.parametrize(
    ("image", "label", "image_verified", "label_verified"),
    list(product((*FREE, *NOT_FREE), (*FREE, *NOT_FREE), (True, False), (True, False))),
)
def test_every_pair_of_licences(
    image: str, label: str, image_verified: bool, label_verified: bool
) -> None:
    """Full needs both free and seen; labels_only asks for the label's alone."""
    rules = policy(
        source("a", image, verified=image_verified), source("b", label, verified=label_verified)
    )
    mask = origin("b", label)
    pair = case(liver=mask, tumors=mask, origins=("source",), pooled=mask)
    found = decided(decide_case(*pair, rules))
    is_mask_free = label in FREE and label_verified
    is_full = is_mask_free and image in FREE and image_verified
    masks = (LIVER, TUMORS, NUMBERS, "instances/pooled.nii.gz", *JOINED)
    assert found == dict.fromkeys(masks, (is_mask_free, is_full)) | {"ct.nii.gz": (False, is_full)}


def test_an_edited_mask_of_a_no_derivatives_source_stays() -> None:
    """Neither edited nor as it was, whoever edited it; the image is free and ships with others."""
    rules = policy(source("a", "CC BY 4.0"), source("b", "CC BY-NC-ND 4.0"))
    nd, free = origin("b", "CC BY-NC-ND 4.0"), origin("a", "CC BY 4.0")
    for origins in (("source",), ("source", "edit"), ("edit",), ()):
        rows = one(case(liver=free, tumors=nd, origins=origins), rules)
        assert not rows[TUMORS]["labels_only"] and not rows[TUMORS]["full"]
        assert not rows[NUMBERS]["labels_only"] and not rows[NUMBERS]["full"]
        assert rows["ct.nii.gz"]["full"] and rows[LIVER]["full"] and rows[LIVER]["labels_only"]
        assert rows[JOINED[0]]["full"], "it is made of the liver alone"
        assert rows[TUMORS]["reasons"][0] == "b, CC BY-NC-ND 4.0: may not be shared altered"


def test_labels_that_travelled_keep_their_licence() -> None:
    """The image ships; of its masks those of the copy from elsewhere do not."""
    rules = policy(source("a", "CC BY-SA 4.0"), source("b", "CC BY-NC-ND 4.0"))
    harmonized, merged = case(liver=origin("b", "CC BY-NC-ND 4.0"))
    harmonized["structures"]["spleen"] = origin("a", "CC BY-SA 4.0")
    found = decided(decide_case(harmonized, merged, rules))
    assert found[LIVER] == (False, False)
    assert found["segmentations/spleen.nii.gz"] == (True, True)
    assert found["ct.nii.gz"] == (False, True)


def test_the_stricter_of_all_who_made_a_mask_counts() -> None:
    """Reviewers' tumors beside those of a source in doubt are held back with them."""
    rules = policy(source("a", "CC BY 4.0"), source("b", "not stated"))
    pair = case(tumors=origin("b", "not stated"), origins=("source", "add"))
    row = one(pair, rules)[TUMORS]
    assert (row["sources"], row["licences"]) == (["b", OURS], ["not stated", OWN])
    assert (row["labels_only"], row["full"]) == (False, False)
    doubt = "b, not stated: what it allows is in doubt"
    assert row["reasons"] == [doubt, f"{OURS}, {OWN}: our own"]


def test_reviewers_masks_are_ours_on_any_public_image() -> None:
    """On an image that may not be shared they are in labels_only."""
    for image in (*FREE, *NOT_FREE):
        for origins in (("accept",), ("add", "edit"), ()):
            row = one(case(origins=origins), policy(source("a", image)))[TUMORS]
            assert (row["sources"], row["licences"]) == ([OURS], [OWN])
            assert (row["labels_only"], row["full"]) == (True, image in FREE)


def test_what_is_added_to_a_share_alike_mask_goes_on_under_its_licence() -> None:
    """Two licences that each ask for themselves cannot both be met."""
    rules = policy(source("a", "CC BY-SA 4.0"))
    pair = case(tumors=origin("a", "CC BY-SA 4.0"), origins=("source", "add"))
    assert one(pair, rules)[TUMORS]["licences"] == ["CC BY-SA 4.0", "CC BY-SA 4.0"]


def test_internal_never_leaves() -> None:
    """Neither images nor masks, nobody's masks on them, and no labels from there elsewhere."""
    rules = policy(source("a", "internal"), source("b", "CC BY 4.0"))
    free, internal = origin("b", "CC BY 4.0"), origin("a", "internal")
    for pair in (
        case(liver=free, tumors=free, origins=("source",), pooled=free),
        case(liver=internal, tumors=internal, origins=("source",)),
        case(liver=free, origins=("accept",)),
    ):
        assert set(decided(decide_case(*pair, rules)).values()) == {(False, False)}
    found = decided(decide_case(*case("b", liver=internal, origins=("accept",)), rules))
    assert found[LIVER] == (False, False)
    assert found[TUMORS] == (True, True)
    rows = one(case("a", liver=free), rules)
    assert "a: the scan is internal" in rows[LIVER]["reasons"]


def test_our_own_masks_may_be_internal() -> None:
    """The configuration keeps them."""
    rules = policy(source("a", "CC BY 4.0"), own="internal")
    found = decided(decide_case(*case(origins=("accept",)), rules))
    assert set(found.values()) == {(False, False)}


def test_our_own_licence_has_to_be_described() -> None:
    """A name that nobody described shares nothing."""
    for own in ("CC BY-NC-SA", "not stated", ""):
        with pytest.raises(ReleaseError, match="OWN_LICENCE"):
            policy(source("a", "CC BY 4.0"), own=own)


@pytest.mark.parametrize(
    ("covers", "terms", "mask", "image"),
    [
        ("labels", "labels_only", (True, False), False),
        ("labels", "full", (True, True), False),
        ("image", "full", (False, False), True),
        ("both", "full", (True, True), True),
    ],
)
@pytest.mark.parametrize("licence", NOT_FREE)
def test_a_permission_opens_what_it_covers(
    licence: str, covers: str, terms: str, mask: tuple[bool, bool], image: bool
) -> None:
    """Masks on a free image, and free masks on the image; the reason names who gave it."""
    rules = policy(
        source("a", "CC BY 4.0"), source("b", licence), permissions=(permission(covers, terms),)
    )
    row = one(case("a", liver=origin("b", licence)), rules)[LIVER]
    assert (row["labels_only"], row["full"]) == mask
    told = f"but Doe Clinic permits {terms} (2025-10-21)"
    assert (told in row["reasons"][0]) == (True in mask)
    row = one(case("b", liver=origin("a", "CC BY 4.0")), rules)["ct.nii.gz"]
    assert (row["labels_only"], row["full"]) == (False, image)
    assert (told in row["reasons"][0]) == image


def test_the_wider_of_two_permissions_counts() -> None:
    """In whatever order they were recorded."""
    both = (permission("labels", "labels_only"), permission("labels", "full"))
    for order in (both, both[::-1]):
        rules = policy(source("a", "CC BY 4.0"), source("b", "not stated"), permissions=order)
        assert one(case(liver=origin("b", "not stated")), rules)[LIVER]["full"]


def test_a_label_with_a_licence_of_its_own_needs_no_look_at_the_images() -> None:
    """BTCV's images are behind a registration, later labels of them are CC BY 4.0."""
    rules = policy(source("a", "CC BY 4.0"), SOURCES["btcv"])
    found = one(case(liver=origin("btcv", "CC BY 4.0")), rules)[LIVER]
    assert found["labels_only"] and found["full"]
    assert not one(case(liver=origin("btcv", "not stated")), rules)[LIVER]["labels_only"]


def test_a_case_without_a_free_mask_is_not_in_a_target() -> None:
    """Neither are the files that join masks, and an image alone is no case."""
    rules = policy(source("a", "CC BY 4.0"), source("b", "not stated"))
    rows = one(case(liver=origin("b", "not stated")), rules)
    assert {(row["labels_only"], row["full"]) for row in rows.values()} == {(False, False)}
    assert rows["ct.nii.gz"]["reasons"][-1] == "no mask of the case may be in full"
    assert set(decided(decide_case(*case(), rules)).values()) == {(False, False)}


def test_cysts_follow_their_organs_tumors() -> None:
    """Three files that come or go together; without cysts there is no third."""
    rules = policy(source("a", "CC BY 4.0"))
    harmonized, merged = case(tumors=origin("a", "CC BY 4.0"), origins=("source", "source"))
    assert "segmentations/liver_cyst.nii.gz" not in one((harmonized, merged), rules)
    merged["instances"]["liver"]["2"]["kind"] = "cyst"
    rows = one((harmonized, merged), rules)
    assert rows["segmentations/liver_cyst.nii.gz"]["full"]
    keys = ("sources", "licences", "labels_only", "full", "reasons")
    cyst, tumor = rows["segmentations/liver_cyst.nii.gz"], rows[TUMORS]
    assert [cyst[key] for key in keys] == [tumor[key] for key in keys]


def test_the_rows_are_the_table(tmp_path: Path) -> None:
    """Every column, in the order of the files."""
    rules = policy(source("a", "CC BY 4.0"))
    rows = decide_case(*case(liver=origin("a", "CC BY 4.0"), origins=("accept",)), rules)
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    assert {row["case_id"] for row in rows} == {"BDMAP_90000001"}
    write_table(tmp_path / "licences.parquet", "licences", rows)
    assert read_rows_of(tmp_path / "licences.parquet") == rows
    assert set(SCHEMAS["licences"].names) == set(rows[0])
    assert pa.types.is_boolean(SCHEMAS["licences"].field("full").type)


PERMISSIONS = "source,covers,terms,holder,date,evidence\n"
GOOD = "lits,labels,labels_only,Doe Clinic,2025-10-21,letter 7\n"


def permissions_of(path: Path, text: str) -> list[Permission]:
    """Return the permissions of a CSV text."""
    path.write_text(text, encoding="utf-8")
    return read_permissions(path, sources=SOURCES, internal={"private", "jhh"})


def test_permissions_are_read(tmp_path: Path) -> None:
    """Also as a spreadsheet saves them: with a mark, spaces, blank lines and any column order."""
    path = tmp_path / "permissions.csv"
    text = (
        "\ufeffcovers,source,terms,holder,date,evidence\r\n"
        'both, flare23 ,full,"Doe, J.",2025-01-02,mail\r\n,,,,,\r\n'
    )
    assert permissions_of(path, text) == [
        Permission("flare23", "both", "full", "Doe, J.", "2025-01-02", "mail")
    ]
    assert len(permissions_of(path, PERMISSIONS + GOOD + GOOD)) == 2


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("lits,labels,labels_only,,2025-10-21,letter", "`holder` is empty"),
        ("lits,labels,labels_only,Doe,,letter", "`date` is empty"),
        ("lits,labels,labels_only,Doe,2025-10-21,", "`evidence` is empty"),
        ("lits,labels,labels_only,Doe,21.10.2025,letter", "`date` is '21.10.2025'"),
        ("lits,masks,labels_only,Doe,2025-10-21,letter", "`covers` is 'masks'"),
        ("lits,labels,all,Doe,2025-10-21,letter", "`terms` is 'all'"),
        ("lits,both,labels_only,Doe,2025-10-21,letter", "holds no images"),
        ("lits,image,labels_only,Doe,2025-10-21,letter", "holds no images"),
        ("litz,labels,full,Doe,2025-10-21,letter", "no source is called 'litz'"),
        ("private,both,full,Doe,2025-10-21,letter", "no permission releases"),
        ("lits,labels,full,Doe, John,2025-10-21,letter", "more cells than columns"),
    ],
)
def test_a_bad_permission_is_told_with_its_line(tmp_path: Path, row: str, told: str) -> None:
    """File, line, what is wrong and what to do."""
    path = tmp_path / "permissions.csv"
    with pytest.raises(ReleaseError) as caught:
        permissions_of(path, PERMISSIONS + GOOD + row + "\n")
    error = caught.value
    assert error.code == "PERMISSION"
    assert error.subject == f"{path}:3"
    assert told in error.reason
    assert error.remedy


def test_other_columns_are_refused(tmp_path: Path) -> None:
    """At the first line; and what is no text at all."""
    with pytest.raises(ReleaseError, match="columns"):
        permissions_of(tmp_path / "permissions.csv", "source,covers\nlits,both\n")
    (tmp_path / "p.csv").write_bytes(PERMISSIONS.encode() + b"\xff\xfe")
    with pytest.raises(ReleaseError, match="UTF-8"):
        read_permissions(tmp_path / "p.csv", sources=SOURCES, internal=())


@pytest.mark.parametrize(
    "row",
    [
        "CC BY 4.0,CC-BY-4.0,yes,yes,no,no,twice",
        "New,,maybe,yes,no,no,",
        ",,yes,yes,no,no,",
    ],
)
def test_a_bad_row_of_licences_is_told(tmp_path: Path, row: str) -> None:
    """An unknown answer, a licence twice, no licence."""
    path = tmp_path / "licences.csv"
    text = TABLE.read_text(encoding="utf-8")
    path.write_text(text + row + "\n", encoding="utf-8")
    with pytest.raises(ReleaseError, match=rf"licences\.csv:{text.count(chr(10)) + 1}"):
        read_terms(path)


def test_a_licence_without_a_row_is_in_doubt() -> None:
    """In every respect."""
    terms = terms_of("a licence of next year", TERMS)
    assert {terms.share, terms.share_altered, terms.non_commercial, terms.share_alike} == {"doubt"}
    assert isinstance(terms, Terms)


def test_the_policy_of_a_run(tmp_path: Path) -> None:
    """Read from the files that the rule names; permissions are optional."""
    paths = sorted((RESOURCES / "sources").glob("*.yaml"))
    given = {"sources": paths, "terms": TABLE, "annotation_licence": OWN}
    assert read_policy(**given, permissions=[]).permissions == []
    path = tmp_path / "permissions.csv"
    path.write_text(PERMISSIONS + GOOD, encoding="utf-8")
    rules = read_policy(**given, permissions=[path])
    assert rules.sources.keys() == SOURCES.keys()
    pair = case("msd_ct", tumors=origin("lits", "CC BY-NC-ND 4.0"), origins=("source",))
    assert decided(decide_case(*pair, rules))[TUMORS] == (True, False)
    path.write_text(PERMISSIONS + "jhh,both,full,Doe,2025-10-21,x\n", encoding="utf-8")
    with pytest.raises(ReleaseError, match="PERMISSION"):
        read_policy(**given, permissions=[path])


def test_the_matrix_counts_files_and_cases(tmp_path: Path) -> None:
    """Per source, kind and licence; joined files are not counted, ours are this dataset's."""
    described = [
        source("a", "CC BY 4.0"),
        replace(source("b", "CC BY-NC-ND 4.0", verified=False), licence_note="Told by a table."),
    ]
    rules = policy(*described)
    nd = origin("b", "CC BY-NC-ND 4.0")
    first = case(liver=nd, origins=("accept",))
    second = case("b", liver=nd, tumors=nd, origins=("source", "add"))
    second[0]["case_id"] = "BDMAP_90000002"
    rows = decide_case(*first, rules) + decide_case(*second, rules)
    facts = ReleaseFacts("2.0", "internal", [], {"licences": rows}, described, {}, {}, tmp_path)
    files = licence_files(facts)
    assert list(files) == ["licences.csv"]
    table = list(csv.DictReader(io.StringIO(files["licences.csv"])))
    keys = ("source", "kind", "files", "cases", "in_full", "in_labels_only", "is_verified")
    assert [tuple(row[key] for key in keys) for row in table] == [
        ("a", "image", "1", "1", "1", "0", "True"),
        ("b", "image", "1", "1", "0", "0", "False"),
        ("b", "label", "4", "2", "0", "0", "False"),
        (OURS, "label", "4", "2", "2", "2", "True"),
    ]
    assert [row["citation"] for row in table] == ["citea", "citeb", "citeb", "this dataset"]
    assert table[1]["note"].endswith("shared only as it is. Told by a table.")
    assert (table[1]["share"], table[1]["share_altered"]) == ("yes", "no")
    assert table[0]["spdx"] == "CC-BY-4.0"
    assert files == licence_files(replace(facts, tables={"licences": rows[::-1]}))
