"""The check of any copy of a release."""
