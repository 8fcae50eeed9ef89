"""Croissant 1.1: what a release holds, for machines, with the fields of responsible AI."""

from typing import Any

import pyarrow as pa

from tumoratlas.release.facts import ReleaseFacts
from tumoratlas.release.layouts.listed import NAME, indented
from tumoratlas.release.layouts.responsible import responsible_fields
from tumoratlas.release.tables import ORDER, released_schema

CROISSANT = "croissant.json"
CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
_CITE = (
    "@inproceedings{chen2025scaling, title={Scaling Tumor Segmentation: Best Lessons from Real and "
    "Synthetic Data}, author={Chen, Qi and Zhou, Xinze and others and Zhou, Zongwei}, "
    "booktitle={International Conference on Computer Vision}, year={2025}}"
)
_PLAIN = (
    "citeAs column conformsTo:dct containedIn equivalentProperty extract field fileProperty "
    "fileObject fileSet format includes isArray arrayShape isLiveDataset jsonPath key md5 "
    "parentField path recordSet references regex repeated replace samplingRate separator source "
    "subField transform"
)
_FORMATS = {
    ".parquet": "application/x-parquet",
    ".csv": "text/csv",
    ".json": "application/json",
    ".md": "text/markdown",
    ".cff": "application/yaml",
}
_NIFTI, _DICOM = "application/x-nifti", "application/dicom"
_FILE_SETS = {
    "scans": ("ct/*/ct.nii.gz", _NIFTI, "Scans: int16 HU, RAS+, native spacing"),
    "combined_labels": ("label/*/combined_labels.nii.gz", _NIFTI, "One value per structure"),
    "tumor_labels": ("label/*/tumor_labels.nii.gz", _NIFTI, "Tumors by organ, and what to ignore"),
    "segmentations": ("label/*/segmentations/*.nii.gz", _NIFTI, "Binary masks"),
    "instances": ("label/*/instances/*.nii.gz", _NIFTI, "Tumors and cysts by number"),
    "dicom_seg": ("seg/*.dcm", _DICOM, "Tumors as DICOM SEG"),
}
_KEYS = {
    "scans": ("scan_id",),
    "crosswalk": ("case_id", "scan_id"),
    "masks": ("case_id", "organ"),
    "tumors": ("case_id", "organ", "number"),
    "candidates": ("case_id", "organ", "number"),
    "splits": ("scheme", "case_id"),
    "licences": ("case_id", "file"),
}
_TYPES = {
    pa.string(): "sc:Text",
    pa.int64(): "cr:Int64",
    pa.float64(): "cr:Float64",
    pa.bool_(): "sc:Boolean",
}


def croissant_files(facts: ReleaseFacts) -> dict[str, str]:
    """Return ``croissant.json``.

    It names every table and document with its SHA-256, the volumes as sets of files, and each
    table's columns. ``url`` and ``datePublished`` are missing: only who publishes knows them.
    """
    tables = [name for name in ORDER if _place(name) in facts.sums]
    description = {
        "@context": context(),
        "@type": "sc:Dataset",
        "name": f"{NAME} {facts.version}",
        "description": (
            f"{len(facts.cases)} abdominal CT scans with masks of tumors in six organs, reviewed "
            f"by radiologists. Target: {facts.target}."
        ),
        "conformsTo": CONFORMS_TO,
        "version": facts.version,
        "license": {
            "@type": "sc:CreativeWork",
            "name": "By file",
            "description": "Each file keeps the licence of its source; licences.csv names it.",
        },
        "creator": {"@type": "sc:Organization", "name": f"The curators of {NAME}"},
        "citeAs": _CITE,
        "keywords": ["computed tomography", "abdomen", "tumor", "segmentation"],
        "inLanguage": "en",
        "isLiveDataset": False,
        **{f"rai:{key}": value for key, value in responsible_fields(facts).items()},
        "distribution": [*_file_objects(facts), *_file_sets(facts)],
        "recordSet": [_record_set(name) for name in tables],
    }
    return {CROISSANT: indented(description)}


def context() -> dict[str, Any]:
    """Return the JSON-LD context of Croissant 1.1 (its appendix 1)."""
    terms = [term.partition(":") for term in _PLAIN.split()]
    return {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "dct": "http://purl.org/dc/terms/",
        "sc": "https://schema.org/",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
        "name": {"@container": "@language"},
        "description": {"@container": "@language"},
        **{name: f"{prefix or 'cr'}:{name}" for name, _, prefix in terms},
    }


def _place(table: str) -> str:
    return f"tables/{table}.parquet"


def _file_objects(facts: ReleaseFacts) -> list[dict[str, Any]]:
    """Return the tables and the documents at the top, each with its hash."""
    objects = []
    for place in sorted(facts.sums):
        suffix = place[place.rfind(".") :]
        is_table = place.startswith("tables/") and suffix == ".parquet"
        if is_table or ("/" not in place and suffix in _FORMATS):
            objects.append(
                {
                    "@type": "cr:FileObject",
                    "@id": place,
                    "name": place,
                    "contentUrl": place,
                    "encodingFormat": _FORMATS[suffix],
                    "sha256": facts.sums[place],
                }
            )
    return objects


def _file_sets(facts: ReleaseFacts) -> list[dict[str, Any]]:
    """Return the kinds of volumes that the release has."""
    found = {_kind(place) for place in facts.sums}
    return [
        {
            "@type": "cr:FileSet",
            "@id": f"{name}-files",
            "name": name,
            "description": text,
            "encodingFormat": encoding,
            "includes": pattern,
        }
        for name, (pattern, encoding, text) in _FILE_SETS.items()
        if _kind(pattern) in found
    ]


def _kind(place: str) -> tuple[str, str]:
    """Return what tells volumes of one kind: the top folder and the part below the case."""
    top, _, rest = place.partition("/")
    below = rest.partition("/")[2]
    return top, below.partition("/")[0]


def _record_set(table: str) -> dict[str, Any]:
    keys = [{"@id": f"{table}/{column}"} for column in _KEYS.get(table, ())]
    return {
        "@type": "cr:RecordSet",
        "@id": table,
        "name": table,
        **({"key": keys} if keys else {}),
        "field": [_field(table, field) for field in released_schema(table)],
    }


def _field(table: str, field: pa.Field) -> dict[str, Any]:
    is_list = pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
    shape = field.type.list_size if pa.types.is_fixed_size_list(field.type) else -1
    return {
        "@type": "cr:Field",
        "@id": f"{table}/{field.name}",
        "name": field.name,
        "dataType": _TYPES[field.type.value_type if is_list else field.type],
        **({"isArray": True, "arrayShape": str(shape)} if is_list else {}),
        "source": {"fileObject": {"@id": _place(table)}, "extract": {"column": field.name}},
    }
