"""The packages of a platform that our installation can meet, cut from the list of all its packages.

    python3.13 -m venv /tmp/bare
    python -m tests.platforms.freeze FREEZE tests/platforms/NAME.txt /tmp/bare/bin/python

FREEZE is what `pip freeze` prints on the platform; its comments are kept. pip resolves our notebooks'
extras and the tests' for the given python with FREEZE as constraints; what both have is installed by the
tests. Lines after `PRESENT` are only compared: they select an accelerator, or take gigabytes, and the tests
need none of them.
"""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXTRAS = "hub,report,test,text"
PRESENT = "# present, but not installed by the tests"
_PRESENT = re.compile(
    r"(libtpu|jax-cuda\w*(-\w+)?|nvidia-.*|torch(vision|audio|codec|-xla)?|triton|tensorflow(-cpu)?|keras)"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Freeze:
    """A platform's versions by the name of the package, as pip normalises it."""

    installed: dict[str, str]
    present: dict[str, str]


def read(path: pathlib.Path) -> Freeze:
    first, _, second = path.read_text().partition(PRESENT)
    return Freeze(installed=versions(first), present=versions(second))


def versions(text: str) -> dict[str, str]:
    """Lines such as name==version; all others are left out."""
    found = re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)
    return {normalised(name): version for name, version in found}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def resolved(python: str, constraints: dict[str, str]) -> set[str]:
    """The names of the packages that our extras need, found by pip without installing them."""
    with tempfile.TemporaryDirectory() as folder:
        pins, report = pathlib.Path(folder) / "pins.txt", pathlib.Path(folder) / "report.json"
        # Local versions (torch 2.11.0+cu128) are in no index.
        pins.write_text("".join(f"{name}=={v}\n" for name, v in constraints.items() if "+" not in v))
        command = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--constraint", pins]
        subprocess.run([*command, "--report", report, "--editable", f"{ROOT}[{EXTRAS}]"], check=True)
        found = json.loads(report.read_text())["install"]
        return {normalised(package["metadata"]["name"]) for package in found}


def cut(freeze: str, python: str) -> str:
    platform = versions(freeze)
    # What the build takes for itself is no constraint.
    wanted = resolved(python, {k: v for k, v in platform.items() if k not in ("pip", "setuptools", "wheel")})
    wanted |= {"pip", "setuptools"}
    here = [f"{name}=={platform[name]}" for name in sorted(platform) if name in wanted]
    there = [f"{name}=={v}" for name, v in sorted(platform.items()) if _PRESENT.fullmatch(name)]
    notes = [line for line in freeze.splitlines() if line.startswith("#")]
    return "\n".join(["# Made by tests/platforms/freeze.py.", *notes, *here, PRESENT, *there]) + "\n"


if __name__ == "__main__":
    source, target, python = sys.argv[1:]
    pathlib.Path(target).write_text(cut(pathlib.Path(source).read_text(), python))
