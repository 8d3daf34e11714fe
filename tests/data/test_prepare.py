import json
import tempfile

import pytest
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.utils import shard_utils

from softbio_jax.console import Console
from softbio_jax.data import sources
from softbio_jax.data.prepare import prepare, storage, tables
from softbio_jax.data.prepare.rows import Rejection
from softbio_jax.errors import UserError
from tests.data.trees import FAIRFACE_HEADER, make_fairface, write_table


def _break(path, how):
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "text": b"hello"}[how])


def test_survey_counts_rows_without_images(tmp_path):
    make_fairface(tmp_path, train=4, val=2)
    _break(tmp_path / "train" / "1.jpg", "empty")
    found = prepare.survey("fairface", source=str(tmp_path))
    assert {split: part.rows for split, part in found.items()} == {"train": 4, "val": 2}


def test_broken_images_are_rejected_and_counted(tmp_path):
    make_fairface(tmp_path, train=10, val=2)
    for number, how in ((2, "truncated"), (5, "empty"), (7, "text")):
        _break(tmp_path / "train" / f"{number}.jpg", how)
    (tmp_path / "train" / "9.jpg").unlink()
    report = prepare.prepare("fairface", source=str(tmp_path), out=tmp_path / "out", max_rejected=0.5)
    train = report["splits"]["train"]
    assert (train["rows_read"], train["kept"], train["rejected"]) == (10, 6, 4)
    reasons = {row["path"]: row["reason"] for row in train["rejected_rows"]}
    assert list(reasons) == [f"train/{n}.jpg" for n in (2, 5, 7, 9)]
    table = tmp_path / "fairface_label_train.csv"
    wheres = [row["where"] for row in train["rejected_rows"]]
    assert wheres == [f"{table} row {n + 1}" for n in (2, 5, 7, 9)]
    assert "truncated" in reasons["train/2.jpg"]
    assert reasons["train/5.jpg"] == "empty file"
    assert reasons["train/7.jpg"] == "not an image"
    assert reasons["train/9.jpg"] == "no such file"
    kept = sources.open_prepared(tmp_path / "out", "train")
    assert kept.columns["id"].tolist() == [f"train/{n}.jpg" for n in (1, 3, 4, 6, 8, 10)]
    assert kept.labels["age"].tolist() == [0, 2, 3, 5, 7, 0]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report


def test_too_many_broken_images_leave_nothing(tmp_path):
    make_fairface(tmp_path / "raw", train=10, val=2)
    _break(tmp_path / "raw" / "train" / "2.jpg", "truncated")
    with pytest.raises(UserError, match=r"too many rows were rejected.*1 of 10 \(train/2.jpg: "):
        prepare.prepare("fairface", source=str(tmp_path / "raw"), out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_duplicate_rows_are_rejected(tmp_path):
    make_fairface(tmp_path, train=2, val=1)
    row = ("train/1.jpg", "0-2", "Male", "White", "TRUE")
    write_table(tmp_path / "fairface_label_train.csv", FAIRFACE_HEADER, [row, row])
    report = prepare.prepare("fairface", source=str(tmp_path), out=tmp_path / "out", max_rejected=0.5)
    train = report["splits"]["train"]
    assert train["rejected_by_reason"] == {"duplicate row": 1}
    (rejected,) = train["rejected_rows"]
    table = tmp_path / "fairface_label_train.csv"
    assert str(Rejection(**rejected)) == (
        f"train/1.jpg: duplicate row: {table} row 3: expected one row per image, "
        f"found the same image in {table} row 2; fix: delete one of them; the first was kept"
    )


def test_existing_output_is_kept_by_default(tmp_path, prepared):
    source = str(prepared / "raw_faces")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(UserError, match="the output exists"):
        prepare.prepare("fairface", source=source, out=out)
    assert (out / "mine").exists()
    prepare.prepare("fairface", source=source, out=out, overwrite=True)
    assert len(sources.open_prepared(out, "train")) == 12


def test_fingerprint_tells_labels_and_pixels_apart(tmp_path):
    def fingerprint(name, change):
        make_fairface(tmp_path / name, train=3, val=1)
        change(tmp_path / name)
        report = prepare.prepare("fairface", source=str(tmp_path / name), out=tmp_path / f"{name}_out")
        return report["splits"]["train"]["fingerprint"]

    def relabel(root):
        table = root / "fairface_label_train.csv"
        table.write_text(table.read_text().replace("Female", "Male"))

    def repaint(root):
        (root / "train" / "1.jpg").write_bytes((root / "train" / "2.jpg").read_bytes())

    same = fingerprint("a", lambda root: None)
    assert fingerprint("b", lambda root: None) == same
    assert len({same, fingerprint("c", relabel), fingerprint("d", repaint)}) == 3


def test_nothing_is_left_outside_of_the_output(tmp_path, monkeypatch):
    make_fairface(tmp_path / "raw", train=2, val=1)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    prepare.prepare("fairface", source=str(tmp_path / "raw"), out=tmp_path / "out")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out", "temporary"}


def test_a_split_of_more_than_fits_into_memory(tmp_path, monkeypatch):
    """TFDS would sort records beyond a number of bytes in files that only TensorFlow can write."""
    make_fairface(tmp_path / "raw", train=30, val=4)
    source = {"source": str(tmp_path / "raw")}
    report = prepare.prepare("fairface", out=tmp_path / "small", **source)
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 100)
    monkeypatch.setattr(shard_utils.ShardConfig, "get_number_shards", lambda *_: 4)
    large = prepare.prepare("fairface", out=tmp_path / "large", **source)
    assert large["splits"] == report["splits"]
    assert len(list((tmp_path / "large").glob("*-train.array_record*"))) == 4
    assert not list((tmp_path / "large").glob("tmp*"))
    one, four = (sources.open_prepared(tmp_path / name, "train") for name in ("small", "large"))
    assert [four[i] for i in range(30)] == [one[i] for i in range(30)]
    assert shuffle.Shuffler.__module__ == shuffle.__name__  # put back


def test_unknown_data_set(tmp_path):
    with pytest.raises(UserError, match=r"unknown data set: --dataset: expected .*fairface"):
        prepare.survey("fairfaces", source=str(tmp_path))


class _Killed(KeyboardInterrupt):
    """Stands for the end of the process."""


@pytest.mark.parametrize("store", [storage.Storage(), storage.Storage(image_size=8)])
@pytest.mark.parametrize("rows_before", [1, 7, 12, 14])
def test_resumes_after_being_killed(tmp_path, monkeypatch, store, rows_before):
    make_fairface(tmp_path / "raw", train=12, val=5)
    whole = prepare.prepare("fairface", source=str(tmp_path / "raw"), out=tmp_path / "whole", storage=store)
    seen = []

    def check():
        seen.append(1)
        if len(seen) == rows_before:
            raise _Killed

    def run(**options):
        source = str(tmp_path / "raw")
        return prepare.prepare(
            "fairface", source=source, out=tmp_path / "out", storage=store, threads=1, **options
        )

    with pytest.raises(_Killed):
        run(console=Console(active=False, check=check))
    assert not (tmp_path / "out").exists()
    decoded = []
    original = storage.Storage.__call__
    monkeypatch.setattr(
        storage.Storage,
        "__call__",
        lambda self, row, data: decoded.append(row.id) or original(self, row, data),
    )
    report = run()
    assert len(decoded) == 17 - (rows_before - 1)
    assert report["splits"] == whole["splits"]
    for split in ("train", "val"):
        expected = sources.open_prepared(tmp_path / "whole", split)
        dataset = sources.open_prepared(tmp_path / "out", split)
        assert [dataset[i] for i in range(len(dataset))] == [expected[i] for i in range(len(expected))]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw", "whole"]


def test_an_image_that_changed_meanwhile_is_read_anew(tmp_path):
    make_fairface(tmp_path / "raw", train=4, val=1)
    source = str(tmp_path / "raw")
    seen = []

    def check():
        seen.append(1)
        if len(seen) == 4:
            raise _Killed

    console = Console(active=False, check=check)
    with pytest.raises(_Killed):
        prepare.prepare("fairface", source=source, out=tmp_path / "out", console=console, threads=1)
    first, second = (tmp_path / "raw" / "train" / name for name in ("1.jpg", "2.jpg"))
    first.write_bytes(second.read_bytes())
    prepare.prepare("fairface", source=source, out=tmp_path / "out")
    dataset = sources.open_prepared(tmp_path / "out", "train")
    assert dataset[0] == dataset[1] == second.read_bytes()


def test_two_preparations_at_once(tmp_path, prepared):
    source = str(prepared / "raw_faces")

    def second():
        prepare.prepare("fairface", source=source, out=tmp_path / "out")

    console = Console(active=False, check=second)
    with pytest.raises(UserError, match="another preparation is running"):
        prepare.prepare("fairface", source=source, out=tmp_path / "out", console=console)


def _table(path, *rows):
    path.write_text("\n".join(["split,id,copy_of_split,copy_of_id", *(f"{row},x,y" for row in rows)]) + "\n")
    return path


def test_images_that_the_audit_names_are_left_out(tmp_path, capsys):
    make_fairface(tmp_path / "raw", train=6, val=2)
    rows = ["faces/train,train/2.jpg", "faces/train,train/5.jpg", "other/train,train/1.jpg"]
    table = _table(tmp_path / "drop.csv", *rows, "faces/val,val/9.jpg")
    drop = tables.read_drop(table, name="faces")
    assert drop == {"train": {"train/2.jpg", "train/5.jpg"}, "val": {"val/9.jpg"}}
    report = prepare.prepare("fairface", source=str(tmp_path / "raw"), out=tmp_path / "faces", drop=drop)
    train = report["splits"]["train"]
    assert (train["rows_read"], train["kept"], train["skipped"]) == (6, 4, 2)
    kept = sources.open_prepared(tmp_path / "faces", "train").columns["id"].tolist()
    assert kept == [f"train/{n}.jpg" for n in (1, 3, 4, 6)]
    assert report["protocol"]["drop"] == "3 images"
    assert report["warnings"][-1] == "warning: 1 images of --drop are not in this source"


def test_a_table_of_other_sets_leaves_nothing_out(tmp_path):
    table = _table(tmp_path / "drop.csv", "fairface/train,train/1.jpg")
    with pytest.raises(
        UserError, match=r"no image to leave out.*expected images of mine.*images of fairface"
    ):
        tables.read_drop(table, name="mine")
