"""Code that imports the module names of 0.1 still runs, and is told the new ones."""

import importlib
import sys

import pytest

from softbio_jax import moved
from softbio_jax.runs import build, data


@pytest.mark.parametrize("old", sorted(moved._NEW))
def test_a_module_of_0_1_gives_what_took_its_place(old):
    sys.modules.pop(f"softbio_jax.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to softbio_jax.{moved._NEW[old]} "):
        found = importlib.import_module(f"softbio_jax.{old}")
    new = importlib.import_module(f"softbio_jax.{moved._NEW[old]}")
    public = [n for n in vars(new) if not n.startswith("_") and (old, n) not in moved._RENAMED]
    assert public and all(getattr(found, name) is getattr(new, name) for name in public)


@pytest.mark.parametrize("key", moved._RENAMED, ids=".".join)
def test_a_renamed_name_is_found(key):
    old = key[0] if key[0] in moved._NEW else next(old for old, new in moved._NEW.items() if new == key[0])
    with pytest.warns(DeprecationWarning):
        sys.modules.pop(f"softbio_jax.{old}", None)
        found = getattr(importlib.import_module(f"softbio_jax.{old}"), key[1])
    module, _, name = moved._RENAMED[key].partition(":")
    assert callable(found) and found is getattr(importlib.import_module(f"softbio_jax.{module}"), name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_setting_an_attribute_sets_the_new_one():
    from softbio_jax.train import build as old

    before = build.describe
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(old, "describe", "other")
        assert build.describe == "other"
    assert build.describe is before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_module_that_never_was_is_missing():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("softbio_jax.train.nothing")
    with pytest.raises(AttributeError):
        importlib.import_module("softbio_jax.train.data").nothing  # noqa: B018
    assert importlib.import_module("softbio_jax.train.data").RunData is data.RunData
