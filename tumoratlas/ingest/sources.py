"""A source as data: where a public collection keeps its images, labels and names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tumoratlas.core.structures import structures, tumor_structures


@dataclass(frozen=True)
class LabelLayout:
    """Where the labels of a scan lie.

    Attributes
    ----------
    format
        ``nifti`` (one label map), ``nifti_masks`` (one binary file per structure, named after
        it) or ``png_stack`` (one PNG per DICOM file, paired by file name).
    path
        Glob with ``{folder}`` (of the image) and ``{case}``.
    values
        Label value to the structures that such a voxel belongs to; tumors are named
        ``<organ>_tumor``, cysts ``<organ>_cyst``.
    """

    format: str
    path: str
    values: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """One kind of image in a source: format, glob below the source folder, name, labels."""

    format: str
    images: str
    case: re.Pattern[str]
    labels: tuple[LabelLayout, ...]


@dataclass(frozen=True)
class Source:
    """A collection that scans come from, as ``resources/sources/<id>.yaml`` describes it.

    Attributes
    ----------
    tumor_free_means
        What an annotated organ without tumor voxels means: ``confirmed_empty`` or ``unknown``.
    keeps_case_id
        Its case names are ids of the release (the parent release only).
    companions
        Patterns of files that belong to a scan and hold nothing new.
    excluded
        ``{pattern, code, reason}`` of files to leave out by name.
    false_spacing_cases
        Cases whose header's spacing is known to be false.
    """

    id: str
    name: str
    citation: str
    licence: str
    licence_note: str
    tumor_free_means: str
    layouts: tuple[Layout, ...]
    excluded: tuple[Mapping[str, str], ...]
    keeps_case_id: bool = False
    companions: tuple[str, ...] = ()
    false_spacing_cases: tuple[str, ...] = ()

    @cached_property
    def companion_patterns(self) -> list[re.Pattern[str]]:
        """Compiled `companions`."""
        return [re.compile(pattern) for pattern in self.companions]


def read_source(path: Path) -> Source:
    """Read a source's YAML file."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    layouts = tuple(
        Layout(
            layout["format"],
            layout["images"],
            re.compile(layout["case"]),
            tuple(_label_layout(label) for label in layout["labels"]),
        )
        for layout in raw.pop("layouts")
    )
    for key in ("excluded", "companions", "false_spacing_cases"):
        raw[key] = tuple(raw.get(key, ()))
    return Source(layouts=layouts, **raw)


def _label_layout(raw: dict[str, Any]) -> LabelLayout:
    values = {str(value): names for value, names in raw.get("values", {}).items()}
    unknown = {n for names in values.values() for n in names} - known_label_names()
    if unknown:
        raise ValueError(f"no structure is named {sorted(unknown)}; see resources/structures.csv")
    return LabelLayout(raw["format"], raw["path"], values)


def known_label_names() -> set[str]:
    """Return every name that a label value may mean: organs, ``<organ>_tumor``, ``_cyst``."""
    organs = {row.name for row in structures().values() if row.kind == "organ"}
    lesions = {f"{organ}_{kind}" for organ in tumor_structures() for kind in ("tumor", "cyst")}
    return organs | lesions
