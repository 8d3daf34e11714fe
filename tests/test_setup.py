"""How make sets environments up: what each target installs, what is printed, and what a failure leaves."""

import os
import pathlib
import pty
import re
import subprocess
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
INPUTS = ("Makefile", "pyproject.toml", "constraints.txt", "constraints-app.txt", "softbio_jax/__init__.py")
# Stands for python: an environment is a copy of it, and what pip is given is noted beside it.
PYTHON = """#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip --version") ;;
  "-m pip "*) echo "$*" >>"$(dirname "$0")/installed"; test -z "$FAILING" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    for name in INPUTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def make(checkout, target, **options):
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "FAILING"))
    }
    variables |= options.pop("env", {})
    command = ["make", "-C", checkout, target, f"PYTHON={checkout / 'python'}"]
    return subprocess.run(command, text=True, env=variables, **options)


def installed(checkout, folder=".venv"):
    """The extras of each installation, and whether pip was quiet."""
    path = checkout / folder / "bin" / "installed"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(set(re.search(r"\[(.*)\]", line)[1].split(",")), "--quiet" in line) for line in lines]


def extras_of(name):
    """The extras that an extra contains."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    own = [re.fullmatch(r"softbio-jax\[(.*)\]", line) for line in extras[name]]
    found = {part for match in own if match for part in match[1].split(",")}
    return found.union(*map(extras_of, found)) if found else found


def test_a_log_has_the_phases_and_the_size(checkout):
    done = make(checkout, "setup", capture_output=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("make")]
    assert [bool(re.search(r"\.venv.*\d[GMK]?B|\d GB", line)) for line in lines] == [True, True]
    ((extras, quiet),) = installed(checkout)
    assert quiet and "tensorboard" in extras


def test_a_terminal_shows_the_progress_of_pip(checkout):
    main, end = pty.openpty()
    try:
        assert make(checkout, "setup", stdin=end, stdout=end, stderr=end).returncode == 0
    finally:
        os.close(end)
        os.close(main)
    assert [quiet for _, quiet in installed(checkout)] == [False]


def test_a_larger_set_contains_the_smaller_ones(checkout):
    assert make(checkout, "setup", capture_output=True).returncode == 0
    assert make(checkout, ".venv/.ready-dev", capture_output=True).returncode == 0
    for smaller in (".venv/.ready-demo", ".venv/.ready-test", ".venv/.ready-dev"):
        assert make(checkout, smaller, capture_output=True).returncode == 0
    (demo, _), (dev, _) = installed(checkout)
    assert dev == {"dev"}
    assert demo <= extras_of("test") and extras_of("test") < extras_of("dev")


def test_what_failed_to_install_is_installed_again(checkout):
    failed = make(checkout, "setup", capture_output=True, env={"FAILING": "1"})
    assert failed.returncode != 0 and "Set up" not in failed.stdout
    assert make(checkout, "setup", capture_output=True).returncode == 0
    assert len(installed(checkout)) == 2


@pytest.mark.parametrize(("accel", "folder"), [("tpu", ".venv-tpu"), ("cuda13", ".venv-cuda13")])
def test_an_accelerator_has_an_environment_of_its_own(checkout, accel, folder):
    assert make(checkout, "setup", capture_output=True, env={"ACCEL": accel}).returncode == 0
    ((extras, _),) = installed(checkout, folder)
    assert accel in extras
    assert not (checkout / ".venv").exists()


def test_the_pythons_that_are_too_old_are_named(checkout):
    (checkout / "python").write_text('#!/bin/sh\ncase "$1" in -c) exit 1 ;; -V) echo Python 3.10.1 ;; esac\n')
    done = make(checkout, "setup", capture_output=True)
    assert done.returncode != 0
    assert "Python 3.10.1, expected python >= 3.11" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_that_does_not_start_is_one_line(checkout):
    # As the names of versions that pyenv knows but has not chosen.
    (checkout / "python").write_text("#!/bin/sh\necho no such\necho 'version: see help' >&2\nexit 127\n")
    done = make(checkout, "setup", capture_output=True)
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0 and "is not a python that starts, expected python >= 3.11" in line
