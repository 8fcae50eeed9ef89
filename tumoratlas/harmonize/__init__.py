"""Scans to cases: one orientation, the release image and the model grid."""
