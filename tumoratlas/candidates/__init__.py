"""Model output to candidates: level maps, FROC thresholds, components."""
