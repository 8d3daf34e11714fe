"""Records, index and report of a prepared set belong together, or reading says which file does not."""

import dataclasses
import json
import random
import shutil

import numpy as np
import pytest

from softbio_jax.data import index as index_lib
from softbio_jax.data import pipeline, sources
from softbio_jax.data.prepare import prepare
from softbio_jax.data.prepare.storage import Storage
from softbio_jax.errors import UserError
from softbio_jax.safety import damage
from tests.data.trees import make_emotions


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One source in two storages, and as many images of another one."""
    root = tmp_path_factory.mktemp("bound")
    make_emotions(root / "raw")
    source = {"source": str(root / "raw"), "task": "emotion"}
    prepare.prepare("folder", out=root / "one", **source)
    storage = Storage(image_size=8, encoding="jpeg", quality=1)
    prepare.prepare("folder", out=root / "small", storage=storage, **source)
    best = Storage(image_size=8, encoding="jpeg", quality=90)
    prepare.prepare("folder", out=root / "best", storage=best, **source)
    return root


@pytest.fixture
def one(root, tmp_path):
    shutil.copytree(root / "one", tmp_path / "one")
    return tmp_path / "one"


def _records(folder, split):
    return next(folder.glob(f"*-{split}.array_record*"))


def _read_all(folder, split="train"):
    dataset = sources.open_prepared(folder, split)
    return [dataset[i] for i in range(len(dataset))]


def test_the_fingerprint_covers_what_is_stored(root):
    prints = {sources.open_prepared(root / name, "train").fingerprint for name in ("one", "small", "best")}
    assert len(prints) == 3


@pytest.mark.parametrize("other", ["small", "best"])
def test_the_same_images_in_another_storage_are_refused(one, root, other):
    shutil.copy(_records(root / other, "train"), _records(one, "train"))
    with pytest.raises(UserError, match="do not belong together") as caught:
        _read_all(one)
    assert _records(one, "train").name in str(caught.value)


@pytest.mark.parametrize("place", [0, 3, -1])
def test_records_in_another_order_are_refused(one, place):
    from array_record.python import array_record_data_source, array_record_module

    path = _records(one, "train")
    with array_record_data_source.ArrayRecordDataSource(str(path)) as records:
        content = [records[i] for i in range(len(records))]
    content[place], content[place - 1] = content[place - 1], content[place]
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in content:
        writer.write(record)
    writer.close()
    with pytest.raises(UserError, match=r"do not belong together: .*array_record"):
        _read_all(one)


def test_exchanged_indices_of_two_splits_are_refused(one):
    train, test = index_lib.path_of(one, "train"), index_lib.path_of(one, "test")
    assert len(index_lib.read(one, "train")) == len(index_lib.read(one, "test"))
    content = train.read_bytes()
    train.write_bytes(test.read_bytes())
    test.write_bytes(content)
    with pytest.raises(UserError, match=r"prepared data was edited: .*index_train\.npz"):
        sources.open_prepared(one, "train")
    (one / index_lib.REPORT).unlink()
    with pytest.raises(UserError, match=r"do not belong together"):
        sources.open_prepared(one, "train")


@pytest.mark.parametrize("part", ["labels/emotion", "ids", "digests", "checks"])
def test_an_edited_index_is_refused_with_and_without_its_report(one, part):
    path = index_lib.path_of(one, "train")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays[part] = arrays[part][::-1]
    np.savez_compressed(path, **arrays)
    for _ in range(2):
        with pytest.raises(UserError, match="prepared data was edited"):
            sources.open_prepared(one, "train")
        (one / index_lib.REPORT).unlink(missing_ok=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report["splits"]["train"].update(fingerprint="0" * 64),
        lambda report: report["splits"]["train"].update(fingerprint=3),
        lambda report: report["splits"]["train"].pop("fingerprint"),
        lambda report: report["splits"].pop("train"),
        lambda report: report.update(splits=[]),
        lambda report: report.pop("splits"),
    ],
)
def test_an_edited_report_is_refused(one, change):
    path = one / index_lib.REPORT
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))
    with pytest.raises(UserError, match=r"report"):
        sources.open_prepared(one, "train")


@pytest.mark.parametrize("content", [b"", b'{"splits": ', b"\0" * 512, b"\xff", b"[" * 100_000])
def test_a_damaged_report_is_one_line(one, content):
    (one / index_lib.REPORT).write_bytes(content)
    for read in (lambda: sources.open_prepared(one, "train"), lambda: prepare.read_report(one)):
        with pytest.raises(UserError, match=r"a damaged report: .*report\.json"):
            read()


def test_a_damaged_index_is_one_line_or_unchanged(one):
    path, draw = index_lib.path_of(one, "train"), random.Random(0)
    whole, expected = path.read_bytes(), index_lib.read(one, "train").fingerprint()
    refused = 0
    for kind in range(40):
        content = bytearray(whole)
        start = draw.randrange(len(whole))
        if kind % 4 == 0:
            content = content[:start]
        elif kind % 4 == 1:
            content[start : start + 64] = bytes(len(content[start : start + 64]))
        elif kind % 4 == 2:
            content[start : start + 64] = draw.randbytes(len(content[start : start + 64]))
        else:
            content[start] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            assert index_lib.read(one, "train").fingerprint() == expected
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refused >= 30


@pytest.mark.parametrize("fill", [b"\0", b"\xa5"])
def test_damaged_records_are_named_by_their_file(one, fill):
    path = _records(one, "train")
    whole, expected, refused = path.read_bytes(), _read_all(one), 0
    sectors = [start for start in range(0, len(whole), 512) if any(whole[start : start + 512])]
    for start in sectors:
        path.write_bytes(whole[:start] + 512 * fill + whole[start + 512 :])
        try:
            dataset = sources.open_prepared(one, "train")
            list(pipeline.eval_batches(dataset, image_size=8, batch_size=2))
            assert _read_all(one) == expected
        except UserError as error:
            refused += 1
            assert path.name in str(error) and "\n" not in str(error)
    assert refused > len(sectors) / 2


def test_half_of_the_records_is_one_line_that_names_the_file(one):
    path = _records(one, "train")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError) as caught:
        _read_all(one)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_a_set_of_an_older_version_is_read_and_compared_by_its_ids(one, root):
    for split in ("train", "test"):
        old = dataclasses.replace(index_lib.read(one, split), checks=None)
        arrays = {"ids": old.ids, "digests": old.digests, "labels/emotion": old.labels["emotion"]}
        np.savez_compressed(index_lib.path_of(one, split), **arrays)
        report = json.loads((one / index_lib.REPORT).read_text())
        report["splits"][split]["fingerprint"] = old.fingerprint()
        (one / index_lib.REPORT).write_text(json.dumps(report))
    assert _read_all(one) == _read_all(root / "one")
    shutil.copy(_records(one, "test"), _records(one, "train"))
    with pytest.raises(UserError, match="do not belong together"):
        _read_all(one)


def test_the_sample_tells_long_images_apart():
    draw = np.random.default_rng(0)
    data = draw.bytes(300_001)
    encoded_again = data[:100] + draw.bytes(299_901)
    checks = {damage.sample_check(found) for found in (data, encoded_again, data[:-1], data + b"\0")}
    assert len(checks) == 4
    assert damage.checks_of(data)[1] != damage.checks_of(data[:-1] + b"\0")[1]
    assert damage.sample_check(b"") != damage.sample_check(b"\0")
