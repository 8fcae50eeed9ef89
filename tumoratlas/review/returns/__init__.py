"""What readers send back."""
