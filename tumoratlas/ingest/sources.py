"""A source as data: where a public collection keeps its images, labels and names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tumoratlas.core.structures import structures, tumor_structures
from tumoratlas.images.checks import CHECKS
from tumoratlas.ingest.tree import glob_regex, split_glob

INTERNAL = "internal"  # the licence of sources whose names stay in their hospital
LABEL_FORMATS = ("nifti", "nifti_masks", "png_stack", "dicom_masks")
HEADERS = ("own", "array", "orientation")
# Named repairs that a description may ask for, with their parameter.
LISTED_REPAIRS = {"hu_offset": "add_hu", "spacing": "spacing_mm"}
# What meets a known defect, besides the checks of `tumoratlas.images.checks`: codes of excluded
# rows, names of repairs, and ways of working.
ANSWERS = {
    "APPLE_DOUBLE": "excluded by name when the source is listed",
    "IMAGE_MISSING": "labels without an image are told when the source is listed",
    "OUT_OF_SCOPE": "excluded by name when the source is listed",
    "UNREVIEWED_MASK": "excluded by name when the source is listed",
    "DUPLICATE": "equal content is found, one scan is kept",
    "CROPPED_COPY": "a crop of another scan is found, one scan is kept",
    "FALSE_SPACING": "never kept without its true spacing, which an equal copy may have",
    "TEST_SET": "a test set never enters the pool; the leakage report shows what it shares",
    "LABEL_VALUE": "a label file with a value of no meaning is not used",
    "hu_offset": "repair: a constant is added to the voxels",
    "straightened": "repair: the axes of a sheared header are made square",
    "stored_bits": "repair: stored bits are brought to their sign before the rescale",
    "mask_header": "repair: a mask whose header contradicts its scan's is placed by voxel order",
    "canonical axes": "scan and masks are turned to RAS+ by their headers before anything else",
    "header: orientation": "the mask's axis codes count, its origin does not",
    "slices by position": "DICOM slices are put in the order of their positions",
    "pairs by file name": "pictures and slices are paired in the order of their names",
    "file patterns": "the layouts allow for all known names",
    "label values": "`values` says what each value means, `other_*` what is not used",
    "partial labels": "a value that does not occur is unknown, not empty",
    "patient groups": "scans of one patient are never split",
    "fragments": "components below the minimum volume are marked and not counted",
    "counted from masks": "tumors are counted in masks, tables of a source are not read",
    "matched by content": "copies are found by their voxels, never by names or world places",
    "expected counts": "the status of sources shows the counts of paper, source and folder",
    "not read": "the files concerned are not read",
    "harmless": "true, and no obstacle",
}

# What stands for a text in a label's path.
PLACEHOLDER = re.compile(r"\{([a-z]+)\}")

T = TypeVar("T")


@dataclass(frozen=True)
class LabelLayout:
    """Where the labels of a scan lie, and what they mean.

    Attributes
    ----------
    format
        ``nifti`` (one label map), ``nifti_masks`` (one binary file per structure, named after
        it), ``png_stack`` (one PNG per DICOM file, paired by file name) or ``dicom_masks`` (a
        folder with a binary DICOM file per slice for each structure).
    path
        Globs (`tumoratlas.ingest.tree`), the first that finds a file counts. They start with
        ``{folder}`` of the image, or at the source's folder; ``{case}``, ``{series}`` and any
        named group of the layout's ``case`` stand for what they matched.
    values
        Label value, or for ``dicom_masks`` a pattern of the folder's whole name, to the names
        of what such a voxel belongs to (`is_label_name`).
    partial
        A value that does not occur means unknown, not empty.
    header
        How a mask is placed: by its ``own`` header, ``array`` in the voxel order of the image,
        or ``orientation``: by its own axis codes, on the image's origin.
    licence
        Where it differs from the source's.
    verified
        The meaning of the values was seen in the source, not remembered.
    """

    format: str
    path: tuple[str, ...]
    values: Mapping[str, list[str]] = field(default_factory=dict)
    partial: bool = False
    header: str = "own"
    licence: str = ""
    verified: bool = True


@dataclass(frozen=True)
class Layout:
    """One kind of image in a source.

    Attributes
    ----------
    format
        ``nifti`` (a file is a scan) or ``dicom`` (a folder is a scan).
    images
        Glob below the source's folder (`tumoratlas.ingest.tree`).
    case
        Searched in ``/<path below the folder>``; its group ``case`` names the scan, ``patient``
        the patient where that is told. For DICOM it may depend on the folder only.
    labels
        Label files; none is no defect.
    reserved
        Test set that these images officially belong to, or empty.
    split_series
        A DICOM case may hold several series, also in folders below: each becomes a scan.
    """

    format: str
    images: str
    case: re.Pattern[str]
    labels: tuple[LabelLayout, ...]
    reserved: str = ""
    split_series: bool = False


@dataclass(frozen=True)
class NameRule:
    """Files to leave out by name: a pattern of ``/<path>``, the excluded row's code and reason."""

    pattern: re.Pattern[str]
    code: str
    reason: str


@dataclass(frozen=True)
class Expected:
    """Scans to find: by the paper, and officially those not reserved and those reserved."""

    paper: int | None = None
    official: int | None = None
    reserved: int | None = None


@dataclass(frozen=True)
class ListedRepair:
    """A named repair: ``add_hu`` (HU) for ``cases`` (empty: all), or ``spacing_mm`` by case.

    ``spacing_mm`` are the true spacings along x, y, z of the stored array.
    """

    name: str
    verified: bool
    evidence: str
    cases: tuple[str, ...] = ()
    add_hu: int | None = None
    spacing_mm: Mapping[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Suspects:
    """Cases that somebody named as suspect."""

    cases: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Overlap:
    """Another collection that holds scans of this one; ``verified`` if a document says so."""

    other: str
    cases: str
    verified: bool


@dataclass(frozen=True)
class Defect:
    """A known defect; ``answer`` is a check's code or a key of `ANSWERS`."""

    id: str
    verified: bool
    text: str
    answer: str
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A collection that scans come from, as ``resources/sources/<id>.yaml`` describes it.

    Attributes
    ----------
    licence_verified
        The licence was seen at the source.
    role
        ``pool``, or ``test_only``: its scans are listed and matched, and never enter the pool.
    reserved_for
        Name of the test set that a ``test_only`` source is; its name by default.
    tumor_free_means
        What an annotated organ without tumor voxels means: ``confirmed_empty`` or ``unknown``.
    keeps_case_id
        Its case names are ids of the release (the parent release only).
    companions
        Patterns of files that belong to a scan and hold nothing new.
    false_spacing_cases
        Cases whose header's spacing is known to be false.
    suspect_cases
        By code; such a scan is read with a warning.
    reserved_cases
        Official test cases inside a layout, by name of the test set.
    """

    id: str
    name: str
    citation: str
    licence: str
    tumor_free_means: str
    layouts: tuple[Layout, ...]
    licence_note: str = ""
    licence_verified: bool = True
    role: str = "pool"
    reserved_for: str = ""
    expected: Expected = field(default_factory=Expected)
    official_note: str = ""
    keeps_case_id: bool = False
    excluded: tuple[NameRule, ...] = ()
    companions: tuple[re.Pattern[str], ...] = ()
    repairs: tuple[ListedRepair, ...] = ()
    false_spacing_cases: tuple[str, ...] = ()
    suspect_cases: Mapping[str, Suspects] = field(default_factory=dict)
    reserved_cases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overlaps: tuple[Overlap, ...] = ()
    defects: tuple[Defect, ...] = ()

    def repairs_of(self, case: str) -> list[dict[str, Any]]:
        """Return ``{name, <parameter>}`` of each listed repair of a case."""
        found: list[dict[str, Any]] = []
        for repair in self.repairs:
            if repair.name == "spacing":
                if case in repair.spacing_mm:
                    found.append({"name": "spacing", "spacing_mm": repair.spacing_mm[case]})
            elif not repair.cases or case in repair.cases:
                found.append({"name": repair.name, "add_hu": repair.add_hu})
        return found

    def suspects_of(self, case: str) -> list[str]:
        """Return the codes under which a case is suspect."""
        return sorted(code for code, named in self.suspect_cases.items() if case in named.cases)

    def reserved_as(self, case: str, layout: Layout) -> str:
        """Return the test set that a case belongs to, or an empty name."""
        if self.role == "test_only":
            return self.reserved_for or self.name
        named = (name for name, cases in self.reserved_cases.items() if case in cases)
        return next(named, layout.reserved)


def _load(path: Path) -> Any:  # noqa: ANN401 - any YAML value
    # In C: every plan reads all descriptions, and so does every job on a cluster, twice.
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


def read_source(path: Path) -> Source:
    """Read a source's YAML file.

    Raises
    ------
    ValueError
        With the file's name: an unknown or absent key, an unknown label, repair, answer, format
        or role, or a pattern that does not compile.
    """
    try:
        source = _make(Source, _load(path), _SOURCE)
        _one_of("role", source.role, ("pool", "test_only"))
        _one_of("tumor_free_means", source.tumor_free_means, ("confirmed_empty", "unknown"))
    except (ValueError, TypeError, AttributeError, yaml.YAMLError, re.error) as error:
        raise ValueError(f"{path.name}: {error}") from error
    if source.id != path.stem:
        raise ValueError(f"{path.name}: the id is {source.id}, not the file's name")
    return source


def known_label_names() -> set[str]:
    """Return every structure that a mask may show: organs, ``<organ>_tumor``, ``_cyst``."""
    organs = {row.name for row in structures().values() if row.kind == "organ"}
    lesions = {f"{organ}_{kind}" for organ in tumor_structures() for kind in ("tumor", "cyst")}
    return organs | lesions


def is_label_name(name: str) -> bool:
    """Return whether a label value may mean this.

    Besides `known_label_names`: ``pooled_tumor`` (tumor of an unnamed organ) and
    ``other_<word>`` (read and checked, outside the release).
    """
    is_other = re.fullmatch(r"pooled_tumor|other_[a-z_]+", name) is not None
    return is_other or name in known_label_names()


def _make(kind: type[T], raw: Any, convert: Mapping[str, Callable[[Any], Any]]) -> T:
    """Return a dataclass from a YAML mapping; unknown and absent keys are refused."""
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    needed = {
        name
        for name, one in known.items()
        if one.default is MISSING and one.default_factory is MISSING
    }
    for problem, keys in (("unknown", raw.keys() - known), ("missing", needed - raw.keys())):
        if keys:
            raise ValueError(f"{kind.__name__}: {problem} keys {sorted(keys)}")
    return kind(**{key: convert[key](v) if key in convert else v for key, v in raw.items()})


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{key} is {value!r}, not one of {', '.join(allowed)}")


def _each(convert: Callable[[Any], Any]) -> Callable[[list[Any]], tuple[Any, ...]]:
    return lambda items: tuple(convert(item) for item in items)


def _label_layout(raw: dict[str, Any]) -> LabelLayout:
    label = _make(LabelLayout, raw, {"path": _paths, "values": _values})
    _one_of("labels.format", label.format, LABEL_FORMATS)
    _one_of("labels.header", label.header, HEADERS)
    for value in label.values:
        if label.format == "dicom_masks":
            re.compile(value)
    return label


def _paths(raw: str | list[str]) -> tuple[str, ...]:
    return (raw,) if isinstance(raw, str) else tuple(raw)


def _values(raw: Mapping[Any, list[str]]) -> dict[str, list[str]]:
    unknown = sorted({n for names in raw.values() for n in names if not is_label_name(n)})
    if unknown:
        raise ValueError(f"no structure is named {unknown}; see resources/structures.csv")
    return {str(value): names for value, names in raw.items()}


def _layout(raw: dict[str, Any]) -> Layout:
    layout = _make(Layout, raw, {"case": re.compile, "labels": _each(_label_layout)})
    _one_of("layouts.format", layout.format, ("nifti", "dicom"))
    if "case" not in layout.case.groupindex:
        raise ValueError(f"layouts.case has no group `case`: {layout.case.pattern}")
    glob_regex(layout.images)
    split_glob(layout.images)
    for path in (path for label in layout.labels for path in label.path):
        unknown = set(PLACEHOLDER.findall(path)) - {"folder", "series", *layout.case.groupindex}
        if unknown or path.count("{folder}") != path.startswith("{folder}/"):
            raise ValueError(f"labels.path has no such place as {sorted(unknown)}: {path}")
        glob_regex(PLACEHOLDER.sub("_", path))
        split_glob(path)
    return layout


def _repair(raw: dict[str, Any]) -> ListedRepair:
    cases = raw.get("cases", [])
    repair = _make(ListedRepair, raw | {"cases": [] if cases == "all" else cases}, {"cases": tuple})
    _one_of("repairs.name", repair.name, tuple(LISTED_REPAIRS))
    parameters = {key for key in LISTED_REPAIRS.values() if key in raw}
    if parameters != {LISTED_REPAIRS[repair.name]}:
        raise ValueError(f"repair {repair.name} has parameters {sorted(parameters)}")
    if repair.name == "hu_offset" and "cases" not in raw:
        raise ValueError("repair hu_offset names no cases (a list, or all)")
    return repair


def _overlap(raw: dict[str, Any]) -> Overlap:
    renamed = {"other" if key == "with" else key: value for key, value in raw.items()}
    return _make(Overlap, renamed, {"cases": str})


def _defect(raw: dict[str, Any]) -> Defect:
    defect = _make(Defect, raw, {"cases": tuple})
    if defect.answer not in CHECKS and defect.answer not in ANSWERS:
        raise ValueError(f"defect {defect.id}: no check, repair or way is named {defect.answer!r}")
    return defect


def _suspects(raw: dict[str, Any]) -> dict[str, Suspects]:
    return {code: _make(Suspects, named, {"cases": tuple}) for code, named in raw.items()}


_SOURCE: dict[str, Callable[[Any], Any]] = {
    "layouts": _each(_layout),
    "expected": lambda raw: _make(Expected, raw, {}),
    "excluded": _each(lambda raw: _make(NameRule, raw, {"pattern": re.compile})),
    "companions": _each(re.compile),
    "repairs": _each(_repair),
    "false_spacing_cases": tuple,
    "suspect_cases": _suspects,
    "reserved_cases": lambda raw: {name: tuple(cases) for name, cases in raw.items()},
    "overlaps": _each(_overlap),
    "defects": _each(_defect),
}
