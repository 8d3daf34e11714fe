"""Layouts of data sets of ages and genders."""

TREES = ()
