"""The dictionary of private words, read from the private scans themselves and kept in memory."""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pydicom

from tumoratlas.core.errors import InputError
from tumoratlas.core.structures import structures
from tumoratlas.release.privacy.files import is_dicom, pieces_of
from tumoratlas.release.privacy.text import tokens_of

# Beside every name (VR PN), date (DA, DT) and UID, and what looks like a name in private tags.
_IDENTIFYING = {
    *("PatientID", "OtherPatientIDs", "IssuerOfPatientID", "PatientAddress", "MilitaryRank"),
    *("PatientTelephoneNumbers", "PatientComments", "AdditionalPatientHistory", "Occupation"),
    *("PatientTelecomInformation", "MedicalRecordLocator", "CurrentPatientLocation"),
    *("PatientReligiousPreference", "RegionOfResidence", "AdmissionID"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName"),
    *("AccessionNumber", "StudyID", "RequestedProcedureID", "ScheduledProcedureStepID"),
    *("PerformedProcedureStepID", "FillerOrderNumberImagingServiceRequest", "StudyComments"),
    *("PlacerOrderNumberImagingServiceRequest", "ImageComments", "VisitComments"),
    *("DeviceSerialNumber", "PersonAddress", "PersonTelephoneNumbers", "RequestingService"),
    *("ResponsibleOrganization", "PerformedStationName", "ServiceEpisodeID"),
}
_STANDARD_UID = "1.2.840.10008."
# A longer text is no name; what it holds of names is found by the names.
_LONGEST_PHRASE = 12
_FEWEST_DIGITS = 5
_FEWEST_LETTERS = 4
_FEWEST_OF_FAMILY_NAME = 3
_CARET_NAME = re.compile(r"[^\W\d_][\w'-]+\^+[^\W\d_][\w^.'-]*")
_PLAIN_NAME = re.compile(r"[^\W\d_][\w'-]+(?:,? [^\W\d_][\w'-]+){1,3}")
# Words of layouts, scanners and reports, which name nobody. Closed: a name that is one of them
# is found only together with its other parts, as in DOE^MAY.
_COMMON = frozenset(
    """
    abd abdomen abdominal acquisition age annotation annotations anon anonymized anonymous apr
    april arm arterial artery atlas aug august auto automatic available axial baseline batch
    before body bone boston both brain canon cardiac case cases changelog checked chest citation
    clinic cohort colon contents contrast control copy copying coronal corrected correction
    count credits csv cyst data dataset date dec december default delayed department dept
    derived description dicom dicomdir difference digital doctor documentation done draft early
    elscint enhanced esophagus exam examination example examples export external feb february
    feet female field file files final first fixed folder follow followup full gantry gems
    general ground group head header healthcare helical high hitachi holdout hospital human
    image images imaging import info input instance instances institute institution internal
    iodine jan january jul july jun june kernel kidney label labels last late left lesion
    lesions level licence license lightspeed list liver local localizer lower lung male manifest
    manual map mar march mark markup mask masks may medical medicine medium meta metadata mixed
    model native negative neusoft new nifti none normal note notes notice nov november null oct
    october old open organ organs original other output overview packet packets pancreas part
    path patient patients pelvis phantom phase philips pixel pixels plain plan plane plus portal
    position positive post predicted prediction predictions preview primary prior private
    process processed project prone protocol pseudo public quality radiology random raw reader
    reading recon reconstruction reference references region release report resampled result
    results review right room root running sagittal sample sampled scan scanner scans scout
    script scripts second secondary seg segmentation segmentations selection sensation sep sept
    september series settings shard siemens simple site size slice slices small soft somatom
    source spiral spleen split stack stage standard state station stats status stomach structure
    structures study subject sum summary sums supine system table target team temp temporary
    test testing text thin third thorax tissue tool tools toshiba train training true truth
    tumor tumors tumour type uih unit university unknown updated upload upper user uterus
    validation value vein venous version versions view volume volumes whole window windowed with
    without work working young
    """.split()
)


def private_terms(folder: Path) -> set[str]:
    """Return every word of a private source by which a patient or hospital could be known.

    From DICOM headers (private tags and nested items too): names of persons whole and in parts,
    dates, UIDs, and identifying texts and numbers; from NIfTI and gzip headers: their texts; and
    the names of folders and files, whole and in parts. Left out are words too short to tell
    anything (fewer than 4 letters, of family names 3, or 5 digits), and a closed list of common
    words and structures, which would be found everywhere.

    The set is meant for `tumoratlas.release.privacy.search.find_phi`; it is never written anywhere.

    Parameters
    ----------
    folder
        The private source's folder.

    Raises
    ------
    InputError
        ``PRIVATE_UNREAD``: a file's header cannot be read, so its names would be missing.
    """
    terms: set[str] = set()

    def stop(error: OSError) -> None:
        raise _unread(Path(error.filename), error) from error

    for place, folders, files in os.walk(folder, onerror=stop):
        for name in [*folders, *files]:
            terms.update(_name_terms(name))
        for name in files:
            terms.update(_file_terms(Path(place) / name))
    return terms


def _file_terms(path: Path) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            head = file.read(132)
        if is_dicom(head):
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            yield from _dataset_terms(dataset)
    # The parser raises what it likes.
    except Exception as error:
        raise _unread(path, error) from error
    if path.name.lower().endswith((".nii", ".nii.gz", ".hdr")):
        for piece in pieces_of(path):
            if piece.text is None:
                raise _unread(path, piece.where)
            if piece.where == "gzip name":
                yield from _name_terms(piece.text)
            else:
                yield from _phrase(piece.text)
                for match in _CARET_NAME.finditer(piece.text):
                    yield from _person_terms(match[0])


def _dataset_terms(dataset: pydicom.Dataset) -> Iterator[str]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _dataset_terms(item)
            continue
        for value in _texts_of(element.value):
            if element.VR == "PN":
                yield from _person_terms(value)
            elif element.VR in ("DA", "DT"):
                yield re.sub(r"\D", "", value)[:8]
            elif element.VR == "UI":
                if not value.startswith(_STANDARD_UID):
                    yield from _phrase(value)
            elif element.keyword in _IDENTIFYING:
                for text in {value, *value.splitlines()}:  # an address has several lines
                    yield from _phrase(text)
            elif element.tag.is_private and not element.tag.is_private_creator:
                if _PLAIN_NAME.fullmatch(value):
                    yield from _phrase(value)
                for match in _CARET_NAME.finditer(value):
                    yield from _person_terms(match[0])


def _texts_of(value: object) -> list[str]:
    many = value if isinstance(value, pydicom.multival.MultiValue | list) else [value]
    texts = []
    for one in many:
        if isinstance(one, bytes):
            one = one.decode("utf-8", "replace").split("\0")[0]
        texts.append(str(one or "").strip())
    return [text for text in texts if text]


def _person_terms(name: str) -> Iterator[str]:
    """Give a DICOM person name, its family name, and its other names if they are long enough."""
    yield from _phrase(name)
    for group in name.split("="):
        # The whole name tells somebody even where each of its parts is a common word; initials
        # and numbers do not, nor does the name of an organ.
        words = [token for token in tokens_of(group) if token.isalpha() and len(token) > 1]
        if len(words) > 1 and not _structure_words().issuperset(words):
            yield group.strip()
        for index, part in enumerate(group.split("^")[:3]):  # not prefix and suffix
            for word in [part, *re.split(r"[\s-]+", part)]:
                yield from _phrase(word, _FEWEST_LETTERS if index else _FEWEST_OF_FAMILY_NAME)


def _name_terms(name: str) -> Iterator[str]:
    """Give a file's or folder's name without its endings, and its words and long numbers."""
    stem = re.sub(r"(?:\.[A-Za-z]{1,4}(?:\.gz)?)+$", "", name)
    yield from _phrase(stem)
    for word in re.findall(r"[^\W\d_]+|\d+", stem):
        yield from _phrase(word)


def _phrase(text: str, fewest_letters: int = _FEWEST_LETTERS) -> Iterator[str]:
    """Give a text unless it tells nothing."""
    tokens = tokens_of(text)
    telling = [token for token in tokens if not _is_common(token)]
    letters = sum(len(token) for token in telling if token.isalpha())
    # A sign of an unspaced script is worth two letters.
    letters += sum(len(token) for token in telling if token > "\u2e80")
    digits = sum(len(token.lstrip("0")) for token in telling if not token.isalpha())
    if len(tokens) <= _LONGEST_PHRASE and (
        letters >= fewest_letters or digits >= _FEWEST_DIGITS or (letters and digits > 2)
    ):
        yield text.strip()


def _is_common(token: str) -> bool:
    return token in _COMMON or token in _structure_words()


@cache
def _structure_words() -> frozenset[str]:
    return frozenset(word for name in structures() for word in (name, *name.split("_")))


def _unread(path: Path, error: object) -> InputError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return InputError(
        "PRIVATE_UNREAD",
        path,
        "its header cannot be read, so that its names would be missing from the search",
        evidence=(reason or "")[:200],
        remedy="Mend the file, or take it out of the private source",
    )
