"""Archives and JSON that declare more than they should hold are refused before they are expanded."""

import errno
import io
import json
import resource
import struct
import zipfile

import numpy as np
import pytest

from softbio_jax.data import index as index_lib
from softbio_jax.errors import UserError
from softbio_jax.safety import untrusted


def check(path, *, stored):
    untrusted.check_archive(path, stored=stored, what="file", fix="none")


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_a_plain_archive_is_accepted(tmp_path):
    path = archive(tmp_path / "a.pt", {"a/data.pkl": b"x" * 100, "a/data/0": bytes(1000)})
    check(path, stored=True)


def test_what_is_no_archive_is_left_to_its_reader(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"\x80\x02}q\x00.")
    check(tmp_path / "a.pt", stored=True)


def test_compressed_members_of_a_torch_file_are_refused(tmp_path):
    path = archive(tmp_path / "a.pt", {"a/data.pkl": bytes(10**6)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        check(path, stored=True)
    check(path, stored=False)


def overlapping(path):
    archive(path, {"a": bytes(5000), "b": bytes(5000)})
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = struct.pack("<I", 0)  # b's offset is a's
    path.write_bytes(data)


def longer_than_the_file(path):
    archive(path, {"a": bytes(50)})
    data = bytearray(path.read_bytes())
    for place in (data.index(b"PK\1\2") + 20, data.index(b"PK\3\4") + 18):
        data[place : place + 8] = struct.pack("<II", 10**9, 10**9)
    path.write_bytes(data)


def two_sizes(path):
    archive(path, {"a": bytes(50)})
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\1\2") + 24  # the expanded size in the directory alone
    data[place : place + 4] = struct.pack("<I", 10**9)
    path.write_bytes(data)


def zip64_lie(path):
    archive(path, {"a": bytes(50)})
    data = bytearray(path.read_bytes())
    start, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    extra = struct.pack("<HHQQ", 1, 16, 10**15, 50)
    data[start + 24 : start + 28] = b"\xff" * 4
    data[start + 20 : start + 24] = b"\xff" * 4
    data[start + 30 : start + 32] = struct.pack("<H", len(extra))
    data[end:end] = extra
    end += len(extra)
    data[end + 12 : end + 16] = struct.pack("<I", end - start)
    path.write_bytes(data)


def no_directory(path):
    path.write_bytes(archive(path, {"a": bytes(50)}).read_bytes()[:60])


def one_name_twice(path):
    archive(path, {"a": b"1", "b": b"2"})
    path.write_bytes(path.read_bytes().replace(b"b", b"a"))


LIES = (overlapping, longer_than_the_file, two_sizes, zip64_lie, no_directory, one_name_twice)


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_an_archive_that_lies_is_refused(tmp_path, lie):
    lie(tmp_path / "a.pt")
    with pytest.raises(UserError) as caught:
        check(tmp_path / "a.pt", stored=True)
    assert "\n" not in str(caught.value)


def bomb(path, megabytes):
    """Writes an .npz that expands a thousandfold."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("ids.npy", "w") as member:
        count = megabytes << 20
        np.lib.format.write_array_header_1_0(
            member, {"descr": "|u1", "fortran_order": False, "shape": (count,)}
        )
        for _ in range(megabytes):
            member.write(bytes(1 << 20))


def test_a_bomb_as_index_is_refused_before_it_is_inflated(tmp_path):
    bomb(tmp_path / "index_train.npz", 400)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"refused: .*bytes in a file"):
        index_lib.read(tmp_path, "train")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_an_array_that_declares_more_than_it_holds_is_refused(tmp_path):
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (10**11,)})
    archive(tmp_path / "index_train.npz", {"ids.npy": member.getvalue()})
    with pytest.raises(UserError, match="shape"):
        index_lib.read(tmp_path, "train")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a": ' * 50_000,
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1, "a": 2}',
        '{"b": {"a": 1, "a": 2}}',
        '{"Permission denied": 1, "Permission denied": 2}',
        "[1]",
        "",
        '{"a": ' + "9" * 5000 + "}",
    ],
    ids=lambda text: text[:20],
)
def test_json_that_is_no_plain_object_is_one_line(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        untrusted.read_json(path, wrong="not a configuration", fix="none")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_json_larger_than_the_limit_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "JSON_BYTES", 1000)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": "x" * 2000}))
    with pytest.raises(UserError, match="more than"):
        untrusted.read_json(path, wrong="not a configuration", fix="none")
    path.write_text(json.dumps({"a": "x" * 500}))
    assert untrusted.read_json(path, wrong="not a configuration", fix="none") == {"a": "x" * 500}
    # What this package writes itself, such as a report that lists every rejected row, has no limit.
    path.write_text(json.dumps({"a": "x" * 2000, "rate": float("inf")}))
    assert untrusted.read_json(path, wrong="damaged", fix="none", own=True)["rate"] == float("inf")


def test_a_file_that_cannot_be_read_keeps_its_own_error(tmp_path, monkeypatch):
    for own in (False, True):
        with pytest.raises(FileNotFoundError):
            untrusted.read_json(tmp_path / "a.json", wrong="damaged", fix="none", own=own)
    (tmp_path / "a.json").write_text("{}")

    class Refusing:
        def __init__(self, path):
            pass

        def open(self, mode):
            raise PermissionError(errno.EACCES, "Permission denied")

        def read_bytes(self):
            self.open("rb")

    monkeypatch.setattr(untrusted.epath, "Path", Refusing)
    for own in (False, True):
        with pytest.raises(PermissionError):
            untrusted.read_json(tmp_path / "a.json", wrong="damaged", fix="none", own=own)


def laughs(depth):
    tree = {}
    for _ in range(depth):
        tree = {"a": tree, "b": tree}
    return tree


class View:
    """A tensor that expands a small storage."""

    nbytes = 10**9


@pytest.mark.parametrize(
    "tree", [laughs(40), [View()] * 10, [[[]] * 400] * 400], ids=["dicts", "views", "lists"]
)
def test_containers_that_repeat_themselves_are_refused(tmp_path, tree):
    (tmp_path / "a.pt").write_bytes(bytes(100))
    with pytest.raises(ValueError, match="more than the file holds"):
        untrusted.tree(tree, tmp_path / "a.pt")
    assert untrusted.tree({"a": {"b": [1, 2]}}, tmp_path / "a.pt")


def test_a_budget_lets_one_large_image_in_and_makes_others_wait():
    import threading

    budget, inside, most = untrusted.PixelBudget(100), [], []

    def work(pixels):
        with budget.hold(pixels):
            inside.append(pixels)
            most.append(sum(inside))
            threading.Event().wait(0.005)
            inside.remove(pixels)

    threads = [threading.Thread(target=work, args=(pixels,)) for pixels in [60, 30, 50, 20, 500, 40] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(most) == len(threads)
    assert max(total for total in most if total != 500) <= 100
