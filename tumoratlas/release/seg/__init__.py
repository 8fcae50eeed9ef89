"""The masks as DICOM SEG objects."""
