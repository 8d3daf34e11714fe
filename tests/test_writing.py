import pytest

from softbio_jax import files


def test_a_file_appears_once_it_is_whole(tmp_path):
    path = tmp_path / "table.csv"
    with files.whole(path) as temporary:
        temporary.write_text("id,age\n")
        assert temporary.parent == tmp_path  # so that it can be renamed
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "id,age\n"


def test_what_fails_leaves_the_file_as_it_was_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), files.whole(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "old"


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), files.whole(tmp_path / "table.csv"):
        pass


def test_text_makes_its_folders(tmp_path):
    files.write_text(tmp_path / "a" / "b.txt", "σ²")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "σ²".encode()
