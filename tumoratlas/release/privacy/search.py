"""The search for protected health information (PHI) in everything that is released."""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tumoratlas.core.errors import ReleaseError
from tumoratlas.core.files import sha256_file
from tumoratlas.release.privacy.files import pieces_of
from tumoratlas.release.privacy.text import Dictionary, Match, normal
from tumoratlas.review.packets.triage import NIIVUE_SHA256

UNREAD = "unread"
_SHOWN = 5
# DICOM SEG objects name the public series that they lie on; a UID of the dictionary is a term.
_PUBLIC_UIDS = "seg/"
# New in each process: the digests of a report tell equal terms, and cannot be tried out.
_DIGEST_KEY = secrets.token_bytes(32)


@dataclass(frozen=True)
class Hit:
    """A private word that was found, told without showing it.

    Attributes
    ----------
    place
        File and place in it, private words replaced by their kind in brackets.
    kind
        ``term`` (of the dictionary), ``person name``, ``e-mail``, ``UID``, ``phone number``,
        ``social security number``, or ``unread``: what is there could not be searched.
    term_digest
        8 hexadecimal digits, equal for equal terms within one process; empty for ``unread``.
    """

    place: str
    kind: str
    term_digest: str


def find_phi(folder: Path, terms: Iterable[str], *, allow: Iterable[str] = ()) -> list[Hit]:
    """Search every file below a folder, its name, headers and content, for private words.

    Looked for are the terms of a dictionary in their usual spellings, and what looks like a
    DICOM person name, an e-mail address, a UID, a phone or a social security number. Looked
    into are names, NIfTI and gzip headers, Parquet, CSV, JSON, text, PNG, JPEG, safetensors,
    NRRD, DICOM, zip, tar and compressed files, and the printable parts of any other. Of volumes
    the header is read, not the voxels; of models the header, not the weights; words that are
    part of a picture are not seen. The viewer's own code, known by its hash, is not searched:
    the pictures inside it hold noise that looks like names.

    Parameters
    ----------
    folder
        The release.
    terms
        Private terms, such as those of `tumoratlas.release.privacy.terms.private_terms`.
    allow
        Terms, and texts that look private, which are none: a public contact's address.
    """
    dictionary = Dictionary(terms, allow)
    hits: dict[Hit, None] = {}
    for place, path in _entries(folder):
        name = normal(place)
        last = name.rfind("/") + 1
        shown = dictionary.redacted(place)
        for match in dictionary.find(name):
            if match.end > last:  # else the folder was told before
                hits[_hit(f"{shown}: name", match)] = None
        if path.is_dir() and not path.is_symlink():
            continue
        if path.suffix == ".js" and sha256_file(path) == NIIVUE_SHA256:
            continue
        for piece in pieces_of(path):
            if piece.text is None:
                hits[Hit(f"{shown}: {dictionary.redacted(piece.where)}", UNREAD, "")] = None
                continue
            text = normal(piece.text)
            found = dictionary.find_in_noise(text) if piece.is_noise else dictionary.find(text)
            for match in found:
                if match.kind == "UID" and place.startswith(_PUBLIC_UIDS):
                    continue
                where = dictionary.redacted(piece.where)
                if piece.line is not None:
                    where += str(piece.line + text.count("\n", 0, match.start))
                hits[_hit(f"{shown}: {where}", match)] = None
    return list(hits)


def refuse_phi(hits: Sequence[Hit]) -> None:
    """Stop a release in which anything private was found.

    Raises
    ------
    ReleaseError
        ``PHI_FOUND``, naming the first places.
    """
    if hits:
        first = "; ".join(f"{hit.place} ({hit.kind})" for hit in hits[:_SHOWN])
        raise ReleaseError(
            "PHI_FOUND",
            "the release",
            f"{len(hits)} private words, or files that could not be searched, are in it",
            evidence=first,
            remedy="Take them out where they come from; list a word in `release.public_words` "
            "only if it names nobody",
        )


def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
    """Give every folder and file below ``folder`` with its path below it, in order."""

    def stop(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=stop):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(place) / name
            yield os.fsencode(path.relative_to(folder)).decode("utf-8", "replace"), path


def _hit(place: str, match: Match) -> Hit:
    term = match.term.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(term, key=_DIGEST_KEY, digest_size=4).hexdigest()
    return Hit(place, match.kind, digest)
