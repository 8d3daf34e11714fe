"""scripts/export.py as a user runs it, for complete models and for encoders with timm's keys."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.inference import bundle as bundle_lib
from softbio_jax.inference.export import onnx
from softbio_jax.interop import peft
from softbio_jax.interop.safe_load import load_arrays
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import flatten
from softbio_jax.runs.restore import restore_run
from softbio_jax.thesis import files
from tests.compiling import quick_jit
from tests.inference.test_bundle import bundle_of, pixels

ROOT = pathlib.Path(__file__).resolve().parents[2]


def export(model, out, *, path=".", **flags):
    command = [sys.executable, "scripts/export.py", f"--model={model}", f"--out={out}"]
    return subprocess.run(
        [*command, *(f"--{name}={value}" for name, value in flags.items())],
        cwd=ROOT,
        env={"PYTHONPATH": str(path), "JAX_PLATFORMS": "cpu", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def saved(bundle, tmp_path_factory):
    return bundle_lib.save(bundle, tmp_path_factory.mktemp("saved") / "model")


def test_a_run_as_onnx_with_int8_weights(workdir, bundle, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    done = export(workdir, tmp_path / "onnx", format="onnx", int8="true")
    assert done.returncode == 0, done.stderr
    assert "as onnx (config.json" in done.stdout
    config = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert config["files"] == ["model.int8.onnx", "model.onnx"]
    images = pixels(bundle, 2)
    found = onnx.load(tmp_path / "onnx" / "model.onnx", threads=1)(images)
    for task, wanted in quick_jit(bundle.forward)(bundle.variables, images).items():
        np.testing.assert_allclose(found[task], wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("keys", "one"),
    [("official", "conv1.weight"), pytest.param("timm", "blocks.0.attn.qkv.weight", marks=pytest.mark.long)],
)
def test_the_merged_tower_has_the_adapted_ones_features(workdir, tmp_path, keys, one):
    path = tmp_path / "new" / "tower.safetensors"
    done = export(workdir, path, format="safetensors", keys=keys)
    assert done.returncode == 0, done.stderr
    assert any(key.endswith(one) for key in load_arrays(path)[0])
    session = restore_run(workdir)
    model = session.run.model
    tower = load_pretrained(path, config=model.config)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    features = quick_jit(
        lambda net, params: net.apply({"params": params}, images, method="pooled"), static_argnums=0
    )
    pooled = features(VisionEncoder(model.config), tower)
    np.testing.assert_allclose(pooled, features(model, session.params()), atol=1e-5)


def test_a_saved_folder_gives_the_tower_and_heads_of_its_run(workdir, saved, tmp_path):
    for name, model in (("run", workdir), ("saved", saved)):
        done = export(model, tmp_path / f"{name}.safetensors", format="safetensors")
        assert done.returncode == 0, done.stderr
    for ending in ("safetensors", "heads.safetensors"):
        found, wanted = (load_arrays(tmp_path / f"{name}.{ending}") for name in ("saved", "run"))
        assert found[1] == wanted[1] and found[0].keys() == wanted[0].keys()
        for key, array in wanted[0].items():
            np.testing.assert_array_equal(found[0][key], array, err_msg=key)


@pytest.mark.long
def test_a_saved_folder_of_mtlora_gives_each_tasks_tower(tmp_path):
    bundle, adapted = bundle_of("mtlora_task")
    folder = bundle_lib.save(bundle, tmp_path / "model")
    towers = {}
    for place, task in enumerate(("age", "gender")):
        path = tmp_path / f"{task}.safetensors"
        done = export(folder, path, format="safetensors", task=task)
        assert done.returncode == 0, done.stderr
        towers[task] = load_arrays(path)[0]
        wanted = peft.merged(adapted.variables["params"], adapted.model.adapters, task=place)
        assert towers[task].keys() == wanted.keys()
        for key, array in wanted.items():
            np.testing.assert_allclose(towers[task][key], array, atol=1e-6, err_msg=key)
    assert any(not np.array_equal(towers["age"][k], towers["gender"][k]) for k in wanted)


def test_adapters_of_a_run_are_read_back(workdir, tmp_path):
    done = export(workdir, tmp_path / "adapter", format="peft")
    assert done.returncode == 0, done.stderr
    session = restore_run(workdir)
    rules = session.run.model.adapters
    wanted = peft.collect(session.params(), rules).layers
    found = peft.read(tmp_path / "adapter", session.run.model.config).layers
    assert found.keys() == wanted.keys() and len(found) > 4
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["r"] == rules.rules[0][1].rank == 2
    for path, layer in wanted.items():
        np.testing.assert_array_equal(found[path].a, layer.a)
        np.testing.assert_array_equal(found[path].b, layer.b)


def test_official_names_of_adapters_are_not_answered_with_others(workdir, tmp_path):
    done = export(workdir, tmp_path / "adapter", format="peft", keys="official")
    assert done.returncode == 1 and not (tmp_path / "adapter").exists()
    assert "PEFT would silently ignore this adapter on the official modules" in done.stderr


@pytest.mark.parametrize("form", ["peft", "thesis"])
def test_a_saved_folder_has_no_adapters_left(form, saved, tmp_path):
    done = export(saved, tmp_path / "out", format=form)
    assert done.returncode == 1
    assert done.stderr.startswith("error: a saved model has its adapters merged: ")
    assert "give the run it came from" in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_thesis_export_without_torch(workdir, tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "torch.py").write_text("raise ImportError('none here')\n")
    path = f"{tmp_path / 'hidden'}{os.pathsep}{ROOT}"
    done = export(workdir, tmp_path / "out", path=path, format="thesis")
    assert done.returncode == 1
    assert "torch" in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["hidden"]


@pytest.mark.parity
def test_a_thesis_folder_is_read_back(workdir, tmp_path):
    done = export(workdir, tmp_path / "out", format="thesis")
    assert done.returncode == 0, done.stderr
    session = restore_run(workdir)
    model, params = session.run.model, flatten(session.params())
    found = files.read(tmp_path / "out", model.config, model.tasks)
    wanted = {path: leaf for path, leaf in params.items() if path.startswith("heads/")}
    assert found.leaves.keys() == wanted.keys()
    for path, leaf in wanted.items():
        np.testing.assert_array_equal(found.leaves[path], leaf)
    adapters = peft.collect(session.params(), model.adapters).layers
    for path, layer in adapters.items():
        np.testing.assert_array_equal(found.adapter.layers[path].b, layer.b)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"format": "stablehlo", "int8": "true"}, "a flag does not apply: --int8"),
        ({"format": "onnx", "keys": "timm"}, "a flag does not apply: --keys"),
    ],
)
def test_a_flag_of_another_format_is_one_line(flags, says, tmp_path):
    done = export(tmp_path, tmp_path / "out", **flags)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten(workdir, tmp_path):
    (tmp_path / "adapter").mkdir()
    done = export(workdir, tmp_path / "adapter", format="peft")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "the destination exists" in done.stderr
