"""The examples in docstrings, as they are written."""

import doctest
import importlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHOWING = [path for path in sorted(ROOT.glob("softbio_jax/**/*.py")) if ">>> " in path.read_text()]


def _name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


@pytest.mark.parametrize("module", [_name(path) for path in SHOWING])
def test_examples_hold(module):
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried > 0
    assert failed == 0
