"""Real scans put into the layouts of their sources, as somebody who downloaded them has them."""

import csv
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from tumoratlas.ingest.pseudonyms import pseudonym

PRIVATE = ("crlm_ct_1004", "totalseg_example")
# A key of this test only: what it makes of the folders' names is known in no release.
KEY = "0ddba11" * 8 + "0ddba11a"
CONFIG = """\
version: "2.0"
shards: 1
sources:
  - {id: lits, path: sources/lits}
  - {id: chaos, path: sources/chaos}
  - {id: private, path: sources/private}
review:
  double_read_fraction: 0
  full_read_fraction: 0
  full_read_minimum: 0
release:
  # A folder's name, and the beginning of a collection's that the report names.
  public_words: [totalseg]
"""


def write_real_sources(real_data: Path, folder: Path) -> None:
    """Write LiTS 0, CHAOS CT 3 and two private series below ``folder/sources``."""
    _write_lits(real_data / "lits_liver_0", folder / "sources/lits/Training_Batch1")
    chaos = folder / "sources/chaos/Train_Sets/CT/3"
    for name in ("dicom", "ground_png"):
        _extract(real_data / f"chaos_ct_set_3/{name}.tar.xz", chaos)
    private = folder / "sources/private"
    _extract(real_data / "tcia_crlm_ct_1004/dicom.tar.xz", private)
    (private / PRIVATE[0]).mkdir()
    (private / "CRLM-CT-1004").rename(private / PRIVATE[0] / "ct")
    series = private / PRIVATE[1] / "ct"
    series.mkdir(parents=True)
    for path in (real_data / "totalseg_ct_dicom/dicom").iterdir():
        (series / path.name).write_bytes(path.read_bytes())


def write_key(records: Path) -> None:
    """Write the key of the private source's pseudonyms where the pipeline looks for it."""
    path = records / "pseudonym.key"
    path.touch(mode=0o600)
    path.write_text(KEY + "\n", encoding="ascii")


def private_case(name: str) -> str:
    """Return the name under which the pipeline knows a folder of the private source."""
    return pseudonym(bytes.fromhex(KEY), name)


def sign_off(packets: Path, case_id: str, returns: Path) -> int:
    """Send back the batches' forms with every organ of one case signed off; return the lines."""
    signed = 0
    for path in sorted(packets.glob("b*/decisions.csv")):
        form = pd.read_csv(path, dtype=str, keep_default_na=False)
        form = form[form.case_id == case_id].copy()
        form["decision"] = "sign_off"
        form["time"] = [f"2026-01-05T09:{minute:02d}:00Z" for minute in range(len(form))]
        form["seconds"] = "45"
        if len(form):
            folder = returns / path.parent.name
            folder.mkdir(parents=True)
            form.to_csv(folder / "decisions.csv", index=False, quoting=csv.QUOTE_MINIMAL)
        signed += len(form)
    return signed


def _write_lits(given: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    nib.save(nib.load(given / "ct.nii.gz"), folder / "volume-0.nii")
    liver = nib.load(given / "liver_pseudo_difftumor.nii.gz")
    labels = (np.asarray(liver.dataobj) > 0).astype(np.uint8)
    labels[np.asarray(nib.load(given / "tumor_instances.nii.gz").dataobj) > 0] = 2
    nib.save(nib.Nifti1Image(labels, liver.affine), folder / "segmentation-0.nii")


def _extract(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
