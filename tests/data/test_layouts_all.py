"""Every layout of the table in docs/data.md comes in as it lies there."""

import collections
import importlib.util
import pathlib
import re
import shlex

import pytest
from absl import flags as absl_flags

from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.tasks import TASKS
from tests.data.layouts import named, page
from tests.data.layouts.tree import BOTH
from tests.data.trees import write_image

ROOT = pathlib.Path(__file__).resolve().parents[2]
TREES = page.trees()


@pytest.fixture(scope="module")
def script():
    """The command's module, whose flags are parsed as a user's, once for all tests."""
    flags = absl_flags.FLAGS
    before = set(flags)
    spec = importlib.util.spec_from_file_location("prepare_data", ROOT / "scripts" / "prepare_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in set(flags) - before:
        delattr(flags, name)


def _survey(script, words):
    """Surveys as the script does with --dry_run; the last word is the source."""
    flags = absl_flags.FLAGS
    flags.unparse_flags()
    for name in flags:
        flags[name].unparse()
    flags(["prepare_data.py", *words, "--dry_run"])
    return prepare.survey(flags.dataset, source=flags.source, **script._options(flags.dataset))


def _words(tree, root):
    source = ",".join(str(root / part) for part in tree.source.split(","))
    return [*(word.replace("DIR", str(root)) for word in shlex.split(tree.flags)), f"--source={source}"]


def _classes(surveys, tree):
    found = {
        split: {
            task: {TASKS[task].classes[label]: count for label, count in enumerate(counts) if count}
            for task, counts in found.classes.items()
        }
        for split, found in surveys.items()
    }
    if BOTH not in tree.classes:
        return found
    assert list(found) == ["train", "test"] and all(found.values())
    both = collections.defaultdict(collections.Counter)
    for part in found.values():
        for task, counts in part.items():
            both[task].update(counts)
    return {BOTH: both}


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.name)
def test_a_layout_comes_in(tree, tmp_path, script):
    root = tmp_path / "raw"
    root.mkdir()
    tree.make(root)
    surveys = _survey(script, _words(tree, root))
    assert _classes(surveys, tree) == tree.classes
    assert sum(found.missing for found in surveys.values()) == 0
    assert sum(sum(found.rejected.values()) for found in surveys.values()) == tree.rejected
    rows = sum(found.rows - found.labelled for found in surveys.values())
    assert rows - tree.rejected == tree.skipped


@pytest.mark.parametrize("tree", named.TREES, ids=lambda tree: tree.name)
def test_a_known_set_comes_in_from_another_folder_in_capitals(tree, tmp_path, script):
    inner = tmp_path / "raw" / "Some copy of it"
    inner.mkdir(parents=True)
    tree.make(inner)
    for path in list(inner.iterdir()):
        if path.name != "__MACOSX":
            path.rename(path.with_name(path.name.upper()))
    write_image(tmp_path / "raw" / "__MACOSX" / "train" / "happy" / "._0.jpg", 0)
    surveys = _survey(script, _words(tree, tmp_path / "raw"))
    assert _classes(surveys, tree) == tree.classes
    assert sum(found.missing for found in surveys.values()) == 0


@pytest.mark.parametrize("tree", [tree for tree in TREES if tree.proposed], ids=lambda tree: tree.name)
def test_the_error_of_another_data_set_proposes_the_command(tree, tmp_path, script):
    root = tmp_path / "raw"
    root.mkdir()
    tree.make(root)
    other = "lagenda" if tree.data_set != "lagenda" else "imdb_clean"
    with pytest.raises(UserError) as error:
        prepare.survey(other, source=str(root))
    said, _, command = str(error.value).rpartition(": python scripts/prepare_data.py ")
    assert f" in {root}" in said, error.value
    words = shlex.split(command)
    assert words.pop() == "--dry_run", error.value
    assert _classes(_survey(script, words), tree) == tree.classes


def test_a_row_that_a_test_does_not_make_is_not_in_the_table():
    text = page.PAGE.read_text()
    assert page.table() in text, "run python -m tests.data.layouts.page --write"
    assert len(re.findall(re.escape(page.HEADER), text)) == 1


def test_names_are_unique_and_start_with_the_data_set():
    names = [tree.name for tree in TREES]
    assert len(set(names)) == len(names)
    assert [tree.name for tree in TREES if not tree.name.startswith(f"{tree.data_set}_")] == []
