"""The error about a missing file says what lies there instead, and the command that reads it."""

import shlex

import pytest

from softbio_jax.data.builders import BUILDERS
from softbio_jax.data.prepare import layouts, prepare
from softbio_jax.errors import UserError
from tests.data.layouts.tree import images
from tests.data.trees import make_emotions, make_fairface, write_table


def _line(dataset, source, **options):
    with pytest.raises(UserError) as error:
        prepare.survey(dataset, source=str(source), **options)
    return str(error.value)


def _command(line):
    return shlex.split(line.partition("python scripts/prepare_data.py ")[2])


def test_the_command_writes_where_the_user_wanted_it(tmp_path):
    make_fairface(tmp_path / "a b", train=2, val=1)
    with pytest.raises(UserError) as error:
        prepare.prepare("rafdb", source=str(tmp_path / "a b"), out=tmp_path / "out")
    assert _command(str(error.value)) == [
        "--dataset=fairface",
        f"--source={tmp_path / 'a b'}",
        f"--out={tmp_path / 'out'}",
    ]
    assert not (tmp_path / "out").exists()


# images reads any folder.
@pytest.mark.parametrize("dataset", sorted(set(BUILDERS) - {"standard", "fairface", "synthetic", "images"}))
def test_every_data_set_tells_what_an_own_folder_looks_like(tmp_path, dataset):
    """No reader knows a table of these two columns but the one of any table."""
    images(tmp_path, "faces/0.jpg")
    write_table(tmp_path / "faces" / "labels.csv", ("file", "gender"), [("0.jpg", "male")])
    options = {"task": "emotion"} if dataset == "folder" else {}
    if dataset == "csv":
        options["columns"] = {"path": "file", "age": "age"}
        assert "a column is missing" in _line(dataset, tmp_path / "faces", **options)
        return
    line = _line(dataset, tmp_path, **options)
    assert f"--source={tmp_path / 'faces'}" in _command(line), line


@pytest.mark.parametrize(
    ("inner", "given", "proposed"), [("", "", ""), ("data/faces", "", "data/faces"), ("", "train", "")]
)
def test_the_folder_may_be_further_in_or_out(tmp_path, inner, given, proposed):
    make_emotions(tmp_path / "raw" / inner)
    line = _line("fairface", tmp_path / "raw" / given)
    assert _command(line)[:3] == [
        "--dataset=folder",
        "--task=emotion",
        f"--source={tmp_path / 'raw' / proposed}",
    ] or (given and "--split=0.8" in line)


def test_numbers_are_left_for_the_user_to_name(tmp_path):
    images(tmp_path, *(f"train/{number}/0.jpg" for number in range(8)))
    line = _line("lagenda", tmp_path)
    assert "--task=emotion --values=emotion:0=CLASS,emotion:1=CLASS," in line


def test_a_mistyped_folder(tmp_path):
    make_fairface(tmp_path / "FairFace", train=1, val=1)
    line = _line("fairface", tmp_path / "FairFcae")
    assert "found FairFace/ in" in line
    assert "write 'FairFace'" in line


def test_what_looks_like_nothing_keeps_its_fix(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    line = _line("fairface", tmp_path)
    assert "found notes.txt" in line and line.endswith("fix: check --source")


def test_the_same_command_is_never_proposed(tmp_path):
    """A table without a split's images lies in a folder that looks like FairFace all the same."""
    make_fairface(tmp_path, train=1, val=1)
    for path in (tmp_path / "val").iterdir():
        path.unlink()
    (tmp_path / "val").rmdir()
    with pytest.raises(UserError) as error:
        prepare.survey("fairface", source=str(tmp_path))
    assert f"--dataset=fairface --source={tmp_path} " not in str(error.value)


def test_looking_costs_little_in_a_deep_tree(tmp_path, monkeypatch):
    for number in range(300):
        (tmp_path / f"{number}" / "a" / "b").mkdir(parents=True)
    looked = []

    class Builder:
        @classmethod
        def recognise(cls, folder):
            looked.append(folder)
            yield from ()

    assert list(layouts.propose(tmp_path, {"any": Builder})) == []
    assert looked[0] == tmp_path and len(looked) < 50
