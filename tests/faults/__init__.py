"""The fault campaign: the micro run under injected faults, compared with an undisturbed one.

``python -m tests.faults [NAME ...]`` runs all faults, or those whose names hold a word, one after
the other, in ``faults/`` below the current folder; ``make faults`` also writes docs/faults.md.
Faults of disks mount small file systems in memory and need root.
"""
