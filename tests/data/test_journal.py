import pytest

from softbio_jax.data.prepare.account import Entry, Journal

ENTRIES = {
    "train/1.jpg": Entry(b"a" * 32, None),
    "train/zw\u00f6lf.jpg": Entry(b"b" * 32, b"picture"),
    "c": Entry(b"c" * 32, b""),
}


def _write(path):
    journal = Journal(path)
    for row_id, entry in ENTRIES.items():
        journal.add(row_id, entry)
    journal.close()


def test_entries_survive(tmp_path):
    _write(tmp_path / "j")
    journal = Journal(tmp_path / "j")
    assert {row_id: journal.get(row_id) for row_id in ENTRIES} == ENTRIES
    assert journal.get("d") is None


def test_every_cut_keeps_the_whole_entries(tmp_path):
    _write(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    kept = []
    for end in range(len(content) + 1):
        (tmp_path / "cut").write_bytes(content[:end])
        journal = Journal(tmp_path / "cut")
        kept.append(len(journal))
        journal.add("new", Entry(b"n" * 32, b"more"))
        journal.close()
        again = Journal(tmp_path / "cut")
        assert again.get("new") == Entry(b"n" * 32, b"more")
        for row_id in list(ENTRIES)[: kept[-1]]:
            assert again.get(row_id) == ENTRIES[row_id]
        again.close()
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (0, 3)


@pytest.mark.parametrize("row_id", ["c"])
def test_a_later_entry_replaces_an_earlier(tmp_path, row_id):
    _write(tmp_path / "j")
    journal = Journal(tmp_path / "j")
    journal.add(row_id, Entry(b"x" * 32, None))
    journal.close()
    assert Journal(tmp_path / "j").get(row_id) == Entry(b"x" * 32, None)
