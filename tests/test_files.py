import pytest

from softbio_jax import files
from softbio_jax.data.prepare.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.evaluation.report.write import write


def test_a_file_appears_once_it_is_complete(tmp_path):
    path = tmp_path / "table.csv"
    with files.atomic_file(path) as temporary:
        temporary.write_text("id,age\n")
        assert temporary.parent == tmp_path  # so that it can be renamed
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "id,age\n"


def test_a_failure_leaves_the_file_unchanged(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), files.atomic_file(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "old"


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), files.atomic_file(tmp_path / "table.csv"):
        pass


def test_text_makes_its_folders(tmp_path):
    files.write_text(tmp_path / "a" / "b.txt", "σ²")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "σ²".encode()


def test_a_folder_appears_once_it_is_complete(tmp_path):
    with files.atomic_folder(tmp_path / "a" / "model") as temporary:
        (temporary / "weights").touch()
        assert not (tmp_path / "a" / "model").exists()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["model"]
    with pytest.raises(UserError, match="the destination exists"), files.atomic_folder(tmp_path / "a"):
        pass


def test_a_folder_is_replaced_or_kept(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(OSError, match="full"), files.atomic_folder(folder, overwrite=True) as temporary:
        (temporary / "new").touch()
        raise OSError("full")
    assert [p.name for p in tmp_path.rglob("*")] == ["model", "old"]
    with files.atomic_folder(folder, overwrite=True) as temporary:
        (temporary / "new").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["model", "new"]


@pytest.mark.parametrize(
    ("content", "refused"),
    [(None, False), ("", False), ("split,id\na,b\n", False), ("name,age\n", True), ("split", True)],
)
def test_only_a_file_of_the_same_kind_may_be_replaced(tmp_path, content, refused):
    path = tmp_path / "drop.csv"
    if content is not None:
        path.write_text(content)
    if not refused:
        files.check_own(path, "split,id", where="--drop")
        return
    with pytest.raises(UserError, match=r"the destination exists: --drop=.*found another file"):
        files.check_own(path, "split,id", where="--drop")
    with pytest.raises(UserError, match="found a folder"):
        files.check_own(tmp_path, "split,id", where="--drop")


@pytest.mark.parametrize("path", ["gs:/bucket/run", "gs:bucket/run", "s3:/bucket"])
def test_an_address_with_a_slash_too_few_is_no_local_folder(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"two slashes.*fix: write \w+://bucket"):
        files.made(path, what="it", fix="name another")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = files.made("~/a/b", what="it", fix="name another")
    assert found.is_dir() and str(found) == str(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"it cannot be made.*fix: name another"):
        files.made(tmp_path / "file" / "b", what="it", fix="name another")
    with pytest.raises(UserError, match="it cannot be made"):
        files.made(tmp_path / "file", what="it", fix="name another")


@pytest.mark.parametrize("path", ["gs://bucket/x", "gs:/bucket/x"])
def test_reports_and_prepared_data_are_not_written_into_a_folder_named_as_an_address(
    tmp_path, monkeypatch, path
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"on a disk|two slashes"):
        prepare("images", source=tmp_path, out=path)
    with pytest.raises(UserError, match=r"on a disk|two slashes"):
        write([], path)
    assert not list(tmp_path.iterdir())
