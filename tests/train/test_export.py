"""scripts/export.py, run as a user runs it on a small trained run."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.interop import peft
from softbio_jax.models.vision import VisionTower
from softbio_jax.train import loop
from softbio_jax.train.restore import restore_run
from tests.train import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def workdir(data_root, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    config = tiny.changed(tiny.config_on(data_root), train__steps=4)
    loop.train_and_evaluate(*tiny.run_of(config), path)
    return path


def export(workdir, form, out):
    return subprocess.run(
        [sys.executable, "scripts/export.py", f"--model={workdir}", f"--format={form}",
         f"--out={out}"],
        cwd=ROOT, env={"PYTHONPATH": ".", "JAX_PLATFORMS": "cpu", "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_merged_tower_gives_the_adapted_ones_features(workdir, tmp_path):
    done = export(workdir, "safetensors", tmp_path / "new" / "tower.safetensors")
    assert done.returncode == 0, done.stderr
    session = restore_run(workdir)
    model, params = session.run.model, session.params()
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        adapted = model.apply({"params": params}, images, method="pooled")
        tower = load_pretrained(tmp_path / "new" / "tower.safetensors", config=model.config)
        merged = VisionTower(model.config).apply({"params": tower}, images, method="pooled")
    np.testing.assert_allclose(merged, adapted, atol=1e-5)


def test_the_adapter_is_read_back(workdir, tmp_path):
    done = export(workdir, "peft", tmp_path / "adapter")
    assert done.returncode == 0, done.stderr
    session = restore_run(workdir)
    adapter = peft.read(tmp_path / "adapter", session.run.model.config)
    own = peft.collect(session.params(), session.run.model.adapters)
    assert adapter.layers.keys() == own.layers.keys()
    for name, layer in own.layers.items():
        np.testing.assert_array_equal(adapter.layers[name].a, layer.a)
        np.testing.assert_array_equal(adapter.layers[name].b, layer.b)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 2


def test_what_is_there_is_not_overwritten(workdir, tmp_path):
    (tmp_path / "adapter").mkdir()
    done = export(workdir, "peft", tmp_path / "adapter")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "the destination exists" in done.stderr
