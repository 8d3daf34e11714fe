"""scripts/export.py as a user runs it, for whole models and for towers under timm's keys."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.inference import onnx_export
from softbio_jax.interop.safe_load import load_arrays
from softbio_jax.models.vision import VisionTower
from tests.inference.test_bundle import pixels

ROOT = pathlib.Path(__file__).resolve().parents[2]


def export(model, out, **flags):
    command = [sys.executable, "scripts/export.py", f"--model={model}", f"--out={out}"]
    return subprocess.run(
        [*command, *(f"--{name}={value}" for name, value in flags.items())], cwd=ROOT,
        env={"PYTHONPATH": ".", "JAX_PLATFORMS": "cpu", "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_run_as_onnx_with_int8_weights(workdir, bundle, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    done = export(workdir, tmp_path / "onnx", format="onnx", int8="true")
    assert done.returncode == 0, done.stderr
    assert "as onnx (config.json" in done.stdout
    config = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert config["files"] == ["model.int8.onnx", "model.onnx"]
    images = pixels(bundle, 2)
    found = onnx_export.load(tmp_path / "onnx" / "model.onnx", threads=1)(images)
    for task, wanted in bundle.forward(bundle.variables, images).items():
        np.testing.assert_allclose(found[task], wanted, atol=1e-4)


def test_a_tower_under_timms_keys_is_read_back(workdir, bundle, tmp_path):
    path = tmp_path / "tower.safetensors"
    done = export(workdir, path, format="safetensors", keys="timm")
    assert done.returncode == 0, done.stderr
    assert "blocks.0.attn.qkv.weight" in load_arrays(path)[0]
    tower = load_pretrained(path, config=bundle.tower)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    pooled = VisionTower(bundle.tower).apply({"params": tower}, images, method="pooled")
    wanted = bundle.model.apply(bundle.variables, images, method="pooled")
    np.testing.assert_allclose(pooled, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "says"),
    [({"format": "stablehlo", "int8": "true"}, "a flag of another format: --int8"),
     ({"format": "onnx", "keys": "timm"}, "a flag of another format: --keys")],
)  # fmt: skip
def test_a_flag_of_another_format_is_one_line(flags, says, tmp_path):
    done = export(tmp_path, tmp_path / "out", **flags)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
