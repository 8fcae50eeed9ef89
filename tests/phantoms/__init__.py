"""Phantom patients in the on-disk layouts of the real sources, with their exact truth.

`write_phantoms` makes the whole set; `tests.phantoms.truth` reads the truth back.
"""

from tests.phantoms.layouts import write_phantoms

__all__ = ["write_phantoms"]
