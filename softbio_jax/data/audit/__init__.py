"""Audit of prepared data: duplicates and leaks, census, label counts; as JSON and as a page."""
