"""Who may have which file."""
