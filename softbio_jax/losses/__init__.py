"""Losses: unreduced per task, global masked mean, balanced total."""
