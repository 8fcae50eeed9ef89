"""The release as other tools expect it: path maps and descriptions, and no image twice."""
