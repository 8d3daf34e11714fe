"""Trackers get the scalars of metrics.jsonl, once each; their failures do not end a run."""

import importlib.util
import io
import json
import sys
import types

import pytest
from etils import epath

from softbio_jax.console import Console
from softbio_jax.errors import UserError
from softbio_jax.runs import directory
from softbio_jax.train import loop, trackers
from tests.runs.tiny import changed, config_on, run_of


class Recorder:
    """A writer of clu's interface."""

    def __init__(self, fails_at=None):
        self.scalars, self.hparams, self.calls, self._fails_at = {}, [], [], fails_at

    def write_scalars(self, step, scalars):
        if step == self._fails_at:
            raise ConnectionError("no route to host")
        assert all(type(value) is float for value in scalars.values())
        assert not self.scalars.setdefault(step, {}).keys() & scalars.keys()
        self.scalars[step].update(scalars)

    def write_hparams(self, hparams):
        self.hparams.append(hparams)

    def flush(self):
        self.calls.append("flush")

    def close(self):
        self.calls.append("close")


@pytest.fixture(scope="module")
def config(data_root):
    # On cached features, whose train step compiles in a moment.
    return changed(config_on(data_root), method={"name": "lp"}, data__test=(), train__cache_features=True)


@pytest.fixture(scope="module")
def tracked(config, tmp_path_factory):
    folder, recorder, broken = tmp_path_factory.mktemp("run"), Recorder(), Recorder(fails_at=6)
    loop.train_and_evaluate(*run_of(config), folder, writers=[recorder, broken])
    return folder, recorder, broken


def test_a_writer_gets_what_the_files_have(tracked):
    folder, recorder, _ = tracked
    wanted = {}
    for name in ("metrics.jsonl", "performance.jsonl"):
        for line in (folder / name).read_text().splitlines():
            values = json.loads(line)
            wanted.setdefault(values.pop("step"), {}).update(values)
    assert recorder.scalars == wanted
    assert [hparams["train.steps"] for hparams in recorder.hparams] == [8]
    assert recorder.calls[-1] == "close" and "flush" in recorder.calls


def test_a_writer_that_fails_does_not_end_the_run(tracked):
    _, recorder, broken = tracked
    assert max(broken.scalars) < 6 < max(recorder.scalars)
    assert "close" not in broken.calls


def test_a_failure_is_reported_once():
    out = io.StringIO()
    guarded = trackers.Guarded("wandb", Recorder(fails_at=1), Console(out=out))
    for step in (0, 1, 1, 2):
        guarded.write_scalars(step, {"a": 0.0})
    assert out.getvalue().count("\n") == 1 and "wandb" in out.getvalue() and "no route" in out.getvalue()


def open_all(names, folder, *, resume_step=0, out=None):
    return trackers.open_all(
        names,
        epath.Path(folder),
        resume_step=resume_step,
        hparams={"train": {"steps": 8}},
        console=Console(out=out or io.StringIO()),
    )


class FakeWandb(types.ModuleType):
    """Weights & Biases as far as a tracker uses it: runs by id, which continue."""

    def __init__(self):
        super().__init__("wandb")
        self.runs = {}

    def init(self, *, id, resume, dir, name):
        assert resume == "allow"
        id = id or f"run{len(self.runs)}"
        known = self.runs.setdefault(id, [])
        return types.SimpleNamespace(
            id=id,
            resumed=bool(known),
            starting_step=max(known) + 1 if known else 0,
            log=lambda scalars, step: known.append(step),
            config=types.SimpleNamespace(update=lambda values, allow_val_change: None),
            finish=lambda: None,
        )


def test_a_resumed_run_continues_the_tracker_without_repeating_a_step(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    (writer,) = open_all(["wandb"], tmp_path)
    for step in (1, 2, 3):
        writer.write_scalars(step, {"a": 1.0})
    (writer,) = open_all(["wandb"], tmp_path, resume_step=1)
    for step in (2, 3, 4):
        writer.write_scalars(step, {"a": 1.0})
    assert fake.runs == {"run0": [1, 2, 3, 4]}
    open_all(["wandb"], tmp_path)  # a run from step 0 is a new one there too
    assert list(fake.runs) == ["run0", "run1"]


def test_a_server_that_does_not_answer_is_a_warning(tmp_path, monkeypatch):
    def init(**_):
        raise TimeoutError("no answer\nin 90 s")

    fake, out = FakeWandb(), io.StringIO()
    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert open_all(["wandb"], tmp_path, out=out) == []
    assert out.getvalue().count("\n") == 1 and "no answer" in out.getvalue()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_reported_before_anything_is_written(name, config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    run, data = run_of(changed(config, train__trackers=(name,)))
    with pytest.raises(UserError, match=rf"train\.trackers.*{name}.*softbio-jax\[{name}\]"):
        loop.train_and_evaluate(run, data, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_run_may_change_its_trackers(config):
    one, other = (run_of(changed(config, train__trackers=t))[0].config for t in ((), ("wandb",)))
    assert directory.identity(one) == directory.identity(other)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_package_itself(name, tmp_path, monkeypatch):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed (the extra {name})")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for resume_step, steps in ((0, (1, 2, 3)), (1, (2, 3, 4))):
        out = io.StringIO()
        (writer,) = open_all([name], tmp_path, resume_step=resume_step, out=out)
        for step in steps:
            writer.write_scalars(step, {"train/loss/total": float(step)})
        writer.close()
        assert out.getvalue() == ""
    if name == "mlflow":
        import mlflow

        run_id = json.loads((tmp_path / "trackers.json").read_text())[name]
        history = mlflow.MlflowClient().get_metric_history(run_id, "train/loss/total")
        assert [(point.step, point.value) for point in history] == [(i, float(i)) for i in (1, 2, 3, 4)]
