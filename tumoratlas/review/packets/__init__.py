"""What a reader gets for one batch."""
