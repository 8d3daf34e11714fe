"""Our lower bounds admit what the platforms have; what pip makes of them is in checks.py."""

import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.platforms import freeze

PLATFORMS = sorted(pathlib.Path(__file__).parent.glob("*.txt"))
# Of torch a notebook uses nothing that older versions lack; a .pt file is refused there, with the reason.
NOT_IN_NOTEBOOKS = {"convert", "parity", "app", "beam", "dev", "docs", "litert"}


def requirements():
    project = tomllib.loads((freeze.ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"]]
    lines += [line for name, more in extras.items() if name not in NOT_IN_NOTEBOOKS for line in more]
    return [Requirement(line) for line in lines]


def test_there_are_the_images_of_both_platforms_and_accelerators():
    names = {re.sub(r"-\d+", "", path.stem) for path in PLATFORMS}
    assert names == {"colab-tpu", "colab-gpu", "kaggle-tpu"}


@pytest.mark.parametrize("path", PLATFORMS, ids=lambda path: path.stem)
def test_bounds_admit_the_versions_of_a_platform(path):
    platform = freeze.read(path)
    versions = platform.installed | platform.present
    assert {"jax", "jaxlib", "flax", "numpy", "torch"} <= set(versions)
    refused = {
        str(requirement): versions[name]
        for requirement in requirements()
        if (name := freeze.normalised(requirement.name)) in versions
        and not requirement.specifier.contains(versions[name], prereleases=True)
    }
    assert refused == {}, "installing would replace the platform's version"


@pytest.mark.parametrize("notebook", sorted((freeze.ROOT / "colab").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_install_no_extra_that_needs_newer_versions(notebook):
    extras = re.findall(r"softbio_jax\[([\w,]+)\]", notebook.read_text())
    assert len(extras) == 1
    assert not NOT_IN_NOTEBOOKS & set(extras[0].split(","))
