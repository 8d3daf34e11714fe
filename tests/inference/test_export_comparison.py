"""The table of exports: the same images through every runtime, and numbers that can be checked."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from softbio_jax.data.decode import decode
from softbio_jax.data.sources import open_prepared
from softbio_jax.errors import UserError
from softbio_jax.inference.export import comparison, onnx, stablehlo
from softbio_jax.params import flatten, unflatten


def test_sizes_accuracy_and_differences_are_what_they_say(bundle, data_root, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    stablehlo.write(tmp_path / "stablehlo", bundle)
    # An export of other weights, so that there is a difference to see.
    flat = flatten(bundle.variables)
    path = "params/heads/gender/dense_out/bias"
    flat[path] = np.asarray(flat[path]) + np.float32([0, 100])
    other = dataclasses.replace(bundle, variables=unflatten(flat))
    onnx.write(tmp_path / "onnx", other)
    dataset = open_prepared(data_root / "synthetic_utkface", "test")
    folders = [tmp_path / "stablehlo", tmp_path / "onnx"]
    rows = comparison.compare(bundle, folders, [dataset], limit=6)
    assert [row.name for row in rows] == ["JAX", "stablehlo float32", "onnx float32"]
    images = np.stack([decode(dataset[i], size=bundle.image_size) for i in range(6)])
    logits = jax.jit(bundle.forward)(bundle.variables, images)
    for task in ("age", "gender"):
        right = logits[task].argmax(-1) == dataset.labels[task][:6]
        assert rows[0].accuracy[task] == rows[1].accuracy[task] == pytest.approx(right.mean())
    assert rows[2].accuracy["gender"] == pytest.approx((dataset.labels["gender"][:6] == 1).mean())
    assert "emotion" not in rows[0].accuracy  # the set has no such labels
    assert rows[1].logit_error < 1e-5 and rows[1].agreement == 1
    assert rows[2].logit_error == pytest.approx(100, abs=1e-3)
    assert rows[2].bytes == (tmp_path / "onnx" / "model.onnx").stat().st_size
    assert all(row.batch_change < 1e-5 for row in rows)
    lines = comparison.table(rows).splitlines()
    assert len(lines) == 2 + 3 and lines[4].startswith("| onnx float32 |")
    written = json.loads(comparison.as_json(bundle, rows))
    assert written["rows"][2]["accuracy"] == rows[2].accuracy and str(tmp_path) not in str(written)


def test_a_runtime_whose_answers_depend_on_the_batch_is_seen(bundle, data_root, tmp_path, monkeypatch):
    def load(path):
        def run(images):
            own = images.mean((1, 2, 3))[:, None]
            return {task.name: own + 0.5 * (own > images.mean()) for task in bundle.tasks}

        return run

    (tmp_path / "config.json").write_text('{"format": "onnx"}')
    (tmp_path / "model.onnx").touch()
    monkeypatch.setitem(comparison._LOADERS, "onnx", ("*.onnx", load))
    dataset = open_prepared(data_root / "synthetic_utkface", "test")
    row = comparison.compare(bundle, [tmp_path], [dataset], limit=6)[1]
    assert row.batch_change == pytest.approx(0.5, abs=1e-4)
    assert "5.0e-01" in comparison.table([row])


def test_a_folder_that_is_no_export_is_one_line(bundle, data_root, tmp_path):
    dataset = open_prepared(data_root / "synthetic_utkface", "test")
    with pytest.raises(UserError, match="not an exported model"):
        comparison.compare(bundle, [tmp_path], [dataset])
