"""Common mistakes: each is one line that names its cause and its fix, and writes nothing."""

import ast

import pytest

from tests.mistakes import images, labels, page, settings, weights
from tests.mistakes.running import ROOT, Sandbox

MISTAKES = [*labels.MISTAKES, *images.MISTAKES, *settings.MISTAKES, *weights.MISTAKES]
WITH_CORRECT_INPUT = [mistake for mistake in MISTAKES if mistake.right]
OUTDATED = "docs/mistakes.md is out of date; run python -m tests.mistakes.page --write"


@pytest.fixture
def sandbox(tmp_path, data_root, config, monkeypatch):
    tmp = tmp_path / "here"
    tmp.mkdir()
    return Sandbox(tmp=tmp, data=data_root, config=config, patch=monkeypatch)


def _ids(mistake):
    return mistake.name.replace(" ", "_")


@pytest.mark.parametrize("mistake", MISTAKES, ids=_ids)
def test_a_mistake_is_one_line_with_its_cause_and_its_fix(mistake, sandbox):
    run = mistake.make(sandbox, True)
    before = sandbox.files()
    output = run()
    mistake.check(output)
    assert sandbox.files() == before, "files were left behind"
    assert page.line_of(output, sandbox) in page.PAGE.read_text(), OUTDATED


@pytest.mark.parametrize("mistake", WITH_CORRECT_INPUT, ids=_ids)
def test_the_correct_input_passes(mistake, sandbox):
    output = mistake.make(sandbox, False)()
    assert (output.code, output.lines) == (0, ()), output.lines


def test_there_are_thirty_with_distinct_names():
    names = [mistake.name for mistake in MISTAKES]
    assert len(names) >= 30
    assert len(set(names)) == len(names)
    headings = [line[4:] for line in page.PAGE.read_text().splitlines() if line.startswith("### ")]
    assert headings == names, OUTDATED


def test_every_error_of_the_package_names_a_fix():
    silent = []
    for folder in ("softbio_jax", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                named = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError"
                # Without keywords, it passes on the line of another error.
                if named and node.keywords and "fix" not in {word.arg for word in node.keywords}:
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert silent == []
