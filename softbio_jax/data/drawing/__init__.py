"""Drawn faces: labels to a face's parameters (appearance), and those to pixels (rendering)."""
