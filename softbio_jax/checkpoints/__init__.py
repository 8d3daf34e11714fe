"""Checkpoints: what a run saves and what it starts from."""
