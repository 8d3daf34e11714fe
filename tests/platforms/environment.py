"""An environment like a platform's: its versions, where what the tests do not need is only named."""

import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess

from tests.platforms import freeze

ROOT = freeze.ROOT
# The first part of a platform's name -> its python.
PYTHONS = {
    "colab": os.environ.get("COLAB_PYTHON", "python3.13"),
    "kaggle": os.environ.get("KAGGLE_PYTHON", "python3.12"),
}


@dataclasses.dataclass(frozen=True)
class Environment:
    """A fresh environment in `folder`, with the versions of `freeze`; `base` is the python that makes it."""

    folder: pathlib.Path
    base: str
    freeze: freeze.Freeze

    @property
    def pins(self) -> pathlib.Path:
        """The versions that the tests install, as a file of requirements or constraints."""
        return self.folder / "pins.txt"

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    def make(self) -> None:
        assert shutil.which(self.base), f"no {self.base}: name it by COLAB_PYTHON or KAGGLE_PYTHON"
        run(self.base, "-m", "venv", "--clear", "--without-pip", self.folder)
        self.pins.write_text(
            "".join(f"{name}=={version}\n" for name, version in self.freeze.installed.items())
        )
        # The pip of the platform is among its packages.
        install = ("install", "--quiet", "--no-compile", "--no-deps", "--requirement", self.pins)
        run(self.base, "-m", "pip", "--python", self.python, *install)
        for name, version in self.freeze.present.items():
            self._name_only(name, version)

    def _name_only(self, name: str, version: str) -> None:
        """Metadata without a module: pip sees an installed package, and python has nothing to import."""
        (site,) = (self.folder / "lib").glob("python*/site-packages")
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "INSTALLER").write_text("pip\n")
        (info / "RECORD").write_text(
            "".join(f"{info.name}/{file},,\n" for file in ("INSTALLER", "METADATA", "RECORD"))
        )

    def pip(self, *arguments) -> str:
        return run(self.python, "-m", "pip", "--disable-pip-version-check", *arguments)

    def listed(self) -> dict[str, str]:
        """What `pip list` shows."""
        return freeze.versions(self.pip("list", "--format=freeze"))

    def changed(self) -> dict[str, tuple[str, str | None]]:
        """The packages of the platform that have another version now: name -> (platform's, now)."""
        now = self.listed()
        platform = self.freeze.installed | self.freeze.present
        return {
            name: (version, now.get(name)) for name, version in platform.items() if now.get(name) != version
        }


def run(*command, cwd=ROOT, **variables) -> str:
    """Returns what a command printed; both streams are in the failure."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=_outside() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout[-8000:]}"
    return done.stdout


@functools.cache
def _outside() -> dict[str, str]:
    """The variables of this process without those of its environment and of conftest.py.

    Nor those of a platform. Bytecode is written: hundreds of processes import the environment.
    """
    own = (
        "PYTHONPATH",
        "PYTHONDONTWRITEBYTECODE",
        "VIRTUAL_ENV",
        "PYTEST_",
        "XLA_FLAGS",
        "PIP_CONSTRAINT",
        "KAGGLE_",
    )
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


def repository(folder: pathlib.Path) -> pathlib.Path:
    """Makes a repository of this checkout, with what is not yet committed, and returns it."""
    listing = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    author = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    run("git", *author, "commit", "--quiet", "--message=the checkout", cwd=folder)
    return folder
