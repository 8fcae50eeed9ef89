"""Volumes on grids: strict NIfTI, DICOM series, orientation and resampling."""
