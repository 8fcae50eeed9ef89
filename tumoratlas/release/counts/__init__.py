"""The counts of a release and the figures of the paper."""
