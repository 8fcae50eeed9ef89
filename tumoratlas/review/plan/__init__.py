"""What is to be reviewed next, by whom."""
