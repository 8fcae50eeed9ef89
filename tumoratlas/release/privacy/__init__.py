"""The search for private words."""
