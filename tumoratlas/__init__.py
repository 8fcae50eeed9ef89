"""The algorithms of TumorAtlas: from source folders to a verified tumor dataset release."""

__version__ = "0.1.0"
