"""From decisions to final masks."""
