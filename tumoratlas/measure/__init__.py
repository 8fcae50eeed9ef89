"""Tumor instances: sizes, classes and counts."""
