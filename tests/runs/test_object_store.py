"""A run whose directory is gs://, where nothing can be appended or renamed."""

import json

import jax
import numpy as np
import pytest
from etils import epath
from etils.epath import backend

from softbio_jax import files
from softbio_jax.errors import UserError
from softbio_jax.evaluation import evaluate
from softbio_jax.runs import restore
from softbio_jax.runs.session import Session
from softbio_jax.train import loop
from softbio_jax.train.metrics_log import MetricWriter
from tests.runs.bucket import mounted
from tests.runs.tiny import changed, config_on, run_of

RUN = epath.Path("gs://bucket/run")
TEXTS = ("metrics.jsonl", "config.json", "eval/metrics.json", "eval/validation.csv")


class Killed(BaseException):
    """Ends a run where a signal would."""


@pytest.fixture
def bucket():
    with mounted() as bucket:
        yield bucket


def test_lines_are_there_after_a_flush_and_the_file_goes_on(bucket):
    file = files.LineFile(RUN / "lines")
    file.write("a")
    assert not (RUN / "lines").exists()
    file.flush()
    assert (RUN / "lines").read_text() == "a\n"
    file.write("b")
    file.close()
    again = files.LineFile(RUN / "lines")
    again.write("c")
    again.close()
    assert (RUN / "lines").read_text() == "a\nb\nc\n"


def test_lines_come_every_minute_by_themselves(bucket, monkeypatch):
    monkeypatch.setattr(files, "EVERY", 0.0)
    file = files.LineFile(RUN / "lines")
    file.write("a")
    assert (RUN / "lines").read_text() == "a\n"


def test_an_upload_replaces_what_was_there_and_ends_with_the_marker(bucket, tmp_path, monkeypatch):
    for name in ("a/b.txt", "m.json", "z.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (RUN / "eval" / "old.txt").write_text("old")
    written, pipe = [], type(bucket)._open

    def noted(self, path, mode="rb", **values):
        if "w" in mode:
            written.append(path)
        return pipe(self, path, mode=mode, **values)

    monkeypatch.setattr(type(bucket), "_open", noted)
    files.upload(tmp_path, RUN / "eval", last="m.json")
    assert written[-1] == "/bucket/run/eval/m.json"
    found = {str(path) for path in bucket.find("bucket/run/eval")}
    assert found == {f"/bucket/run/eval/{name}" for name in ("a/b.txt", "m.json", "z.txt")}


def test_events_are_written(bucket):
    writer = MetricWriter(RUN, resume_step=0, active=True)
    writer.write(1, {"train/loss": 0.5})
    writer.close()
    (path,) = (RUN / "tensorboard").iterdir()
    assert path.name.startswith("events.out.tfevents.")
    assert b"train/loss" in path.read_bytes()


def test_what_has_to_be_on_a_disk_says_so():
    with pytest.raises(UserError, match="the feature cache has to be on a disk: gs://bucket/run"):
        files.local(RUN, what="the feature cache", fix="set train.cache_dir")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ImportError("Please install gcsfs to access Google Storage"), "fix: pip install gcsfs"),
        (PermissionError("403 no access"), "403 no access; fix: check the name, network"),
    ],
)
def test_a_store_out_of_reach_is_one_line(monkeypatch, error, told):
    def refuse(*_):
        raise error

    monkeypatch.setattr(type(backend.fsspec_backend), "_get_filesystem", refuse)
    with pytest.raises(UserError, match="directory cannot be reached: gs://bucket/run") as caught:
        files.directory(RUN)
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.long
def test_a_run_in_a_bucket_is_the_run_on_a_disk(bucket, data_root, tmp_path, monkeypatch):
    """Also where it was killed between two checkpoints and started again."""
    config = changed(config_on(data_root), train__profile_steps=(2, 3))
    loop.train_and_evaluate(*run_of(config), tmp_path)
    train = Session.train

    def bomb(session, batch):
        if int(session.state.step) == 6:
            raise Killed
        return train(session, batch)

    monkeypatch.setattr(Session, "train", bomb)
    with pytest.raises(Killed):
        loop.train_and_evaluate(*run_of(config), "gs://bucket/run")
    monkeypatch.setattr(Session, "train", train)
    summary = loop.train_and_evaluate(*run_of(config), "gs://bucket/run")

    for name in TEXTS:
        assert (RUN / name).read_text() == (tmp_path / name).read_text()
    folders = [folder / "checkpoints" / "8" / "manifest.json" for folder in (RUN, tmp_path)]
    there, here = (json.loads(path.read_text()) for path in folders)
    assert there["leaves"] == here["leaves"] and there["host"] == here["host"]
    assert [path for path in bucket.find("bucket/run/profile") if path.endswith(".xplane.pb")]
    assert not (tmp_path.parent / "gs:").exists()

    session, local = (restore.restore_run(folder) for folder in (RUN, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, session.state, local.state)
    assert evaluate.evaluate_run(RUN, out="gs://bucket/again") == summary
    assert (epath.Path("gs://bucket/again") / "eval/metrics.json").exists()
