"""Puts what the commands read into wheels, as softbio_jax/shipped; the rest is in pyproject.toml."""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

# tests/goldens: the stored outputs that `softbio-jax parity` compares with.
_FOLDERS = ("scripts", "configs", "assets", "tests/goldens")
_OF_DEV = "torch_reference.py"  # of scripts/dev/, which are for a checkout; parity runs it


def _left_out(folder, names):
    ignored = {name for name in names if name == "__pycache__" or name.endswith(".pyc")}
    return ignored | (set(names) - {_OF_DEV} if pathlib.Path(folder).name == "dev" else set())


class BuildPy(build_py):
    """Copies the folders beside the package; an editable installation reads them where they are."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        shipped = pathlib.Path(self.build_lib) / "softbio_jax" / "shipped"
        shutil.rmtree(shipped, ignore_errors=True)
        for name in _FOLDERS:
            shutil.copytree(name, shipped / name, ignore=_left_out)


setup(cmdclass={"build_py": BuildPy})
