"""Tests of TumorAtlas."""
