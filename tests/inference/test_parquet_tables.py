"""Predictions from the images of Parquet tables, and as Parquet tables."""

import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from softbio_jax.errors import UserError
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference.bulk import inputs, workers
from softbio_jax.inference.bulk.parquet import TableImage, TableReader, open_table
from softbio_jax.inference.bulk.stream import Stream
from softbio_jax.inference.bulk.videos import Pace
from softbio_jax.inference.predictor import Predictor

COUNT = 11


def encoded(i):
    out = io.BytesIO()
    image = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(image).save(out, "png")
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files, and the same images in tables; the eighth is no image."""
    root = tmp_path_factory.mktemp("tables")
    data = [encoded(i) if i != 7 else b"\xff\xd8\xffno image" for i in range(COUNT)]
    for i, image in enumerate(data):
        (root / f"{i:02d}.png").write_bytes(image)
    struct = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(data)]
    pq.write_table(pa.table({"face": struct, "n": range(COUNT)}), root / "structs.parquet", row_group_size=4)
    pq.write_table(pa.table({"data": data}), root / "binary.parquet", row_group_size=3)
    pq.write_table(pa.table({"path": [f"{i:02d}.png" for i in range(COUNT)]}), root / "paths.parquet")
    return root


@pytest.fixture(scope="module")
def model(bundle):
    return Predictor(bundle, device="cpu", max_batch=4)


def predict(model, names, path, *, form="csv", finish=True, **settings):
    table = open_table(
        path, stream=io.StringIO(), form=form, tasks=model.bundle.tasks, model=bundle_lib.label(model.bundle)
    )
    common = {"faces": "crop", "finder": None, "margin": 0.0, "pace": Pace.parse("1s"), "annotated": None}
    counts = Stream(model=model, table=table, **common | settings).run(names)
    table.finish() if finish else table.close()
    return counts


def expand(*arguments, column=""):
    return list(inputs.expand(map(str, arguments), stdin=io.StringIO(), column=column))


def renamed(path, folder):
    """The rows of a table with the number of each image as its input."""
    lines = path.read_text().splitlines()[1:]
    cells = [line.split(",", 1) for line in lines]
    number = [name.rpartition("#")[2] if "#" in name else name.rpartition("/")[2][:2] for name, _ in cells]
    return [(int(n), rest) for n, (_, rest) in zip(number, cells, strict=True)]


@pytest.mark.parametrize("table", ["structs", "binary", "paths"])
def test_rows_of_a_table_are_predicted_as_their_files(table, model, folder, tmp_path):
    predict(model, expand(folder / "*.png"), tmp_path / "files.csv")
    names = expand(folder / f"{table}.parquet")
    counts = predict(model, names, tmp_path / "rows.csv")
    assert len(names) == COUNT and counts.skipped == 1
    assert renamed(tmp_path / "rows.csv", folder) == renamed(tmp_path / "files.csv", folder)


def test_rows_are_read_in_any_order(folder):
    names = expand(folder / "structs.parquet")
    reader = TableReader()
    for i in (0, 1, 5, 4, 10, 2, 2):
        assert reader.read(names[i]) == (folder / f"{i:02d}.png").read_bytes()
    other = TableImage(str(folder / "binary.parquet"), "data", 3)
    assert reader.read(pickle.loads(pickle.dumps(other))) == (folder / "03.png").read_bytes()


def test_the_column_is_chosen_or_named(folder, tmp_path):
    path = tmp_path / "two.parquet"
    pq.write_table(pa.table({"a": [encoded(0)], "b": [encoded(1)], "path": ["x"]}), path)
    with pytest.raises(UserError, match="found a, b, path; fix: name one with --column"):
        expand(path)
    (name,) = expand(path, column="b")
    assert name == f"{path}#0" and TableReader().read(name) == encoded(1)
    with pytest.raises(UserError, match="a column is missing"):
        expand(path, column="c")
    (tmp_path / "torn.parquet").write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"not a complete Parquet file: .*torn\.parquet"):
        expand(tmp_path / "torn.parquet")


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_without_an_image_are_skipped(workers, model, tmp_path):
    (tmp_path / "there.png").write_bytes(encoded(2))
    rows = [{"bytes": encoded(0), "path": "0.png"}, None, {"bytes": b"", "path": None}]
    rows += [{"bytes": None, "path": "there.png"}, {"bytes": None, "path": "missing.png"}]
    path = tmp_path / "gaps.parquet"
    pq.write_table(pa.table({"image": rows}), path)
    counts = predict(model, expand(path), tmp_path / "rows.csv", workers=workers)
    assert (counts.images, counts.skipped) == (2, 3)


def test_rows_without_a_path_are_skipped(model, tmp_path):
    (tmp_path / "there.png").write_bytes(encoded(2))
    path = tmp_path / "paths.parquet"
    pq.write_table(pa.table({"path": ["there.png", None, "", "missing.png"]}), path)
    counts = predict(model, expand(path), tmp_path / "rows.csv")
    assert (counts.images, counts.skipped) == (1, 3)


def test_a_parquet_table_has_the_rows_of_the_others(model, folder, tmp_path):
    names = expand(folder / "structs.parquet")
    predict(model, names, tmp_path / "rows.jsonl", form="jsonl")
    predict(model, names, tmp_path / "rows.parquet", form="parquet")
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in row.items() if v is not None} for row in rows] == lines
    assert len(rows) == COUNT - 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "rows.parquet"]


@pytest.mark.parametrize("before", [0, 1, 4, 9, COUNT])
def test_an_interrupted_parquet_table_becomes_the_same(before, model, folder, tmp_path):
    names = expand(folder / "structs.parquet")
    predict(model, names, tmp_path / "whole.parquet", form="parquet")
    path = tmp_path / "rows.parquet"
    predict(model, names[:before], path, form="parquet", finish=False)
    assert not path.exists()
    journal = tmp_path / "rows.parquet.jsonl"
    journal.write_text(journal.read_text() + '{"input": "half a')
    predict(model, names, path, form="parquet")
    assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes() and not journal.exists()


def test_a_complete_parquet_table_is_extended_and_not_repeated(model, folder, tmp_path):
    names, path = expand(folder / "binary.parquet"), tmp_path / "rows.parquet"
    predict(model, names, tmp_path / "whole.parquet", form="parquet")
    predict(model, names[:5], path, form="parquet")
    counts = predict(model, names, path, form="parquet")
    assert (counts.done, counts.images) == (5, COUNT - 6)
    assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_another_table_is_not_replaced(model, folder, tmp_path):
    path = tmp_path / "rows.parquet"
    for other in (pa.table({"input": ["a"]}), None):
        if other is None:
            path.write_bytes(b"something else")
        else:
            pq.write_table(other, path)
        before = path.read_bytes()
        with pytest.raises(UserError, match="the output holds something else"):
            predict(model, expand(folder / "binary.parquet"), path, form="parquet")
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match=r"--out=ROWS\.parquet"):
        predict(model, [], None, form="parquet")


def test_worker_processes_give_the_same_bytes(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_EACH", 3)
    names = expand(folder / "*.png", folder / "structs.parquet")
    predict(model, names, tmp_path / "threads.csv")
    whole = (tmp_path / "threads.csv").read_bytes()
    (tmp_path / "rows.csv").write_bytes(b"".join(whole.splitlines(keepends=True)[:6]))
    counts = predict(model, names, tmp_path / "rows.csv", workers=2)
    assert (counts.done, counts.skipped) == (5, 2)
    assert (tmp_path / "rows.csv").read_bytes() == whole


def test_a_table_that_is_missing_is_skipped_like_any_file(tmp_path):
    assert expand(tmp_path / "missing.parquet") == [str(tmp_path / "missing.parquet")]
