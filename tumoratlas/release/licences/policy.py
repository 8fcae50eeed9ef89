"""What licences, permissions and the configuration together allow to release."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tumoratlas.core.errors import ReleaseError
from tumoratlas.ingest.sources import INTERNAL, Source, read_source
from tumoratlas.release.licences.terms import (
    Permission,
    Terms,
    read_permissions,
    read_terms,
    terms_of,
)

OURS = "reviewers"  # who made the masks that no source annotated

Kind = Literal["image", "mask"]
Part = tuple[str, str]  # source and licence of something that a file is made of
_COVERS = {"image": ("image", "both"), "mask": ("labels", "both")}


@dataclass(frozen=True)
class Policy:
    """What decides: licences, and what goes beyond them.

    Attributes
    ----------
    sources
        Every described source by id.
    terms
        What licences allow (`tumoratlas.release.licences.terms.read_terms`).
    permissions
        What curators may do beyond (`tumoratlas.release.licences.terms.read_permissions`).
    annotation_licence
        Licence of our own reviewers' masks.

    Raises
    ------
    ReleaseError
        ``OWN_LICENCE``: the annotation licence does not say that masks may be shared.
    """

    sources: Mapping[str, Source]
    terms: Mapping[str, Terms]
    permissions: Sequence[Permission]
    annotation_licence: str

    def __post_init__(self) -> None:
        if (
            self.annotation_licence != INTERNAL
            and terms_of(self.annotation_licence, self.terms).share != "yes"
        ):
            raise ReleaseError(
                "OWN_LICENCE", "release.annotation_licence",
                f"{self.annotation_licence!r} does not let anybody share our own masks",
                remedy="Use a licence that resources/licences.csv describes, or `internal`",
            )  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Where something may be: in ``labels_only``, in ``full``; and why."""

    labels_only: bool
    full: bool
    reason: str


def read_policy(
    *,
    sources: Iterable[Path],
    terms: Path,
    permissions: Iterable[Path],
    annotation_licence: str,
) -> Policy:
    """Return the policy of a run.

    Parameters
    ----------
    sources
        Descriptions of all sources, also of those that are not in the run.
    terms
        ``resources/licences.csv``.
    permissions
        ``records/permissions.csv``, if there is one.
    annotation_licence
        Configuration.

    Raises
    ------
    ReleaseError
        ``LICENCE_TABLE``, ``PERMISSION``, ``OWN_LICENCE``.
    """
    described = {source.id: source for source in map(read_source, map(Path, sources))}
    internal = {name for name, source in described.items() if source.licence == INTERNAL}
    return Policy(
        sources=described,
        terms=read_terms(Path(terms)),
        permissions=[
            permission
            for path in permissions
            for permission in read_permissions(Path(path), sources=described, internal=internal)
        ],
        annotation_licence=annotation_licence,
    )


def judge(part: Part, kind: Kind, policy: Policy) -> Verdict:
    """Return where something of a source and licence may be, and why.

    Parameters
    ----------
    part
        Source (or `OURS`) and licence.
    kind
        ``image`` or ``mask``: a permission covers one of them or both.
    policy
        What decides.
    """
    source, licence = part
    told = f"{source}, {licence}"
    if licence == INTERNAL:
        return Verdict(False, False, f"{told}: never leaves")
    if source == OURS:
        return Verdict(True, True, f"{told}: our own")
    is_free, why = _says(policy.sources[source], policy.terms, licence)
    if is_free:
        return Verdict(True, True, f"{told}: {why}")
    for terms in ("full", "labels_only"):  # the wider one first
        for one in policy.permissions:
            if (one.source, one.terms) == (source, terms) and one.covers in _COVERS[kind]:
                reason = f"{told}: {why}, but {one.holder} permits {terms} ({one.date})"
                return Verdict(True, terms == "full", reason)
    return Verdict(False, False, f"{told}: {why}")


def _says(source: Source, terms: Mapping[str, Terms], licence: str) -> tuple[bool, str]:
    """Return whether a licence surely allows to share altered copies, and what it says."""
    if licence not in terms:
        return False, "nobody described this licence"
    allows = terms[licence]
    if allows.share == "no":
        return False, "may not be shared"
    if allows.share_altered == "no":
        return False, "may not be shared altered"
    if "doubt" in (allows.share, allows.share_altered):
        return False, "what it allows is in doubt"
    if not is_verified(source, licence):
        return False, "may be shared altered, if this is its licence, which nobody saw"
    return True, "may be shared altered"


def is_verified(source: Source, licence: str) -> bool:
    """Return whether somebody saw this licence; labels with one of their own name its place."""
    return source.licence_verified or licence != source.licence
