"""Strict NIfTI: what is refused, what is accepted, what is written."""

import gzip
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from tumoratlas.core.errors import GeometryError, InputError
from tumoratlas.images import nifti
from tumoratlas.images.checks import CHECKS
from tumoratlas.images.grid import Grid, to_canonical
from tumoratlas.images.nifti import read_nifti, write_nifti

MAX_VOXELS = 10**6
SHAPE = (6, 7, 8)
AFFINE = np.array([[0.8, 0, 0, -20], [0, 0.7, 0, 30], [0, 0, 2.5, -400], [0, 0, 0, 1.0]])
VOXELS = np.random.default_rng(3).integers(-1000, 1000, SHAPE).astype(np.int16)


def content(
    array: np.ndarray = VOXELS,
    sform: np.ndarray | None = AFFINE,
    qform: np.ndarray | None = AFFINE,
    version: type = nib.Nifti1Header,
    endianness: str = "<",
    **fields: object,
) -> bytes:
    """Return the bytes of a .nii file; ``fields`` are set last and need not be legal."""
    header = version(endianness=endianness)
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape[::-1])
    if qform is not None:
        header.set_qform(qform, code=1)
    if sform is not None:
        header.set_sform(sform, code=1)
        header["pixdim"][1:4] = np.linalg.norm(sform[:3, :3], axis=0)
    header.set_xyzt_units("mm")
    single = version is nib.Nifti1Header
    header["magic"] = b"n+1" if single else header["magic"]
    header["vox_offset"] = 352 if single else 544
    for name, value in fields.items():
        header[name] = value
    stored = array.astype(array.dtype.newbyteorder(endianness))
    return header.binaryblock + bytes(4) + stored.tobytes()


def packed(data: bytes, level: int = 1) -> bytes:
    return gzip.compress(data, level, mtime=0)


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 4
    return bytes(changed)


def read(tmp_path: Path, data: bytes, name: str = "scan.nii.gz") -> nifti.NiftiFile:
    path = tmp_path / name
    path.write_bytes(data)
    return read_nifti(path, max_voxels=MAX_VOXELS)


def refused(code: str, action: Callable[[], object]) -> InputError:
    with pytest.raises(InputError) as caught:
        action()
    assert caught.value.code == code, caught.value
    assert isinstance(caught.value, GeometryError) == (CHECKS[code].kind == "geometry")
    assert CHECKS[code].level == "refuse" and caught.value.remedy
    return caught.value


def one_voxel_bit(data: bytes) -> int:
    """Return a position whose flipped bit changes voxels, but neither stream nor size."""
    whole = zlib.decompress(data[10:-8], -15)
    for position in range(len(data) // 2, len(data)):
        try:
            other = zlib.decompress(flipped(data, position)[10:-8], -15)
        except zlib.error:
            continue
        if len(other) == len(whole) and other[:352] == whole[:352]:
            return position
    raise LookupError("no such bit")


def broken_block(content: bytes) -> bytes:
    """Return a gzip file with a block of the reserved type after the first 600 bytes."""
    squeeze = zlib.compressobj(1, wbits=31)
    start = squeeze.compress(content[:600]) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return start + b"\x07" + squeeze.compress(content[600:]) + squeeze.flush()


GOOD = packed(content())
FILES = {
    "empty": ("EMPTY_FILE", b""),
    "cut at 60 %": ("GZIP_TRUNCATED", GOOD[: len(GOOD) * 6 // 10]),
    "cut inside the header": ("GZIP_TRUNCATED", GOOD[:60]),
    "no trailer": ("GZIP_TRUNCATED", GOOD[:-8]),
    "half a trailer": ("GZIP_TRUNCATED", GOOD[:-3]),
    "other checksum": ("GZIP_CRC", flipped(GOOD, -6)),
    "other length": ("GZIP_CRC", flipped(GOOD, -2)),
    "one voxel bit": ("GZIP_CRC", flipped(GOOD, one_voxel_bit(GOOD))),
    "damaged stream": ("GZIP_CORRUPT", broken_block(content())),
    "gzip magic only": ("GZIP_CORRUPT", b"\x1f\x8b" + b"\xff" * 50),
    "trailing junk": ("GZIP_TRAILING", GOOD + b"more"),
    "trailing zeros": ("GZIP_TRAILING", GOOD + bytes(512)),
    "two members": ("GZIP_MEMBERS", GOOD + packed(b"more")),
    "two equal members": ("GZIP_MEMBERS", GOOD + GOOD),
    "split over members": ("GZIP_MEMBERS", packed(content()[:600]) + packed(content()[600:])),
    "web page": ("HTML_PAGE", b"\n<!DOCTYPE html><html><body>Sign in</body></html>"),
    "lfs pointer": ("POINTER_FILE", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "annex pointer": ("POINTER_FILE", b"/annex/objects/SHA256E-s10--0.nii.gz\n"),
    "plain as gz": ("NOT_GZIP", content()),
    "text": ("NOT_GZIP", b"hello"),
    "gzip of text": ("NOT_NIFTI", packed(b"hello " * 200)),
    "gzip of little": ("NOT_NIFTI", packed(b"hi")),
    "more data than claimed": ("DATA_SIZE", packed(content() + bytes(2))),
    "less data than claimed": ("DATA_SIZE", packed(content()[:-2])),
    "claims 21 TB": ("VOLUME_TOO_LARGE", packed(content(dim=[3, 30000, 30000, 3000, 1, 1, 1, 1]))),
    "zeros behind the header": ("DATA_SIZE", packed(content() + bytes(5_000_000), 9)),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_file_is_refused(tmp_path: Path, name: str) -> None:
    code, data = FILES[name]
    refused(code, lambda: read(tmp_path, data))


def test_bad_path_is_refused(tmp_path: Path) -> None:
    def refuse(code: str, name: str) -> None:
        refused(code, lambda: read_nifti(tmp_path / name, max_voxels=MAX_VOXELS))

    refuse("FILE_MISSING", "none.nii.gz")
    (tmp_path / "dangling.nii.gz").symlink_to(tmp_path / "gone")
    refuse("BROKEN_LINK", "dangling.nii.gz")
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "b.nii.gz")
    (tmp_path / "b.nii.gz").symlink_to(tmp_path / "a.nii.gz")
    refuse("BROKEN_LINK", "a.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    refuse("UNREADABLE", "folder.nii.gz")
    # Opened, it would wait for a writer for ever.
    os.mkfifo(tmp_path / "pipe.nii.gz")
    refuse("UNREADABLE", "pipe.nii.gz")
    with zipfile.ZipFile(tmp_path / "zip.nii.gz", "w") as archive:
        archive.writestr("scan.nii", content())
    refuse("ZIP_FILE", "zip.nii.gz")
    (tmp_path / "gzip.nii").write_bytes(GOOD)
    refuse("IS_GZIP", "gzip.nii")
    (tmp_path / "cut.nii").write_bytes(content()[:-1])
    refuse("DATA_SIZE", "cut.nii")
    (tmp_path / "other.nii").write_bytes(b"hello" * 200)
    refuse("NOT_NIFTI", "other.nii")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_forbidden_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(GOOD)
    path.chmod(0)
    refused("UNREADABLE", lambda: read_nifti(path, max_voxels=MAX_VOXELS))


def test_gzip_bomb_costs_neither_memory_nor_time(tmp_path: Path) -> None:
    """200 MB of zeros behind an honest-looking trailer are walked over only in part."""
    squeeze = zlib.compressobj(9, wbits=31)
    data = squeeze.compress(content()) + squeeze.compress(bytes(200_000_000)) + squeeze.flush()
    lying = data[:-4] + len(content()).to_bytes(4, "little")
    error = refused("DATA_SIZE", lambda: read(tmp_path, lying))
    assert int(error.evidence.split()[-1]) < 3_000_000


def test_other_readers_accept_what_is_refused(tmp_path: Path) -> None:
    """The reason for this module: wrong voxels without an error elsewhere."""
    # Large enough that the readers' buffers do not reach the end of the file with the header.
    array = np.random.default_rng(4).integers(-1000, 1000, (40, 60, 60)).astype(np.int16)
    data = packed(content(array))
    cut, bit = tmp_path / "cut.nii.gz", tmp_path / "bit.nii.gz"
    cut.write_bytes(data[: len(data) * 6 // 10])
    bit.write_bytes(flipped(data, one_voxel_bit(data)))
    for path, code in ((cut, "GZIP_TRUNCATED"), (bit, "GZIP_CRC")):
        seen = sitk.GetArrayFromImage(sitk.ReadImage(path))
        assert seen.shape == array.shape and not np.array_equal(seen, array)
        refused(code, lambda path=path: read_nifti(path, max_voxels=MAX_VOXELS))
    seen = np.asarray(nib.load(bit).dataobj).T
    assert seen.shape == array.shape and not np.array_equal(seen, array)


def affine(**entries: float) -> np.ndarray:
    """Return AFFINE with entries such as ``r0c1=0.5`` replaced."""
    changed = AFFINE.copy()
    for place, value in entries.items():
        changed[int(place[1]), int(place[3])] = value
    return changed


TURNED = AFFINE @ np.array([[-1, 0, 0, 7], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
RGB = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "zero dimension": ("DIMENSION_INVALID", {"dim": [3, 8, 0, 6, 1, 1, 1, 1]}),
    "negative dimension": ("DIMENSION_INVALID", {"dim": [3, 8, -7, 6, 1, 1, 1, 1]}),
    "9 dimensions": ("HEADER_DAMAGED", {"dim": [9, 8, 7, 6, 1, 1, 1, 1]}),
    "time series": ("TIME_SERIES", {"array": np.zeros((2, *SHAPE), np.int16)}),
    "vectors": ("TIME_SERIES", {"array": np.zeros((3, 1, *SHAPE), np.float32)}),
    "plane": ("NOT_3D", {"array": np.zeros((7, 8), np.int16)}),
    "colors": ("DTYPE_RGB", {"array": RGB}),
    "complex": ("DTYPE_COMPLEX", {"array": np.zeros(SHAPE, np.complex64)}),
    "bits": ("DTYPE_UNKNOWN", {"datatype": 1, "bitpix": 1}),
    "no such type": ("DTYPE_UNKNOWN", {"datatype": 77}),
    "bitpix": ("HEADER_DAMAGED", {"bitpix": 8}),
    "offset": ("HEADER_DAMAGED", {"vox_offset": 10}),
    "offset NaN": ("HEADER_DAMAGED", {"vox_offset": np.nan}),
    "pair": ("PAIRED_HEADER", {"magic": b"ni1"}),
    "no magic": ("NOT_NIFTI", {"magic": b""}),
    "micrometres": ("UNITS_NOT_MM", {"xyzt_units": 3}),
    "metres": ("UNITS_NOT_MM", {"xyzt_units": 1}),
    "slope infinite": ("SCALING_INVALID", {"scl_slope": np.inf}),
    "no codes": ("NO_ORIENTATION", {"sform_code": 0, "qform_code": 0}),
    "forms turned": ("FORMS_CONTRADICT", {"qform": TURNED}),
    "zoom": ("SPACING_CONTRADICTION", {"pixdim": [1, 0.8, 0.7, 5.0, 0, 0, 0, 0]}),
    "zoom NaN": ("SPACING_CONTRADICTION", {"pixdim": [1, 0.8, 0.7, np.nan, 0, 0, 0, 0]}),
    "shear alone": ("NON_ORTHONORMAL", {"sform": affine(r1c2=0.3), "qform_code": 0}),
    "singular": ("AFFINE_SINGULAR", {"srow_y": [0, 0, 0, 30]}),
    "flat": ("AFFINE_SINGULAR", {"srow_y": [0.8, 0, 0, 30], "srow_x": [0.8, 0, 0, 30]}),
    "affine NaN": ("AFFINE_NOT_FINITE", {"srow_x": [0.8, np.nan, 0, 0]}),
    "origin infinite": ("AFFINE_NOT_FINITE", {"srow_x": [0.8, 0, 0, np.inf]}),
    "qform alone, no rotation": ("QFORM_INVALID", {"sform_code": 0, "quatern_b": 2.0}),
    "qform alone, spacing -1": ("QFORM_INVALID", {"sform_code": 0, "pixdim": [1] + [-1] * 7}),
    "NaN": ("DATA_NOT_FINITE", {"array": np.full(SHAPE, np.nan, np.float32)}),
    "infinite": ("DATA_NOT_FINITE", {"array": np.full(SHAPE, np.inf, np.float64)}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_bad_header_is_refused(tmp_path: Path, name: str) -> None:
    code, options = HEADERS[name]
    refused(code, lambda: read(tmp_path, packed(content(**options))))


def codes(file: nifti.NiftiFile) -> list[str]:
    return [finding.code for finding in file.findings]


def test_good_file_is_read_as_nibabel_reads_it(tmp_path: Path) -> None:
    file = read(tmp_path, GOOD)
    other = nib.load(file.path)
    np.testing.assert_array_equal(file.array, np.asarray(other.dataobj).T)
    np.testing.assert_array_equal(file.grid.affine, other.affine)
    assert file.array.dtype == np.int16 and file.grid.shape == SHAPE and not file.findings
    assert file.array.flags.writeable and file.array.flags.c_contiguous


def test_legal_variants_are_accepted(tmp_path: Path) -> None:
    plain = read(tmp_path, content(), "scan.nii")
    np.testing.assert_array_equal(plain.array, VOXELS)
    big = read(tmp_path, packed(content(endianness=">")))
    np.testing.assert_array_equal(big.array, VOXELS)
    assert big.array.dtype.isnative
    second = read(tmp_path, packed(content(version=nib.Nifti2Header)))
    np.testing.assert_array_equal(second.array, VOXELS)
    one_time = read(tmp_path, packed(content(VOXELS[None])))
    np.testing.assert_array_equal(one_time.array, VOXELS)
    extended = content(vox_offset=356)
    odd = read(tmp_path, packed(extended[:352] + b"\1\2\3\4" + extended[352:]))
    np.testing.assert_array_equal(odd.array, VOXELS)


def test_orientation_policy(tmp_path: Path) -> None:
    only_q = read(tmp_path, packed(content(sform_code=0)))
    np.testing.assert_allclose(only_q.grid.affine, AFFINE, atol=1e-4)
    kits = read(tmp_path, packed(content(qform=None, sform_code=2, xyzt_units=0)))
    np.testing.assert_allclose(kits.grid.affine, AFFINE, atol=1e-4)
    assert codes(kits) == ["UNITS_UNKNOWN"]
    shifted = read(tmp_path, packed(content(qform=affine(r0c3=55.0))))
    assert codes(shifted) == ["FORMS_DIFFER"] and shifted.grid.affine[0, 3] == -20
    tilt = read(tmp_path, packed(content(sform=affine(r1c2=0.3))))
    assert codes(tilt) == ["SFORM_SHEARED", "READERS_DIFFER"] and tilt.grid.affine[1, 2] == 0
    nearly = read(tmp_path, packed(content(sform=affine(r1c2=1e-5))))
    assert codes(nearly) == []
    lost = read(tmp_path, packed(content(sform=np.eye(4), qform=np.eye(4))))
    assert codes(lost) == ["SPACING_SUSPECT"]


def test_scaling(tmp_path: Path) -> None:
    for slope, intercept in ((0, 5), (np.nan, 5), (1, 0)):
        same = read(tmp_path, packed(content(scl_slope=slope, scl_inter=intercept)))
        np.testing.assert_array_equal(same.array, VOXELS)
    stored = (VOXELS + 1024).astype(np.uint16)
    shifted = read(tmp_path, packed(content(stored, scl_slope=1, scl_inter=-1024)))
    assert shifted.array.dtype == np.int16
    np.testing.assert_array_equal(shifted.array, VOXELS)
    halved = read(tmp_path, packed(content(scl_slope=0.5, scl_inter=0.25)))
    assert halved.array.dtype == np.float32
    np.testing.assert_array_equal(halved.array, VOXELS * 0.5 + 0.25)
    wide = read(tmp_path, packed(content(scl_slope=100, scl_inter=0)))
    assert wide.array.dtype == np.float32


def test_real_files_are_accepted(real_data: Path) -> None:
    paths = sorted(real_data.rglob("*.nii.gz"))
    assert len(paths) >= 30
    for path in paths:
        file = read_nifti(path, max_voxels=10**9)
        other = nib.load(path)
        np.testing.assert_allclose(file.grid.affine, other.affine, atol=1e-4, err_msg=str(path))
        assert file.grid.shape == other.shape[::-1]
        assert set(codes(file)) <= {"UNITS_UNKNOWN"}, path
    kits = read_nifti(next(real_data.glob("kits23*/case_00030*")), max_voxels=10**9)
    assert kits.grid.orientation == "IPL" and kits.grid.spacing_mm[0] == 5


def test_real_scan_survives_writing(real_data: Path, tmp_path: Path) -> None:
    file = read_nifti(real_data / "lits_liver_0" / "ct.nii.gz", max_voxels=10**9)
    array, grid = to_canonical(file.array, file.grid)
    write_nifti(tmp_path / "ct.nii.gz", array, grid)
    seen = sitk.ReadImage(tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(seen), array)
    np.testing.assert_allclose(seen.GetSpacing(), file.grid.spacing_mm, rtol=1e-6)


@pytest.mark.parametrize("dtype", nifti.WRITTEN_DTYPES)
def test_written_file_keeps_voxels_and_grid(tmp_path: Path, dtype: str) -> None:
    array = np.abs(VOXELS).astype(dtype)
    grid = Grid.of(SHAPE, AFFINE)
    sha256 = write_nifti(tmp_path / "a.nii.gz", array, grid)
    assert write_nifti(tmp_path / "other_name.nii.gz", array[:, ::-1][:, ::-1], grid) == sha256
    file = read_nifti(tmp_path / "a.nii.gz", max_voxels=MAX_VOXELS)
    np.testing.assert_array_equal(file.array, array)
    assert file.array.dtype == dtype and file.sha256 == sha256 and not file.findings
    assert file.grid.corner_distance_mm(grid) < 1e-4
    header = nib.load(file.path).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    # Neither flags (a name) nor time in the gzip header.
    assert file.path.read_bytes()[:8] == b"\x1f\x8b\x08" + bytes(5)


def test_oblique_grid_is_kept(tmp_path: Path) -> None:
    turn = nib.eulerangles.euler2mat(0.1, -0.2, 0.3)
    oblique = nib.affines.from_matvec(turn @ AFFINE[:3, :3], [10, -20, 30])
    grid = Grid.of(SHAPE, oblique)
    write_nifti(tmp_path / "a.nii.gz", VOXELS, grid)
    file = read_nifti(tmp_path / "a.nii.gz", max_voxels=MAX_VOXELS)
    assert file.grid.corner_distance_mm(grid) < 1e-4 and not file.findings


def test_nothing_of_the_input_header_survives(tmp_path: Path) -> None:
    secret = content(descrip=b"DOE^JANE", aux_file=b"DOE", db_name=b"DOE", intent_name=b"DOE")
    file = read(tmp_path, packed(secret), "secret.nii.gz")
    write_nifti(tmp_path / "DOE.nii.gz", file.array, file.grid)
    data = (tmp_path / "DOE.nii.gz").read_bytes()
    assert b"DOE" not in data and b"DOE" not in gzip.decompress(data)


def test_write_refuses_what_it_cannot_keep(tmp_path: Path) -> None:
    grid = Grid.of(SHAPE, AFFINE)
    for name, array in (
        ("a.nii.gz", VOXELS.astype(np.float32)),
        ("a.nii.gz", VOXELS[1:]),
        ("a.nii", VOXELS),
    ):
        with pytest.raises(ValueError):
            write_nifti(tmp_path / name, array, grid)
    for code, bad in (
        ("AFFINE_SINGULAR", np.diag([0.0, 1, 1, 1])),
        ("AFFINE_NOT_FINITE", np.diag([np.nan, 1, 1, 1])),
        ("WRITE_NOT_KEPT", affine(r1c2=0.3)),
    ):
        broken = Grid.of(SHAPE, bad)
        refused(code, lambda broken=broken: write_nifti(tmp_path / "a.nii.gz", VOXELS, broken))
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid.of(SHAPE, AFFINE)
    path = tmp_path / "a.nii.gz"
    sha256 = write_nifti(path, VOXELS, grid)
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: self.open("wb").write(data[:-50]))
    refused("GZIP_TRUNCATED", lambda: write_nifti(path, VOXELS + 1, grid))
    monkeypatch.undo()
    assert read_nifti(path, max_voxels=MAX_VOXELS).sha256 == sha256
    assert list(tmp_path.iterdir()) == [path]
