"""Things users get wrong: each is one line that names its cause and its fix, and writes nothing."""

import ast

import pytest

from tests.mistakes import labels, page, pictures, settings, weights
from tests.mistakes.running import ROOT, World

MISTAKES = [*labels.MISTAKES, *pictures.MISTAKES, *settings.MISTAKES, *weights.MISTAKES]
PROVEN = [mistake for mistake in MISTAKES if mistake.right]


@pytest.fixture
def world(tmp_path, data_root, config, monkeypatch):
    tmp = tmp_path / "here"
    tmp.mkdir()
    return World(tmp=tmp, data=data_root, config=config, patch=monkeypatch)


def _ids(mistake):
    return mistake.name.replace(" ", "_")


@pytest.mark.parametrize("mistake", MISTAKES, ids=_ids)
def test_a_mistake_is_one_line_with_its_cause_and_its_fix(mistake, world):
    run = mistake.make(world, True)
    before = world.files()
    told = run()
    mistake.check(told)
    assert world.files() == before, "something was left behind"
    assert page.line_of(told, world) in page.PAGE.read_text(), "docs/mistakes.md is out of date"


@pytest.mark.parametrize("mistake", PROVEN, ids=_ids)
def test_what_is_right_passes(mistake, world):
    told = mistake.make(world, False)()
    assert (told.code, told.lines) == (0, ()), told.lines


def test_there_are_thirty_and_each_has_a_name_of_its_own():
    names = [mistake.name for mistake in MISTAKES]
    assert len(names) >= 30
    assert len(set(names)) == len(names)
    headings = [line[4:] for line in page.PAGE.read_text().splitlines() if line.startswith("### ")]
    assert headings == names


def test_every_error_of_the_package_names_a_fix():
    silent = []
    for folder in ("softbio_jax", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                named = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError"
                # One without any keyword passes the line of another error on.
                if named and node.keywords and "fix" not in {word.arg for word in node.keywords}:
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert silent == []
