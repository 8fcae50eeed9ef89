"""Reading a CT from ``.nii.gz``."""

import imagecodecs
import nibabel as nib
import numpy as np
import SimpleITK as sitk

from benchmarks.phantom import Phantom
from benchmarks.timing import markdown_table, time_methods
from tumoratlas.images.nifti import read_nifti

OURS = "tumoratlas: read_nifti with CRC and SHA-256"
NAIVE = "nibabel get_fdata (float64)"
INTEGERS = "nibabel dataobj (int16)"
ITK = "SimpleITK ReadImage"
FLOOR = "floor: libdeflate from memory, nothing checked"


def compare_reading(phantom: Phantom, rounds: int) -> str:
    """Time the ways of reading and return their table."""
    data = phantom.image.read_bytes()
    buffer = np.empty(352 + phantom.hu.nbytes, np.uint8)

    def inflate() -> np.ndarray:
        imagecodecs.gzip_decode(data, out=buffer)
        return buffer[352:].view(np.int16).reshape(phantom.hu.shape)

    methods = {
        OURS: lambda: read_nifti(phantom.image, max_voxels=10**9).array,
        NAIVE: lambda: nib.load(phantom.image).get_fdata().transpose(2, 1, 0),
        INTEGERS: lambda: np.asarray(nib.load(phantom.image).dataobj).transpose(2, 1, 0),
        ITK: lambda: sitk.GetArrayFromImage(sitk.ReadImage(phantom.image)),
        FLOOR: inflate,
    }
    timings, results = time_methods(methods, rounds)
    for name, array in results.items():
        if not np.array_equal(array, phantom.hu):
            raise ValueError(f"{name} read other voxels")
    megabytes = len(data) / 1e6, phantom.hu.nbytes / 1e6
    title = "Read a CT, {:.3g} MB on disk, {:.3g} MB of voxels".format(*megabytes)
    return f"{markdown_table(title, timings, NAIVE)}\n\nAll read the same voxels."
