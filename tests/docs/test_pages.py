"""Pages that can be followed: their diffs apply, their commands and code run, in a fresh copy.

A block that is not run has an HTML comment in front of it that says why: <!-- not run: why -->.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.docs.blocks import ROOT, blocks

PAGES = ("own_data", "add_task", "add_method", "add_backbone", "tours/tpu", "tours/parity")
COPIED = ("softbio_jax", "scripts", "configs", "assets", "tests/goldens")


@pytest.fixture
def tree(tmp_path):
    """A copy of what the pages work on, and what own_data.md takes as given."""
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    _draw_own_data(tmp_path)
    return tmp_path


def _draw_own_data(root):
    from PIL import Image

    rng = np.random.default_rng(0)
    lines = ["file,years,sex,part,country"]
    for split, count in (("train", 24), ("test", 8)):
        for i in range(count):
            picture = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
            folder = root / "faces" / split / ("happy", "sad")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{i}.png")
            (root / "table").mkdir(exist_ok=True)
            other = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
            other.save(root / "table" / f"{split}{i}.png")
            lines.append(f"{split}{i}.png,{20 + 3 * i},{'MW'[i % 2]},{split},IT")
    (root / "table" / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES)
def test_page_can_be_followed(page, tree):
    environment = os.environ | {
        "PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu",
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip

    def run(command, **options):
        done = subprocess.run(
            command, cwd=tree, env=environment, text=True, capture_output=True, timeout=900,
            check=False, **options,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{options.get('input', command)}\n{said[-3000:]}"

    done = 0
    for block in blocks(ROOT / "docs" / f"{page}.md"):
        if block.not_run:
            continue
        if block.language == "diff":
            run(["patch", "-p1", "--forward"], input=block.text)
        elif block.language == "python":
            run([sys.executable, "-"], input=block.text)
        elif block.language in ("", "bash"):
            run(["bash", "-e"], input=block.text)
        done += block.language in ("", "bash", "diff", "python")
    assert done, "a page in PAGES has something to run"
