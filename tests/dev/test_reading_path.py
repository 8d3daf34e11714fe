"""How many files of the package a reader of the demo must open, phase by phase."""

import re
import subprocess
import sys

import pytest

from tests.structure import ROOT

MAX_FILES = {"step": 25, "evaluation": 21, "demo": 65, "guards": 7}


@pytest.mark.long
def test_the_demo_executes_few_files():
    done = subprocess.run(
        [sys.executable, "scripts/dev/reading_path.py", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^(\w+): (\d+) files$", done.stdout, re.MULTILINE))
    over = [phase for phase, limit in MAX_FILES.items() if int(found[phase]) > limit]
    fix = f"merge what is read together: at most {MAX_FILES} files"
    assert not over, f"{fix}, found\n{done.stdout}"
