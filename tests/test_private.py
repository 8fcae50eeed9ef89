"""Nothing private leaves: names planted anywhere are found, and reading leaves them behind."""

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from safetensors.numpy import save_file

from tests.conftest import ROOT
from tests.small_release import make_release
from tumoratlas.core.errors import InputError, ReleaseError
from tumoratlas.core.files import write_json
from tumoratlas.images.nifti import write_nifti
from tumoratlas.ingest.listing import list_scans
from tumoratlas.ingest.pseudonyms import pseudonym, read_key, write_key
from tumoratlas.ingest.readers import read_stored
from tumoratlas.ingest.sources import read_source
from tumoratlas.release.privacy.search import find_phi, refuse_phi
from tumoratlas.release.privacy.terms import private_terms
from tumoratlas.release.privacy.text import Dictionary, normal

NAME = "DOE^JANE"
TERMS = {NAME, "MÜLLER^Hans", "19580314", "MRN-4711-X", "00123456", "St. Vincent Hospital"}


# Pseudonyms


def test_a_key_is_written_once_and_read_back(tmp_path):
    path = tmp_path / "secret" / "key"
    write_key(path)
    key = read_key(path)
    assert len(key) == 32 and path.stat().st_mode & 0o777 == 0o600
    write_key(tmp_path / "other")
    assert read_key(tmp_path / "other") != key
    with pytest.raises(InputError, match=r"PSEUDONYM_KEY.*exists"):
        write_key(path)
    assert read_key(path) == key


def test_a_pseudonym_is_a_keyed_hash():
    key = bytes(range(32))
    # As openssl computes it: dgst -sha256 -mac HMAC.
    assert pseudonym(key, NAME) == "p9b5195410b773f9e"
    assert pseudonym(bytes(32), NAME) != pseudonym(key, NAME)
    assert pseudonym(key, "Müller") == pseudonym(key, "Mu\u0308ller")
    assert pseudonym(key, os.fsdecode(b"\xff")).startswith("p")


@pytest.mark.parametrize("text", ["", "00" * 31, "zz" * 32, "00" * 33, "\xe4" * 64])
def test_what_is_no_key_is_refused_unshown(tmp_path, text):
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InputError, match=r"PSEUDONYM_KEY.*python -m tumoratlas key") as caught:
        read_key(path)
    assert len(text) < 9 or text[:9] not in str(caught.value)


def test_an_absent_or_open_key_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"PSEUDONYM_KEY.*python -m tumoratlas key"):
        read_key(tmp_path / "absent")
    write_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(InputError, match=r"PSEUDONYM_KEY.*every user.*chmod 600"):
        read_key(tmp_path / "key")


def test_the_command_writes_a_key_and_does_not_show_it(tmp_path):
    command = [sys.executable, "-m", "tumoratlas", "key", tmp_path / "key"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and read_key(tmp_path / "key").hex() not in done.stdout
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("PSEUDONYM_KEY: ")


# Words and what looks like them


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        *((text, ["term"]) for text in (
            "DOE^JANE", "Doe, Jane", "jane doe", "doe_jane_2", "DOE^^JANE", "JaneDoe", "DOEJANE",
            "D\\u004fE^JANE", "DOE%5EJANE", "born 1958-03-14", "14.03.1958", "3/14/1958",
            "19580314T10", "March 14, 1958", "14 Mar 1958", "mrn 4711 x", "MRN4711X", "id 123456",
            "Hans Mueller", "M&uuml;ller, Hans", "MULLER_HANS", "the st vincent hospital",
        )),
        *((text, [kind]) for text, kind in (
            ("Roe^Richard", "person name"), ("me@example.org", "e-mail"),
            ("1.2.840.113619.2.55.3", "UID"), ("2.25.32980073569858662929564197", "UID"),
            ("+41 79 123 45 67", "phone number"), ("(555) 123-4567", "phone number"),
            ("Tel: 031 632 21 11", "phone number"), ("123-45-6789", "social security number"),
        )),
        *((text, []) for text in (
            "doe", "shadoe jane", "Jane saw a doe", "BDMAP_00000012", "4711", "[14, 3, 1958]",
            "14;3;1958", "mm^3", "10^6", "1.2.840.10008.1.2.1", "v1.2.3.4.5", "2025-01-01",
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "-12.5 to +300",
            "f47ac10b-58cc-4372-a567-0e02b2c3d479", "p00a1b2c3d4123456",
            "512 x 512 x 3000", "2025-01-01T10:00:00.000Z", "0.00123456", "1958.0314",
        )),
    ],
)  # fmt: skip
def test_spellings_and_patterns(text, kinds):
    assert [match.kind for match in Dictionary(TERMS).find(normal(text))] == kinds


def test_longer_words_are_found_inside_of_others():
    dictionary = Dictionary({"MILLER", "Yamada^Tarou=山田^太郎"})
    assert len(dictionary.find("jmiller2")) == 1
    assert len(dictionary.find("患者山田太郎男")) == 1


def test_what_is_allowed_is_no_hit():
    dictionary = Dictionary(TERMS, ["doe^jane", "me@example.org"])
    assert not dictionary.find("DOE^JANE me@example.org") and dictionary.find("JaneDoe")


# Places


def gz(data, *, name=b"", comment=b"", extra=b"", seconds=0):
    flags = 8 * bool(name) + 16 * bool(comment) + 4 * bool(extra)
    head = b"\x1f\x8b\x08" + bytes([flags]) + seconds.to_bytes(4, "little") + b"\0\xff"
    head += struct.pack("<H", len(extra)) + extra if extra else b""
    head += name + b"\0" if name else b""
    head += comment + b"\0" if comment else b""
    return head + gzip.compress(data, mtime=0)[10:]


def volume(field="", text=b"", extension=None, kind=nib.Nifti1Image):
    image = kind(np.zeros((4, 4, 4), np.int16), np.eye(4))
    if field:
        image.header[field] = text
    if extension:
        image.header.extensions.append(nib.nifti1.Nifti1Extension(extension, text))
    return image.to_bytes()


def parquet(table):
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def table(**columns):
    return pa.table(columns)


def png(kind=b"tEXt", body=b"Comment\0DOE^JANE"):
    out = io.BytesIO()
    Image.new("L", (2, 2)).save(out, "png")
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return out.getvalue()[:33] + chunk + out.getvalue()[33:]


def jpeg(**options):
    out = io.BytesIO()
    Image.new("L", (2, 2)).save(out, "jpeg", **options)
    return out.getvalue()


def exif():
    tags = Image.Exif()
    tags[0x013B] = "Jane Doe"  # artist
    return tags


def safetensors(tmp_path, **metadata):
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "s", metadata)
    return (tmp_path / "s").read_bytes()


def zipped(name, data, comment=b""):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, data)
        file.comment = comment
    return out.getvalue()


def tarred(name, data, **fields):
    out = io.BytesIO()
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    with tarfile.open(fileobj=out, mode="w") as file:
        file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def dicom(change=lambda dataset: None, preamble=b"\0" * 128):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.840.10008.1"
    dataset.Modality = "CT"
    dataset.PixelData = b"\0" * 8
    dataset["PixelData"].VR = "OW"
    dataset.preamble = preamble
    change(dataset)
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def tag(keyword, value=NAME):
    return dicom(lambda dataset: setattr(dataset, keyword, value))


def nested(dataset):
    item, inner = Dataset(), Dataset()
    inner.PersonName = NAME
    item.PersonIdentificationCodeSequence = Sequence([inner])
    dataset.RequestAttributesSequence = Sequence([item])


def private(vr, value):
    def change(dataset):
        dataset.private_block(0x0009, "ACME 1", create=True).add_new(1, vr, value)

    return dicom(change)


RANDOM = np.random.default_rng(1).bytes(20_000)
JANE = NAME.encode()
PLANTS = {
    # name of the file, its bytes, what the place says
    "file name": ("Doe_Jane.txt", b"x", "[term].txt: name"),
    "folder name": ("a/DOE^JANE/x.txt", b"x", "a/[term]: name"),
    "name split over folders": ("a/Doe/Jane/x.txt", b"x", "a/[term]: name"),
    "NIfTI descrip": ("v.nii.gz", gz(volume("descrip", JANE)), "v.nii.gz: descrip"),
    "NIfTI aux_file": ("v.nii.gz", gz(volume("aux_file", b"doe_jane.nii")), "v.nii.gz: aux_file"),
    "NIfTI intent_name": ("v.nii", volume("intent_name", JANE), "v.nii: intent_name"),
    "NIfTI db_name": ("v.nii", volume("db_name", JANE), "v.nii: db_name"),
    "NIfTI data_type": ("v.nii", volume("data_type", JANE), "v.nii: data_type"),
    "NIfTI field behind its end": ("v.nii", volume("descrip", b"x\0\0" + JANE), "v.nii: descrip"),
    "NIfTI-2 descrip": ("v.nii", volume("descrip", JANE, kind=nib.Nifti2Image), "v.nii: descrip"),
    "NIfTI extension, comment": (
        "v.nii.gz", gz(volume(text=b"for " + JANE, extension="comment")),
        "v.nii.gz: extension of code 6: line 1",
    ),
    "NIfTI extension, AFNI": (
        "v.nii", volume(text=b"<a>Jane Doe</a>", extension="afni"),
        "v.nii: extension of code 4: line 1",
    ),
    "NIfTI extension, large": (
        "v.nii.gz", gz(volume(text=RANDOM * 5 + b"\0" + JANE, extension="comment")),
        "v.nii.gz: extension of code 6: byte ",
    ),
    "gzip name": ("v.nii.gz", gz(volume(), name=b"doe_jane.nii"), "v.nii.gz: gzip name"),
    "gzip comment": ("v.nii.gz", gz(volume(), comment=JANE), "v.nii.gz: gzip comment"),
    "gzip extra field": ("v.nii.gz", gz(volume(), extra=JANE), "v.nii.gz: byte 0"),
    "gzip date": ("log.gz", gz(b"x", seconds=1_000_000_000), "log.gz: gzip date"),
    "gzipped text": ("log.gz", gz(b"x\nJane Doe\n"), "log.gz: line 2"),
    "second gzip member": ("log.gz", gz(b"x") + gz(JANE), "log.gz: line 1"),
    "behind a gzip stream": ("log.gz", gz(b"x") + JANE, "log.gz: behind the gzip stream: line 1"),
    "bzip2": ("log.bz2", bz2.compress(JANE), "log.bz2: line 1"),
    "xz": ("log.xz", lzma.compress(JANE), "log.xz: line 1"),
    "Parquet cell": (
        "t.parquet", parquet(table(id=[1, 2], note=["", "see Doe, Jane"])),
        "t.parquet: column note, row 2",
    ),
    "Parquet list": (
        "t.parquet", parquet(table(notes=[[], ["a", NAME]])), "t.parquet: column notes, row 2",
    ),
    "Parquet struct": (
        "t.parquet", parquet(table(x=[{"a": {"b": NAME}}])), "t.parquet: column x, row 1",
    ),
    "Parquet dictionary": (
        "t.parquet", parquet(table(x=pa.array(["a", NAME]).dictionary_encode())),
        "t.parquet: column x, row 2",
    ),
    "Parquet number": (
        "t.parquet", parquet(table(x=[1, 19580314])), "t.parquet: column x, row 2"
    ),
    "Parquet float": ("t.parquet", parquet(table(x=[19580314.0])), "t.parquet: column x, row 1"),
    "Parquet date": (
        "t.parquet", parquet(table(x=pa.array([-4311], pa.date32()))),  # days from 1970
        "t.parquet: column x, row 1",
    ),
    "Parquet metadata": (
        "t.parquet", parquet(table(x=[1]).replace_schema_metadata({"made by": NAME})),
        "t.parquet: metadata made by: line 1",
    ),
    "Parquet column metadata": (
        "t.parquet",
        parquet(pa.table([[1]], pa.schema([pa.field("x", pa.int64(), metadata={"of": NAME})]))),
        "t.parquet: metadata of column x of: line 1",
    ),
    "Parquet column name": ("t.parquet", parquet(table(**{NAME: [1]})), "name of a column"),
    "CSV cell": ("t.csv", b"id,note\n1,x\n2,\"Doe, Jane\"\n", "t.csv: line 3, column note"),
    "CSV header": ("t.csv", b"id,DOE^JANE\n1,2\n", "t.csv: header"),
    "CSV number": ("t.csv", b"id\n19580314\n", "t.csv: line 2, column id"),
    "JSON key": ("t.json", b'{"a": {"DOE^JANE": 1}}', "t.json: name of key a.[term]"),
    "JSON value": ("t.json", b'{"a": [{"b": "D\\u004fE^JANE"}]}', "t.json: key a.b"),
    "JSON key that comes twice": ("t.json", b'{"a": "DOE^JANE", "a": 1}', "t.json: key a"),
    "JSON number": ("t.json", b'{"a": 19580314}', "t.json: key a"),
    "JSON lines": ("t.jsonl", b'{"a": 1}\n{"a": "Jane Doe"}\n', "t.jsonl: line 2, key a"),
    "broken JSON": ("t.json", b'{"a":\n "DOE^JANE"', "t.json: line 2"),
    "YAML comment": ("t.yaml", b"a: 1\n# DOE^JANE\n", "t.yaml: line 2"),
    "Markdown": ("README.md", b"# X\n\nfor Jane Doe\n", "README.md: line 3"),
    "name broken over lines": ("README.md", b"# X\nfor Jane\nDoe\n", "README.md: line 2"),
    "HTML comment": ("r.html", b"<html>\n<!-- DOE^JANE --></html>", "r.html: line 2"),
    "HTML entity": ("r.html", b"M&uuml;ller, Hans", "r.html: line 1"),
    "picture in HTML": (
        "r.html", b"<img src='data:image/png;base64," + base64.b64encode(png()) + b"'>",
        "r.html: embedded file 1: tEXt",
    ),
    "SVG": ("p.svg", b"<svg><text>Jane Doe</text></svg>", "p.svg: line 1"),
    "log": ("run.log", b"1\n2\nread /data/doe_jane/ct\n", "run.log: line 3"),
    "text in Latin-1": ("run.log", "von Hans Müller".encode("latin-1"), "run.log: line 1"),
    "text in UTF-16": ("run.log", "x\nJane Doe".encode("utf-16"), "run.log: line 2"),
    "PNG tEXt": ("p.png", png(), "p.png: tEXt"),
    "PNG zTXt": ("p.png", png(b"zTXt", b"a\0\0" + zlib.compress(JANE)), "p.png: zTXt"),
    "PNG iTXt": ("p.png", png(b"iTXt", b"a\0\0\0\0\0" + JANE), "p.png: iTXt"),
    "PNG iTXt, compressed": (
        "p.png", png(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(JANE)), "p.png: iTXt"
    ),
    "PNG EXIF": ("p.png", png(b"eXIf", exif().tobytes()), "p.png: eXIf byte "),
    "behind a PNG": ("p.png", png(b"pHYs", bytes(9)) + JANE, "p.png: behind the picture: line 1"),
    "JPEG comment": ("p.jpg", jpeg(comment=JANE), "p.jpg: marker FE byte 0"),
    "JPEG EXIF": ("p.jpg", jpeg(exif=exif()), "p.jpg: marker E1 byte "),
    "NRRD": (
        "v.nrrd", b"NRRD0004\ntype: short\npatient:=DOE^JANE\n\n" + RANDOM, "v.nrrd: line 3"
    ),
    "ASCII in a binary": ("x.bin", RANDOM + b"\0" + JANE + b"\0", "x.bin: byte 20001"),
    "UTF-16 in a binary": (
        "x.bin", RANDOM + b"\0\0" + NAME.encode("utf-16-le"), "x.bin: byte 20001"
    ),
    "UTF-16 BE in a binary": (
        "x.bin", RANDOM + b"\0" + NAME.encode("utf-16-be"), "x.bin: byte 20001"
    ),
    "behind its length": (
        "x.bin", RANDOM + b"\0\xaa" + b"Doe, Jane." + b"\0", "x.bin: byte 20001"
    ),
    "UTF-8 in a binary": ("x.bin", RANDOM + "\0Hans Müller\0".encode(), "x.bin: byte 20001"),
    "Latin-1 in a binary": (
        "x.bin", RANDOM + "\0Hans Müller\0".encode("latin-1"), "x.bin: byte 20001"
    ),
    "zip member name": ("a.zip", zipped("doe_jane.txt", b"x"), "a.zip: name of a member"),
    "zip member": ("a.zip", zipped("t.csv", b"a\nJane Doe"), "a.zip: t.csv > line 2, column a"),
    "zip comment": ("a.zip", zipped("x", b"", JANE), "a.zip: zip comment"),
    "zip in zip": ("a.zip", zipped("b.zip", zipped("c", JANE)), "a.zip: b.zip > c > line 1"),
    "NumPy archive": (
        "a.npz", zipped("a.npy", b"\x93NUMPY\1\0" + RANDOM[:90] + JANE), "a.npz: a.npy > byte "
    ),
    "tar member name": ("a.tar", tarred("doe_jane", b""), "a.tar: name of a member"),
    "tar member": ("a.tar.gz", gz(tarred("x.txt", JANE)), "a.tar.gz: x.txt > line 1"),
    "tar owner": ("a.tar", tarred("x", b"", uname="jane.doe"), "a.tar: x, uname"),
    "DICOM PatientName": ("i.dcm", tag("PatientName"), "i.dcm: (0010,0010)"),
    "DICOM PatientID": ("i.dcm", tag("PatientID", "MRN-4711-X"), "i.dcm: (0010,0020)"),
    "DICOM birth date": ("i.dcm", tag("PatientBirthDate", "19580314"), "i.dcm: (0010,0030)"),
    "DICOM InstitutionName": (
        "i.dcm", tag("InstitutionName", "St. Vincent Hospital"), "i.dcm: (0008,0080)"
    ),
    "DICOM other UID": (
        "i.dcm", tag("StudyInstanceUID", generate_uid()), "i.dcm: (0020,000D)"
    ),
    "DICOM one of many values": (
        "i.dcm", tag("OperatorsName", ["A^B^C", NAME][1:] * 2), "i.dcm: (0008,1070)"
    ),
    "DICOM nested item": ("i.dcm", dicom(nested), "(0040,0275)[0]/(0040,1101)[0]/(0040,A123)"),
    "DICOM private text": ("i.dcm", private("LO", "Jane Doe"), "i.dcm: (0009,1001)"),
    "DICOM private bytes": ("i.dcm", private("OB", b"\1\2\0Doe Jane\0"), "i.dcm: (0009,1001)"),
    "DICOM unknown element": ("i.dcm", private("UN", JANE), "i.dcm: (0009,1001)"),
    "DICOM preamble": ("i.dcm", dicom(preamble=JANE + bytes(120)), "i.dcm: byte 0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTS)
def test_a_name_is_found_wherever_it_stands(tmp_path, kind):
    name, data, place = PLANTS[kind]
    path = tmp_path / "release" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    terms = TERMS | {"20010909"} if kind == "gzip date" else TERMS
    hits = find_phi(tmp_path / "release", terms)
    assert len(hits) == 1, hits
    assert place in hits[0].place
    assert "jane" not in str(hits).lower() and "1958" not in str(hits)
    if kind != "DICOM other UID":
        assert hits[0].kind == "term" and len(hits[0].term_digest) == 8
    # Nothing but the word itself is told: without a dictionary, a bare name says nothing.
    looks_private = {hit.kind for hit in find_phi(tmp_path / "release", ())}
    assert looks_private <= {"person name", "UID"}


@pytest.mark.parametrize("key", ["patient", NAME])
def test_a_name_in_a_model_is_found(tmp_path, key):
    path = tmp_path / "release" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(safetensors(tmp_path, **{key: "Jane Doe" if key == "patient" else "x"}))
    [hit] = find_phi(path.parent, TERMS)
    assert hit.place.startswith("model.safetensors: header, ")


def test_one_term_has_one_digest_and_another_another(tmp_path):
    (tmp_path / "a.txt").write_text("Jane Doe")
    (tmp_path / "b.txt").write_text("doe_jane")
    (tmp_path / "c.txt").write_text("1958-03-14")
    a, b, c = find_phi(tmp_path, TERMS)
    assert a.term_digest == b.term_digest != c.term_digest


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.zip", zipped("x", b"y")[:-9]),
        ("a.7z", b"7z\xbc\xaf\x27\x1c" + bytes(20)),
        ("a.pdf", b"%PDF-1.4"),
        ("t.parquet", b"PAR1" + bytes(20)),
        ("log.gz", gz(b"x" * 900)[:-9]),
        ("v.nii.gz", gz(b"x" * 900)[:4]),
        ("model.safetensors", b"\xff" * 30),
        ("deep.gz", gz(gz(gz(gz(gz(gz(b"x"))))))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # archives hold the time
)
def test_what_cannot_be_searched_is_never_passed_over(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert [hit.kind for hit in find_phi(tmp_path, ())] == ["unread"]


def test_links_and_pipes_are_told(tmp_path):
    (tmp_path / "link").symlink_to("/data/doe_jane")
    os.mkfifo(tmp_path / "pipe")
    link, pipe = find_phi(tmp_path, TERMS)
    assert (link.place, link.kind) == ("link: link target", "term")
    assert (pipe.place, pipe.kind) == ("pipe: no regular file", "unread")


def test_names_and_texts_that_are_no_unicode_are_searched(tmp_path):
    (tmp_path / os.fsdecode(b"\xff doe jane.txt")).write_bytes(b"x")
    (tmp_path / "a.json").write_text('{"a": "\\ud800ab^cd"}')
    found = find_phi(tmp_path, TERMS | {os.fsdecode(b"f\xffoo")})
    assert sorted(hit.kind for hit in found) == ["person name", "term"]
    str(found).encode()


def test_a_release_with_hits_is_refused(tmp_path):
    refuse_phi([])
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text("DOE^JANE")
    with pytest.raises(ReleaseError, match=r"PHI_FOUND.*9 private words.*0\.txt") as caught:
        refuse_phi(find_phi(tmp_path, TERMS))
    assert "JANE" not in str(caught.value)


# Whole releases


def test_a_clean_release_has_no_hit(tmp_path):
    release = make_release(tmp_path / "work", tmp_path / "out" / "2.0")
    terms = TERMS | {"MILLER^JOHN", "MILLER_JOHN_B", "smith", "Miller"}
    assert find_phi(release, terms) == []
    (release / "README.md").open("a").write("Thanks to John Miller.\n")
    assert len(find_phi(release, terms)) == 1


def test_digests_ids_times_and_numbers_are_no_hits(tmp_path):
    """Even with a dictionary of a thousand numbers and many dates."""
    rng = np.random.default_rng(3)
    terms = {f"{number}" for number in rng.integers(100_000, 10**8, 1000)}
    terms |= {f"2025{month:02}{day:02}" for month in range(1, 13) for day in range(1, 29)}
    times = [f"2025-{m:02}-11T10:20:30.456Z" for m in range(1, 13)] * 100
    columns = {
        "case_id": [f"BDMAP_{90_000_000 + n}" for n in range(1200)],
        "event_id": [rng.bytes(32).hex() for _ in range(1200)],
        "candidate_id": [rng.bytes(8).hex() for _ in range(1200)],
        "scan_id": [f"private_p{rng.bytes(8).hex()}" for _ in range(1200)],
        "time": times,
        "voxels": [int(n) for n in rng.integers(1, 10**6, 1200)],
        "volume_mm3": [float(n) for n in rng.uniform(1, 10**7, 1200)],
        "mean_hu": [float(n) for n in rng.normal(0, 99, 1200)],
        "bbox": [[int(n) for n in rng.integers(0, 512, 6)] for _ in range(1200)],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    with open(tmp_path / "t.csv", "w") as file:
        file.write(",".join(columns) + "\n")
        for row in rows:
            cells = (row | {"bbox": ";".join(map(str, row["bbox"]))}).values()
            file.write(",".join(map(str, cells)) + "\n")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sums = "".join(f"{row['event_id']}  ct/{row['case_id']}/ct.nii.gz\n" for row in rows)
    (tmp_path / "SHA256SUMS").write_text(sums)
    assert find_phi(tmp_path, terms) == []


# From the hospital's folder to what is released

HU = np.random.default_rng(5).integers(-1000, 1200, (24, 40, 40)).astype(np.int16)
TAGS = {
    "PatientName": "OKONKWO^ADAEZE^N",
    "PatientID": "HX-5520917",
    "OtherPatientIDs": "44102938",
    "PatientBirthDate": "19610822",
    "PatientAddress": "7 Quince Terrace",
    "PatientTelephoneNumbers": "555 0182 443",
    "PatientMotherBirthName": "EZEIGBO^NKEM",
    "AdditionalPatientHistory": "Seen by Prof Tanaka",
    "InstitutionName": "Larkspur Valley Clinic",
    "InstitutionAddress": "1 Larkspur Road\r\nFenwickton",
    "InstitutionalDepartmentName": "Quarrington Ward",
    "ReferringPhysicianName": "BRANDVOLD^SIGRID",
    "PerformingPhysicianName": "DE LA CRUZ^MARIO",
    "NameOfPhysiciansReadingStudy": "TANAKA^ICHIRO",
    "OperatorsName": "SZABO^E",
    "AccessionNumber": "ACC7719302",
    "StudyID": "LV-88231",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.5520917",
    "StudyDate": "20170303",
    "StationName": "LARKSPUR-CT2",
    "DeviceSerialNumber": "SN9900713",
    "ImageComments": "copy for Brandvold",
    "PatientComments": "sister of Okonkwo, Ngozi",
    "SeriesDescription": "portal venous OKONKWO",
}


def hospital(folder):
    """Write a private series as a hospital's archive exports it."""
    place = folder / "OKONKWO_ADAEZE_19610822" / "ct"
    place.mkdir(parents=True)
    series = generate_uid(entropy_srcs=["series"])
    for number, stored in enumerate(HU):

        def change(dataset, number=number, stored=stored):
            uid = generate_uid(entropy_srcs=[str(number)])
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
            for keyword, value in TAGS.items():
                setattr(dataset, keyword, value)
            dataset.SeriesInstanceUID = series
            dataset.PatientSex, dataset.PatientAge = "F", "055Y"
            dataset.Manufacturer = "SIEMENS"
            dataset.ImagePositionPatient = [-150, -150, 2.5 * number]
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            dataset.PixelSpacing = [0.75, 0.75]
            dataset.Rows, dataset.Columns = stored.shape
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
            dataset.BitsAllocated = dataset.BitsStored = 16
            dataset.HighBit, dataset.PixelRepresentation = 15, 1
            dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
            item = Dataset()
            item.RequestingPhysician = "VANTERPOOL^IDA"
            item.RequestedProcedureID = "RP660217"
            dataset.RequestAttributesSequence = Sequence([item])
            block = dataset.private_block(0x0029, "ACME ARCHIVE", create=True)
            block.add_new(0x10, "PN", "OYELARAN^TUNDE")
            block.add_new(0x11, "LO", "Birgit Halvorsen")
            block.add_new(0x12, "UN", b"KOWALCZYK^EWA")
            dataset.PixelData = stored.tobytes()
            dataset["PixelData"].VR = "OW"

        (place / f"OKONKWO_{number:03}.dcm").write_bytes(dicom(change))
    return folder


@pytest.fixture(scope="module")
def read_private(tmp_path_factory):
    """Read the hospital's scan as the pipeline does, and write what the pipeline keeps of it."""
    folder = hospital(tmp_path_factory.mktemp("hospital"))
    kept = tmp_path_factory.mktemp("kept")
    source = read_source(ROOT / "resources/sources/private.yaml")
    key = bytes(range(32))
    listed = list_scans(source, folder, key)
    [scan] = listed["scans"]
    stored = read_stored(scan, max_voxels=10**7, min_slices=1, key=key)
    inner = {"image_path", "labels", "files", "pattern"}  # where it lies; never released
    facts = {
        "scan": {name: value for name, value in scan.items() if name not in inner},
        "excluded": listed["excluded"],
        "facts": dict(stored.facts),
        "links": list(stored.links),
        "sha256": stored.sha256,
        "findings": [finding.message for finding in stored.findings],
        "repairs": [str(repair) for repair in stored.repairs],
    }
    write_json(kept / "facts.json", facts)
    write_nifti(kept / "ct.nii.gz", stored.hu, stored.grid)
    return folder, kept, facts


def test_the_dictionary_holds_every_private_word(read_private):
    folder, _, _ = read_private
    dictionary = Dictionary(private_terms(folder))
    nested_words = ["VANTERPOOL^IDA", "RP660217", "OYELARAN^TUNDE", "Birgit Halvorsen"]
    nested_words += ["KOWALCZYK^EWA", "OKONKWO_ADAEZE_19610822", "OKONKWO_003", "Sigrid Brandvold"]
    missing = [
        word
        for keyword, word in {**TAGS, **dict(enumerate(nested_words))}.items()
        if not dictionary.find(word) and keyword not in ("OperatorsName",)
    ]
    assert missing == []
    assert dictionary.find("szabo e") and dictionary.find("Dr. Szabo")
    for words in ("liver", "CT abdomen, portal venous", "SIEMENS", "55", "F", "private", "ct"):
        assert not dictionary.find(words), words


def test_reading_and_writing_leave_every_name_behind(read_private):
    folder, kept, facts = read_private
    assert facts["facts"] == {
        "sex": "F", "age": "55", "manufacturer": "SIEMENS", "phase": "venous"
    }  # fmt: skip
    assert len(facts["links"]) >= 1 and facts["scan"]["scan_id"].startswith("private_p")
    assert find_phi(kept, private_terms(folder)) == []


def test_the_gate_sees_what_a_careless_step_would_leave(read_private, tmp_path):
    folder, kept, facts = read_private
    terms = private_terms(folder)
    for place in (
        "Scan of A. Okonkwo", "okonkwo_003.dcm", "22.08.1961", "acc 7719302", "dr sigrid brandvold",
        "in Fenwickton", "Larkspur Valley clinic", "HX5520917", "Mario de la Cruz",
        TAGS["StudyInstanceUID"],
    ):  # fmt: skip
        (tmp_path / "note.txt").write_text(f"first line\n{place}\n")
        hits = find_phi(tmp_path, terms)
        assert [hit.place for hit in hits] == ["note.txt: line 2"], place


def test_a_private_header_that_cannot_be_read_stops_the_dictionary(tmp_path):
    (tmp_path / "v.nii.gz").write_bytes(gz(volume("descrip", b"HALVORSEN^B"))[:40])
    with pytest.raises(InputError, match="PRIVATE_UNREAD"):
        private_terms(tmp_path)


def test_texts_of_converted_volumes_are_in_the_dictionary(tmp_path):
    (tmp_path / "v.nii.gz").write_bytes(
        gz(volume("descrip", b"for HALVORSEN^BIRGIT"), name=b"kowalczyk_ewa.nii")
    )
    dictionary = Dictionary(private_terms(tmp_path))
    assert dictionary.find("Birgit Halvorsen") and dictionary.find("Ewa Kowalczyk")


def test_png_text_of_a_library_is_found(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Author", NAME, zip=True)
    Image.new("L", (2, 2)).save(tmp_path / "p.png", pnginfo=info)
    assert len(find_phi(tmp_path, TERMS)) == 1
