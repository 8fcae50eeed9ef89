"""Compare predicted tumors with the final ones: overlap, surfaces, detections."""
