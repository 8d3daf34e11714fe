"""Layouts of known data sets."""

from tests.data.layouts import age, emotion

TREES = (*age.TREES, *emotion.TREES)
