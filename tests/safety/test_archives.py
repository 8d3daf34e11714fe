"""Archives of other people: complete or not at all, and nothing outside of the folder."""

import io
import stat
import zipfile

import pytest

from softbio_jax.errors import UserError
from softbio_jax.safety import archives
from softbio_jax.safety.archives import unzip


def member(name, *, kind=stat.S_IFREG, **values):
    found = zipfile.ZipInfo("x")
    found.filename = name  # as it is: ZipInfo itself would clean it
    found.external_attr = (kind | 0o644) << 16
    for key, value in values.items():
        setattr(found, key, value)
    return found


def packed(path, *members, data=b"image"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for one in members:
            one = member(one) if isinstance(one, str) else one
            one.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(one, data)
    return path


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def out(tmp_path):
    """Holds what an earlier archive had, which a refused one leaves alone."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "before").touch()
    return tmp_path / "out"


def test_files_come_out_as_they_were_and_replace_the_folder(tmp_path, out):
    names = ["train/happy/1.jpg", "test/sad/é 你.png", "./train/sad/2.jpg"]
    path = packed(tmp_path / "a.zip", "train/", *names, "__MACOSX/train/._1.jpg", ".DS_Store", "train/.x/1")
    assert unzip(path, out) == out
    assert files_of(out) == sorted(name.removeprefix("./") for name in names)
    assert (out / "train/happy/1.jpg").read_bytes() == b"image"


def test_folders_of_old_archives_from_windows(tmp_path, out):
    unzip(packed(tmp_path / "a.zip", "train\\happy\\1.jpg"), out)
    assert files_of(out) == ["train/happy/1.jpg"]


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        ("../1.jpg", "leads out"),
        ("train/../../1.jpg", "leads out"),
        ("..\\1.jpg", "leads out"),
        ("/tmp/1.jpg", "leads out"),
        ("//host/1.jpg", "leads out"),
        ("\\1.jpg", "leads out"),
        ("C:\\1.jpg", "leads out"),
        ("a\n.jpg", "control character"),
        ("a\x1b[31m.jpg", "control character"),
        ("a" * 300 + ".jpg", "255 bytes"),
        (member("link", kind=stat.S_IFLNK), "neither a file"),
        (member("pipe", kind=stat.S_IFIFO), "neither a file"),
        ("good/1.jpg", "twice"),
        ("./good//1.jpg", "twice"),
        ("good", "a file and a folder"),
        ("good/1.jpg/2.jpg", "a file and a folder"),
    ],
    ids=lambda value: None if isinstance(value, str) and len(value) > 20 else str(value)[:20],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_bad_member_refuses_the_archive_and_writes_nothing(tmp_path, out, bad, found):
    path = packed(tmp_path / "a.zip", "good/1.jpg", bad)
    with pytest.raises(UserError, match=f"a.zip: expected a zip, found .*{found}"):
        unzip(path, out)
    assert files_of(tmp_path) == ["a.zip", "out/before"]


def test_a_bomb_is_refused_by_its_declared_size(tmp_path, out, monkeypatch):
    monkeypatch.setattr(archives, "ALWAYS", 1000)
    path = packed(tmp_path / "a.zip", "1.jpg", data=bytes(1 << 20))
    with pytest.raises(UserError, match="1,048,576 bytes in 1,"):
        unzip(path, out)
    assert files_of(tmp_path) == ["a.zip", "out/before"]


def test_a_smaller_declared_size_is_damage(tmp_path, out):
    path = packed(tmp_path / "a.zip", "1.jpg", data=b"x" * 100_000)
    with zipfile.ZipFile(path) as archive:
        (found,) = archive.infolist()
        directory = archive.start_dir
    data = bytearray(path.read_bytes())
    for place in (found.header_offset + 22, directory + 24):
        assert data[place : place + 4] == (100_000).to_bytes(4, "little")
        data[place : place + 4] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged: Bad CRC-32"):
        unzip(path, out)
    assert files_of(tmp_path) == ["a.zip", "out/before"]


def test_more_than_the_disk_holds(tmp_path, out, monkeypatch):
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 4}))
    with pytest.raises(UserError, match="5 bytes, where 4 are free; fix: free some disk space"):
        unzip(packed(tmp_path / "a.zip", "1.jpg"), out)


def test_too_many_members(tmp_path, out, monkeypatch):
    monkeypatch.setattr(archives, "_MEMBERS", 2)
    with pytest.raises(UserError, match="3 members"):
        unzip(packed(tmp_path / "a.zip", "1", "2", "3"), out)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda data: b"\xff\xd8 a photograph", "no zip archive"),
        (lambda data: data[:-30], "no zip archive"),
        (lambda data: data.replace(b"\x00\x00\x08\x00", b"\x01\x00\x08\x00"), "encrypted"),
        (lambda data: data[:40] + bytes([data[40] ^ 255]) + data[41:], "damaged"),
    ],
    ids=["a photograph", "cut off", "encrypted", "a changed byte"],
)
def test_other_files_are_one_line(tmp_path, out, spoil, found):
    path = packed(tmp_path / "a.zip", "train/1.jpg", data=bytes(range(200)))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=found):
        unzip(path, out)
    assert files_of(tmp_path) == ["a.zip", "out/before"]


def test_what_is_no_archive(tmp_path, out):
    for path, found in ((tmp_path / "none.zip", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(UserError, match=found):
            unzip(path, out)
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    (tmp_path / "empty.zip").write_bytes(empty.getvalue())
    with pytest.raises(UserError, match="no files"):
        unzip(tmp_path / "empty.zip", out)
