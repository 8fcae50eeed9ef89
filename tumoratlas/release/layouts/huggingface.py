"""The data card ``README.md``; its head is what the Hugging Face Hub reads."""

from typing import Any

import pandas as pd
import yaml

from tumoratlas.core.structures import tumor_structures
from tumoratlas.core.tables import SCHEMAS
from tumoratlas.measure.counts import count_sources
from tumoratlas.release.cases import class_map
from tumoratlas.release.facts import ReleaseFacts
from tumoratlas.release.layouts.listed import NAME, labels
from tumoratlas.release.layouts.monai import FOLDER as MONAI
from tumoratlas.release.layouts.nnunet import FOLDER as NNUNET
from tumoratlas.release.tables import ORDER
from tumoratlas.release.texts import render_text

CARD = "README.md"
# Tables are no split: `train` would promise what only the table `splits` can tell.
SPLIT = "released"
_DEFAULT = "tumors"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
_TAGS = [
    "medical", "radiology", "ct", "abdomen", "cancer", "tumor-segmentation", "nifti",
    *("liver", "pancreas", "kidney", "colon", "esophagus", "uterus"),
]  # fmt: skip


def huggingface_files(facts: ReleaseFacts) -> dict[str, str]:
    """Return the data card."""
    tables = facts.tables
    cases = pd.DataFrame(facts.cases, columns=["case_id", "source", "slices"])
    total = count_sources(
        pd.DataFrame(tables["tumors"], columns=SCHEMAS["tumors"].names),
        pd.DataFrame(tables["masks"], columns=SCHEMAS["masks"].names),
        cases,
    ).iloc[-1]
    values = {
        "front_matter": yaml.safe_dump(front_matter(facts), sort_keys=False, width=100),
        "version": facts.version,
        "target": facts.target,
        "cases": len(facts.cases),
        "total": total,
        "has_scans": any(place.startswith("ct/") for place in facts.sums),
        "nnunet": sorted(
            place.split("/")[2]
            for place in facts.sums
            if place.startswith(f"{NNUNET}/") and place.endswith("/dataset.json")
        ),
        "datalists": sorted(place for place in facts.sums if place.startswith(f"{MONAI}/")),
        "split": SPLIT,
        "classes": class_map(),
        "tumor_classes": labels(),
        "tumor_structures": tumor_structures(),
        "sources": sorted(facts.sources, key=lambda source: source.id),
        **facts.definitions,
    }
    return {CARD: render_text(facts.resources / "README.md.jinja", values)}


def front_matter(facts: ReleaseFacts) -> dict[str, Any]:
    """Return the metadata of the card: licence, tags and one configuration per filled table.

    ``configs`` names the Parquet tables only: one folder can have one kind of files there, and
    the volumes are read as a folder of NIfTI files.
    """
    # datasets 5.2 cannot read a Parquet file without rows.
    names = [name for name in ORDER if facts.tables[name]]
    names.sort(key=lambda name: name != _DEFAULT)  # the default first, as people read
    configs = [
        {
            "config_name": name,
            **({"default": True} if name == _DEFAULT else {}),
            "data_files": [{"split": SPLIT, "path": f"tables/{name}.parquet"}],
        }
        for name in names
    ]
    return {
        "pretty_name": f"{NAME} {facts.version} ({facts.target})",
        "license": "other",
        "license_name": "by-file",
        "license_link": "licences.csv",
        "language": ["en"],
        "task_categories": ["image-segmentation"],
        "tags": _TAGS,
        "size_categories": [
            next((name for most, name in _SIZES if len(facts.cases) < most), "100K<n<1M")
        ],
        "configs": configs,
    }
