"""The public names of the packages: each resolves, none hides a module, none is loaded early."""

import importlib
import json
import subprocess
import sys

import pytest

from scripts.dev import api_pages
from tests.structure import PACKAGE, ROOT


def folders_of(file):
    """Dotted names of the folders of the package that contain a file of that name."""
    return {path.parent.relative_to(PACKAGE).as_posix().replace("/", ".") for path in PACKAGE.rglob(file)}


STUBS = sorted(folders_of("__init__.pyi"))
HEAVY = ("jax", "flax", "numpy", "orbax", "tensorflow_datasets", "matplotlib", "cv2")


def test_every_package_lists_its_public_names():
    # The top level has `load`; importing data.builders registers the builders.
    builders = {"data.builders", "data.builders.age", "data.builders.emotion"}
    assert folders_of("__init__.py") - set(STUBS) == {".", *builders}


@pytest.mark.parametrize("part", STUBS)
def test_public_names_exist(part):
    names = api_pages.public_names(part)
    package = importlib.import_module(f"softbio_jax.{part}")
    assert 3 <= len(names) <= 10
    assert set(package.__all__) == set(names)
    for name, module in names.items():
        source = importlib.import_module(f"softbio_jax.{part}.{module}".rstrip("."))
        assert getattr(package, name) is getattr(source, name)


@pytest.mark.parametrize("part", STUBS)
def test_no_function_is_named_like_a_module(part):
    """Else what `from package import name` gives would depend on what was imported before."""
    modules = {path.stem for path in PACKAGE.joinpath(*part.split(".")).iterdir() if path.stem != "__init__"}
    assert [name for name, module in api_pages.public_names(part).items() if module and name in modules] == []


def test_importing_the_packages_loads_nothing_heavy():
    code = f"""
import importlib, json, sys
for part in {STUBS}:
    importlib.import_module("softbio_jax." + part)
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
