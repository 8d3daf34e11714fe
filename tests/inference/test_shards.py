"""Files divided among devices, tables and processes give the same bytes as one device and one process."""

import io
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from softbio_jax.errors import UserError
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference.bulk import shards
from softbio_jax.inference.bulk.stream import Stream
from softbio_jax.inference.bulk.table import PredictionTable
from softbio_jax.inference.bulk.videos import Pace
from softbio_jax.inference.predictor import Predictor
from tests.distributed.test_processes import _free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
COUNT = 37


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{i:02d}.png")
    (folder / "17a.png").write_bytes(b"not an image")
    return sorted(map(str, folder.iterdir()))


def rows(model, names, path):
    """The bytes of a table after predicting from the files that it lacks."""
    table = PredictionTable(
        path, stream=io.StringIO(), form="csv", tasks=model.bundle.tasks, model=bundle_lib.label(model.bundle)
    )
    settings = {"faces": "crop", "finder": None, "margin": 0.0, "pace": Pace.parse("1s"), "annotated": None}
    Stream(model=model, table=table, **settings).run(names)
    table.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def one(bundle, names, tmp_path_factory):
    model = Predictor(bundle, device="cpu", max_batch=4)
    return rows(model, names, tmp_path_factory.mktemp("one") / "rows.csv")


def test_all_devices_write_the_bytes_of_one(bundle, names, one, tmp_path):
    model = Predictor(bundle, max_batch=4)
    assert len(model.devices) == jax.local_device_count() == 8
    assert rows(model, names, tmp_path / "rows.csv") == one
    assert 4 * 8 in model.buckets  # they did work together


@pytest.mark.parametrize("lines", [1, 2, 9, 35, COUNT])
@pytest.mark.parametrize("device", ["cpu", None])
def test_an_interrupted_table_becomes_the_same(device, lines, bundle, names, one, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"".join(one.splitlines(keepends=True)[:lines]) + b"half a")
    assert rows(Predictor(bundle, device=device, max_batch=4), names, path) == one


def test_a_few_images_are_a_small_batch(bundle, names, tmp_path):
    model = Predictor(bundle, max_batch=32)
    rows(model, names[:3], tmp_path / "rows.csv")
    assert model.buckets == (4,)


def test_logits_do_not_depend_on_what_else_is_in_a_whole_batch(bundle):
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    model = Predictor(bundle, device="cpu", max_batch=8)
    together = model.logits(images, whole=True)
    for kept in range(1, 8):
        part = model.logits(images[:kept], whole=True)
        for task, values in together.items():
            np.testing.assert_array_equal(part[task], values[:kept])
    assert model.buckets == (8,)


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_an_interrupted_small_table_becomes_the_same(lines, bundle, names, tmp_path):
    model = Predictor(bundle, max_batch=32)
    whole = rows(model, names[:3], tmp_path / "whole.csv")
    path = tmp_path / "rows.csv"
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:lines]))
    assert rows(model, names[:3], path) == whole


@pytest.mark.parametrize(("shards_", "every"), [(1, 4), (3, 4), (8, 2), (5, 100)])
def test_every_name_is_in_one_shard(shards_, every):
    names = [str(i) for i in range(COUNT)]
    parts = shards.divided(names, shards=shards_, every=every)
    assert len(parts) == shards_
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert max(map(len, parts)) - min(map(len, parts)) <= every


def test_tables_of_another_number_of_shards_are_refused(tmp_path):
    (tmp_path / "rows-00001-of-00004.csv").touch()
    with pytest.raises(UserError, match=r"rows-00001-of-00004\.csv.*--shards=4"):
        shards.tables(tmp_path, shards=2, form="csv")
    assert len(shards.tables(tmp_path, shards=4, form="csv")) == 4
    with pytest.raises(UserError, match=r"fewer shards than processes.*--shards=5"):
        shards.tables(tmp_path, shards=4, form="csv", processes=5)
    with pytest.raises(UserError, match="is a file"):
        shards.tables(tmp_path / "rows-00001-of-00004.csv", shards=4, form="csv")


def predict(*arguments, processes=1, devices=1):
    """Runs scripts/predict.py in one process or several; returns their exit codes and output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "scripts/predict.py", "--faces=crop", "--batch=4", *arguments]
    started, port = [], _free_port()
    for process in range(processes):
        several = [f"--coordinator=127.0.0.1:{port}", f"--process_id={process}", f"--processes={processes}"]
        started.append(
            subprocess.Popen(
                [*command, *(["--multihost", *several] if processes > 1 else [])],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return [(process.communicate(timeout=300)[0], process.returncode) for process in started]


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["--multihost", "a.png"], "--shards=N"),
        (["--shards=2", "a.png"], "--out=FOLDER"),
        (["--shards=2", "--out=x", "-"], "listing"),
        (["--process_id=1", "a.png"], "omit --process_id"),
        (["--column=face", "a.png"], "omit --column"),
    ],
)
def test_shards_and_processes_that_do_not_fit(arguments, reported, tmp_path):
    ((printed, code),) = predict("--model=none", *arguments)
    assert code == 1 and printed.count("\n") == 1 and reported in printed


@pytest.mark.long
def test_two_processes_and_eight_devices_write_the_bytes_of_one(workdir, names, tmp_path):
    folder, common = str(pathlib.Path(names[0]).parent), (f"--model={workdir}", "--shards=3")
    for out, settings in {"one": {}, "eight": {"devices": 8}, "two": {"processes": 2}}.items():
        codes = [code for _, code in predict(*common, f"--out={tmp_path / out}", folder, **settings)]
        assert sorted(codes) == [0] * (len(codes) - 1) + [1]  # one file is no image
    paths = sorted((tmp_path / "one").iterdir())
    assert len(paths) == 3
    for path in paths:
        assert (tmp_path / "eight" / path.name).read_bytes() == path.read_bytes()
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()
    # What a kill left of one table is completed, by any number of processes.
    torn = tmp_path / "two" / paths[1].name
    torn.write_bytes(torn.read_bytes()[:-300])
    (tmp_path / "two" / paths[2].name).unlink()
    predict(*common, f"--out={tmp_path / 'two'}", folder)
    for path in paths:
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()
