"""Source folders to scans: list, fingerprint, deduplicate, name."""
