"""Puts scripts/, configs/ and assets/ into wheels, as softbio_jax/shipped; the rest is in pyproject.toml."""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

_FOLDERS = ("scripts", "configs", "assets")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "dev")


class BuildPy(build_py):
    """Copies the folders beside the package; an editable installation reads them where they are."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        shipped = pathlib.Path(self.build_lib) / "softbio_jax" / "shipped"
        shutil.rmtree(shipped, ignore_errors=True)
        for name in _FOLDERS:
            shutil.copytree(name, shipped / name, ignore=_LEFT_OUT)


setup(cmdclass={"build_py": BuildPy})
