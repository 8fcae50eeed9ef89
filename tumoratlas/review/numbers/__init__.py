"""What the review tells about candidates, readers and time."""
