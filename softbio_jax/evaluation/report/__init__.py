"""Runs in, one document out: HTML, Markdown, LaTeX and JSON with the same content."""
