"""Chains between released cases and test sets."""
