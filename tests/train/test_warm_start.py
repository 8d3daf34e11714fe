"""Runs that start from the weights of another one."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from softbio_jax.checkpoints.pretrained import save_pretrained
from softbio_jax.errors import UserError
from softbio_jax.inference import bundle, predictor
from softbio_jax.params import flatten
from softbio_jax.runs.session import Session
from softbio_jax.tasks import EMOTION, TASKS
from softbio_jax.train import loop, warm_start
from softbio_jax.train.preemption import Preemption
from tests.runs.tiny import changed, config_on, run_of

ROOT = Path(__file__).resolve().parents[2]


def trained(config, workdir, steps):
    """Saves states that no initialisation has, as a run would; returns the last one on the host."""
    run, data = run_of(config)
    with loop.Training(run, data, epath.Path(workdir), Preemption()) as training:
        first = training.session.state
        for step in steps:
            moved = jax.tree.map(lambda leaf, step=step: leaf + leaf.dtype.type(step), first)
            training.session.state = dataclasses.replace(moved, step=first.step + step)
            training.manager.save(step, training.session.state, host_of(training))
        return jax.tree.map(np.array, training.session.state)


def host_of(training):
    images = dict(training.session.training_images)
    return {
        "stream": training._stream.get_state(),
        "watch": training.history.to_json(),
        "training_images": images,
    }


@pytest.fixture(scope="module")
def base(data_root, tmp_path_factory):
    """A run with weights from a file, its state, and its configuration."""
    folder = tmp_path_factory.mktemp("base")
    config = config_on(data_root)
    weights = folder / "encoder.safetensors"
    params = Session(run_of(changed(config, method={"name": "lp"}))[0]).params()
    encoder = {name: params[name] for name in ("encoder", "pool", "proj")}
    save_pretrained(weights, encoder, variant="tiny-test")
    config = changed(config, model__pretrained=str(weights))
    return folder / "run", trained(config, folder / "run", (2, 3)), config


@pytest.fixture(scope="module")
def session(base):
    """Of a run that has the same model."""
    return Session(run_of(base[2])[0])


def start(config, workdir, source):
    run, data = run_of(config)
    run = dataclasses.replace(run, config=warm_start.with_base(run.config, workdir, source))
    return loop.Training(run, data, epath.Path(workdir), Preemption(), source=source)


def equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_new_run_has_the_weights_and_nothing_else_and_does_not_need_the_old_one(base, tmp_path):
    old, state, config = base
    shutil.copytree(old, tmp_path / "old")
    new = changed(config, seed=8, train__steps=6, optimizer__rates__heads=0.5, optimizer__schedule="constant")
    new["model"].pop("pretrained")
    workdir = tmp_path / "new"
    source = warm_start.source_of(workdir, tmp_path / "old")
    with start(new, workdir, source) as training:
        begun = training.session.state
        equal(begun.trainable, state.trainable)
        equal(begun.batch_stats, state.batch_stats)
        fresh = run_of(new)[0].optimizer.init(begun.trainable)
        equal(begun.opt_state, fresh)
        assert (int(begun.step), float(begun.rate_scale), training.first) == (0, 1.0, 0)
        manifest = json.loads((tmp_path / "old/checkpoints/3/manifest.json").read_text())
        record = json.loads((workdir / "run.json").read_text())["init_from"]
        assert record == {"run": str(tmp_path / "old"), "step": 3, "digest": manifest["sha256"]}
        # Interrupted before its first checkpoint, it needs the old one again, by its record.
        assert warm_start.source_of(workdir) == source
        training.manager.save(1, begun, host_of(training))
    shutil.rmtree(tmp_path / "old")
    for given in ("", tmp_path / "old"):
        assert warm_start.source_of(workdir, given) == ""
    with start(new, workdir, "") as training:
        equal(training.session.state, begun)
        assert training.first == 1
    assert json.loads((workdir / "run.json").read_text())["init_from"] == record
    with pytest.raises(UserError, match=f"found one that began from {source}; .*omit --init_from"):
        warm_start.source_of(workdir, old)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"method": {"name": "lora", "lora": {"rank": 3, "alpha": 3.0}}}, r"method.rank .*: 2.* found .*: 3"),
        (
            {"method": {"name": "lora", "lora": {"rank": 2, "alpha": 4.0}}},
            r"method.scale .*: 1.0.* found .*: 2.0",
        ),
        (
            {"method": {"name": "lp"}},
            r"expected method lora, method\.rank .* found lp, .*export.py .*model\.pretrained=encoder",
        ),
        (
            {
                "method": {"name": "full"},
                "optimizer__rates": dict.fromkeys(("blocks", "heads", "log_var", "pooling"), 0.1),
            },
            r"expected method lora, .* found full, .*export.py .*model\.pretrained=encoder",
        ),
        ({"tasks": ("age", "gender")}, r"expected tasks .*'emotion'"),
        ({"model__head": {"kind": "deep"}}, r"heads/age/dense_0/bias: expected no such leaf"),
        ({"model__head": {"kind": "linear", "batch_norm": False}}, r"heads/age/.*found no such leaf"),
        ({"model__feature": "projected"}, r"expected model\.feature pooled, found projected"),
        ({"balancing": {"kind": "fixed"}}, r"balance/age/log_var: expected shape \(\) .* found no such leaf"),
        ({"model__variant": "tiny-demo", "model__pretrained": ""}, r"expected model\.variant tiny-test"),
    ],
)
def test_another_model_is_refused_in_one_line(base, change, told):
    old, _, config = base
    run, _ = run_of(changed(config, **change))
    with pytest.raises(UserError, match=told) as caught:
        warm_start.load(types.SimpleNamespace(run=run), str(old))
    assert "\n" not in str(caught.value) and str(old) in str(caught.value)


@pytest.mark.parametrize(
    ("pretrained", "told"),
    [(None, r"set model\.pretrained=.*safetensors"), ("", "set seed=3: they are random")],
)
def test_other_frozen_weights_are_refused(base, session, tmp_path, pretrained, told):
    """From another file, or another seed, than those that the adapters were trained on."""
    shutil.copytree(base[0], old := tmp_path / "old")
    if pretrained is not None:
        values = json.loads((old / "config.json").read_text())
        (old / "config.json").write_text(json.dumps(changed(values, model__pretrained=pretrained)))
    other = types.SimpleNamespace(run=session.run, mesh=session.mesh, base="0" * 64)
    with pytest.raises(UserError, match=f"the frozen weights are not those .* found 0+; fix: {told}"):
        warm_start.load(other, str(old))


def test_classes_in_another_order_are_refused(base, session, monkeypatch):
    classes = (EMOTION.classes[1], EMOTION.classes[0], *EMOTION.classes[2:])
    monkeypatch.setitem(TASKS._values, "emotion", dataclasses.replace(EMOTION, classes=classes))
    with pytest.raises(UserError, match=r"emotion: expected surprise, fear, .* found fear, surprise"):
        warm_start.load(session, str(base[0]))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("missing", "no such folder"),
        ("empty", "no config.json"),
        ("unfinished", "no checkpoint"),
        ("itself", "this run's own --workdir"),
    ],
)
def test_what_is_no_other_run_is_told_in_one_line(base, tmp_path, kind, told):
    old, workdir = tmp_path / "old", tmp_path / "new"
    if kind == "empty":
        old.mkdir()
    elif kind == "unfinished":
        shutil.copytree(base[0], old)
        for manifest in old.glob("checkpoints/*/manifest.json"):
            manifest.unlink()
    elif kind == "itself":
        old = workdir
    with pytest.raises(UserError, match=f"--init_from: {old}: .*found {told}; fix: correct the path"):
        warm_start.source_of(workdir, old)
    assert not workdir.exists()


@pytest.mark.long
def test_a_saved_model_is_refused_with_a_way_that_works(base, tmp_path):
    """Its adapters are merged, so that a new run of any method starts from its encoder."""
    old, _, config = base
    model = tmp_path / "model"
    predictor.load(str(old)).save(model)
    with pytest.raises(UserError, match="a saved model, which only predicts: --init_from: ") as refused:
        warm_start.source_of(tmp_path / "new", model)
    with pytest.raises(
        UserError, match=r"the form of a hub id; fix: scripts/export\.py --model=someone/faces "
    ):
        warm_start.source_of(tmp_path / "new", "someone/faces")
    line = str(refused.value)
    assert "\n" not in line
    command = re.search(r"fix: scripts/(export.py \S+ \S+) --out=encoder.safetensors ", line)[1]
    encoder = tmp_path / "encoder.safetensors"
    export = [sys.executable, *f"scripts/{command}".split(), f"--out={encoder}"]
    subprocess.run(export, cwd=ROOT, check=True, capture_output=True, timeout=300)
    assert "--config.model.pretrained=encoder.safetensors" in line
    session = Session(run_of(changed(config, method={"name": "lp"}, model__pretrained=str(encoder)))[0])
    merged = flatten(bundle.from_directory(model).variables["params"])
    ours = flatten(session.params())
    assert any(path.startswith("encoder/") for path in ours)
    for path, leaf in ours.items():
        if path.startswith("encoder/"):
            np.testing.assert_array_equal(leaf, merged[path])


def test_a_missing_run_is_told_before_anything_is_built(tmp_path):
    flags = ["--config=configs/demo.py", "--config.model.variant=nonesuch", f"--workdir={tmp_path / 'new'}"]
    command = [sys.executable, "scripts/train.py", *flags, f"--init_from={tmp_path / 'old'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no run to start from: --init_from: ")
    assert list(tmp_path.iterdir()) == []
