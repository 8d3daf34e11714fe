"""Every page is executed in a fresh copy at small scale: its diffs apply, its commands and code run.

plans.py has the replacements for the reader's data and large encoders, and the commands that are not
run. A block after an HTML comment <!-- not run: why --> is skipped, too.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.docs.blocks import PAGES, ROOT, blocks, is_shell, steps
from tests.docs.plans import ELSEWHERE, NOT_RUN, PLANS, left_out, parameters, why_not
from tests.inference import hub_server

COPIED = (
    "softbio_jax",
    "scripts",
    "configs",
    "assets",
    "tests/goldens",
    "tests/conftest.py",
    "tests/evaluation/interval_simulation.py",
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
    "constraints-app.txt",
)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The output of make demo with few images and few steps."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    small = ("--faces=300", "--test_faces=24", "--steps=22")
    subprocess.run(
        [sys.executable, "scripts/demo.py", f"--out={out}", *small],
        cwd=ROOT,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        timeout=600,
    )
    return out


@pytest.fixture
def tree(tmp_path):
    """A copy of the files that the pages use."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        else:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def run(tree, tmp_path_factory):
    """Runs a program in the tree, with a local hub server."""
    with hub_server.serve() as server:
        environment = os.environ | hub_server.environment(server, tmp_path_factory.mktemp("hub"))
        environment |= {
            "PYTHONPATH": str(tree),
            "JAX_PLATFORMS": "cpu",
            "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

        def call(command, text):
            done = subprocess.run(
                command,
                cwd=tree,
                env=environment,
                text=True,
                capture_output=True,
                timeout=900,
                check=False,
                input=text,
            )
            assert done.returncode == 0, f"{text}\n{(done.stdout + done.stderr)[-3000:]}"

        yield call


@pytest.mark.parametrize("plan", parameters())
def test_page_can_be_executed(plan, tree, run, request):
    if plan.demo:
        shutil.copytree(request.getfixturevalue("demo"), tree / "runs" / "demo")
    for make in plan.given:
        make(tree)
    done = 0
    for block in plan.blocks():
        if block.not_run:
            continue
        if block.language == "diff":
            run(["patch", "-p1", "--forward"], block.text)
        elif block.language == "python" and _wanted(plan, block.text):
            if "def test_" in block.text:
                (tree / "tests" / "test_of_the_page.py").write_text(block.text)
                run([sys.executable, "-m", "pytest", "-q", "tests/test_of_the_page.py"], "")
            else:
                checks = (code for pattern, code in plan.checks if re.search(pattern, block.text))
                run([sys.executable, "-"], "".join([plan.small(block.text), *checks]))
        elif is_shell(block):
            chosen = [plan.small(step) for step in steps(block) if _wanted(plan, step)]
            if chosen:
                # bash -e continues after the first half of `a && b` has failed.
                run(["bash", "-o", "pipefail"], "".join(f"{{ {s}\n}} || exit\n" for s in chosen))
            done += len(chosen)
            continue
        else:
            continue
        done += 1
    everything_left_out = all(why_not(s) for b in plan.blocks() if is_shell(b) for s in steps(b))
    assert done or everything_left_out


def _wanted(plan, text):
    return not why_not(text) and (not plan.only or bool(re.search(plan.only, text)))


def test_every_page_with_commands_is_executed():
    planned = {*ELSEWHERE, *(plan.page for plan in PLANS)}
    assert len(planned) > 15
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix().removeprefix("docs/").removesuffix(".md")
        code = any(is_shell(b) or b.language in ("python", "diff") for b in blocks(page))
        assert not code or name in planned, name
        # No commands in a block that looks like output.
        for block in blocks(page):
            hidden = re.search(r"^(python scripts/|softbio-jax )", block.text, re.MULTILINE)
            assert not hidden or is_shell(block), f"{name}:{block.line}"


def test_few_commands_are_not_run_and_each_reason_is_needed():
    found = [row for row in left_out() if row[0] != "docs/full_reproduction.md"]
    assert len(found) <= 31, "\n".join(f"{page}: {step}" for page, step, _ in found)
    text = "\n".join(step for page in PAGES for b in blocks(page) for step in (*steps(b), b.text))
    for pattern, why, _ in NOT_RUN:
        assert re.search(pattern, text, re.MULTILINE), f"no page has it: {why}"


def test_replacements_match_their_page():
    for plan in PLANS:
        for pattern in (p for p, _ in (*plan.exchanged, *plan.checks)):
            lines = [line for b in plan.blocks() for line in (*steps(b), b.text)]
            assert any(re.search(pattern, line, re.MULTILINE) for line in lines), (plan, pattern)
