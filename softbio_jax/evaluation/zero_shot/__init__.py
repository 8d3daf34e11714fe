"""zero_shot."""
