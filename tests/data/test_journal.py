import concurrent.futures
import contextlib
import pathlib
import signal
import subprocess
import sys

import pytest

from softbio_jax.data.prepare.account import Entry, Journal

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENTRIES = {
    "train/1.jpg": Entry(b"a" * 32, None),
    "train/zw\u00f6lf.jpg": Entry(b"b" * 32, b"image"),
    "c": Entry(b"c" * 32, b""),
}


def write(journal):
    for row_id, entry in ENTRIES.items():
        journal.add(row_id, entry)


def test_entries_survive(tmp_path):
    with contextlib.closing(Journal(tmp_path / "j")) as journal:
        write(journal)
    journal = Journal(tmp_path / "j")
    assert {row_id: journal.get(row_id) for row_id in ENTRIES} == ENTRIES
    assert journal.get("d") is None


def test_entries_survive_the_end_of_the_process(tmp_path):
    program = """if True:
        import os, signal, sys
        from tests.data.test_journal import Journal, write
        write(Journal(sys.argv[1]))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", program, tmp_path / "j"], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    journal = Journal(tmp_path / "j")
    assert {row_id: journal.get(row_id) for row_id in ENTRIES} == ENTRIES


@pytest.mark.parametrize("row_id", ["c"])
def test_a_later_entry_replaces_an_earlier(tmp_path, row_id):
    with contextlib.closing(Journal(tmp_path / "j")) as journal:
        write(journal)
        journal.add(row_id, Entry(b"x" * 32, None))
    assert Journal(tmp_path / "j").get(row_id) == Entry(b"x" * 32, None)


def test_threads_read_while_one_writes(tmp_path):
    with contextlib.closing(Journal(tmp_path / "j")) as journal:
        names = [f"train/{i}.jpg" for i in range(400)]

        def read(name):
            return [journal.get(name) for _ in range(20)][-1]

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            reading = pool.map(read, names * 4)
            for name in names:
                journal.add(name, Entry(b"d" * 32, name.encode()))
            list(reading)
        assert [journal.get(name).data.decode() for name in names] == names
