"""Splits, the release tree and its verification."""
