"""Exported models, run in their own runtimes: the logits are the bundle's, at any batch."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.inference.export import litert, program, stablehlo
from softbio_jax.inference.export import onnx as onnx_lib
from softbio_jax.tasks import TASKS
from tests.adapters import towers
from tests.compiling import OLDER_XLA, quick_jit
from tests.inference.test_bundle import bundle_of, pixels

# After merging, every method but MTLoRA is a plain encoder; each form of MTLoRA is another graph.
METHODS = ("lora", "mtlora", "mtlora_task", "mtlora_paper")


def logits(bundle, images):
    return quick_jit(bundle.forward)(bundle.variables, images)


# The batch size is a symbol in one of the two programs: with jax 0.7.2, sums in another order.
ROUNDING = 2e-6 if OLDER_XLA else 1e-6


def agree(found, wanted, atol):
    assert set(found) == set(wanted)
    for task in wanted:
        np.testing.assert_allclose(found[task], wanted[task], atol=atol, err_msg=task)


@pytest.mark.parametrize("name", ["lora", pytest.param("mtlora", marks=pytest.mark.long)])
def test_stablehlo_gives_the_logits_at_any_batch(name, tmp_path):
    bundle, _ = bundle_of(name)
    stablehlo.write(tmp_path / "out", bundle)
    run = stablehlo.load(tmp_path / "out")
    for count in (1, 5):
        images = pixels(bundle, count)
        agree(run(images), logits(bundle, images), ROUNDING)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["platforms"] == ["cpu", "cuda", "tpu"]
    assert config["outputs"]["age"] == list(TASKS["age"].classes)
    assert config["temperatures"] == {"age": 1.5}


def test_stablehlo_is_read_without_this_package(tmp_path):
    bundle, _ = bundle_of("lora")
    stablehlo.write(tmp_path / "out", bundle)
    images = pixels(bundle, 2)
    np.save(tmp_path / "images.npy", images)
    code = """
import sys, jax, jax.export, numpy as np
exported = jax.export.deserialize(bytearray(open("out/model.stablehlo", "rb").read()))
np.savez("logits.npz", **exported.call(np.load("images.npy")))
assert "softbio_jax" not in sys.modules and "flax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    agree(dict(np.load(tmp_path / "logits.npz")), logits(bundle, images), ROUNDING)


def test_stablehlo_of_something_else_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"file": "model.stablehlo"}')
    (tmp_path / "model.stablehlo").write_bytes(b"not this")
    with pytest.raises(UserError, match="not a StableHLO export"):
        stablehlo.load(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("lora", "mtlora_task") else pytest.param(name, marks=pytest.mark.long)
        for name in METHODS
    ],
)
def test_onnx_gives_the_logits_at_any_batch(name, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    bundle, _ = bundle_of(name)
    onnx_lib.write(tmp_path / "out", bundle)
    run = onnx_lib.load(tmp_path / "out" / "model.onnx", threads=1)
    for count in (1, 4):
        images = pixels(bundle, count)
        agree(run(images), logits(bundle, images), 1e-4)


def test_onnx_of_an_encoder_with_other_parts_at_another_size(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    # No class token, layer scale, average pooling; the positions resampled to a larger image.
    plain, _ = bundle_of("lp")
    model = towers.model(towers.METHODS["lp"], "tiny-dense")
    bundle = dataclasses.replace(
        plain, model=plain.model.clone(config=model.config), image_size=48, variables=towers.variables(model)
    )
    onnx_lib.write(tmp_path / "out", bundle)
    images = pixels(bundle, 2)
    run = onnx_lib.load(tmp_path / "out" / "model.onnx", threads=1)
    agree(run(images), logits(bundle, images), 1e-4)


def test_onnx_carries_the_classes_and_has_one_gelu_a_layer(tmp_path):
    onnx = pytest.importorskip("onnx", reason="the extra onnx")
    bundle, _ = bundle_of("lora")
    onnx_lib.write(tmp_path / "out", bundle)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    notes = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert notes["emotion"] == list(TASKS["emotion"].classes)
    kinds = [node.op_type for node in model.graph.node]
    # The blocks' and the pooling's, and one in each deep head.
    assert kinds.count("Gelu") == bundle.model.config.layers + 1 + 3
    assert "Erf" not in kinds
    shape = model.graph.input[0].type.tensor_type.shape.dim
    size = bundle.image_size
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["batch", size, size, 3]


def test_onnx_int8_is_smaller_and_near(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    bundle, _ = bundle_of("lora")
    onnx_lib.write(tmp_path / "out", bundle, int8=True)
    images = pixels(bundle, 4)
    found = onnx_lib.load(tmp_path / "out" / "model.int8.onnx", threads=1)(images)
    for task, wanted in logits(bundle, images).items():
        error = np.abs(found[task] - wanted).max()
        assert 0 < error < 0.1 * np.abs(wanted).max()
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "out").iterdir()}
    assert sizes["model.int8.onnx"] < 0.6 * sizes["model.onnx"]


@pytest.mark.parametrize("name", ["lora", "mtlora_task"])
def test_onnx_int8_gives_an_image_the_same_logits_in_every_batch(name, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    bundle, _ = bundle_of(name)
    onnx_lib.write(tmp_path / "out", bundle, int8=True)
    run = onnx_lib.load(tmp_path / "out" / "model.int8.onnx", threads=1)
    images = pixels(bundle, 16)
    images[1:4], images[4:] = 0, images[4:] // 8  # neighbours of other ranges
    alone = {task: logits[0] for task, logits in run(images[:1]).items()}
    for count in (3, 16):
        for order in (np.arange(count), np.arange(count)[::-1]):
            for task, logits in run(images[order]).items():
                found = logits[list(order).index(0)]
                np.testing.assert_allclose(found, alone[task], atol=1e-5, err_msg=task)


@pytest.mark.app
@pytest.mark.parametrize("name", ["lora", "mtlora"])
def test_litert_gives_the_logits_of_one_image(name, tmp_path):
    bundle, _ = bundle_of(name)
    litert.write(tmp_path / "out", bundle)
    run = litert.load(tmp_path / "out" / "model.tflite")
    images = pixels(bundle, 1)
    agree(run(images), logits(bundle, images), 1e-4)


@pytest.mark.app
def test_litert_int8_is_smaller_and_near(tmp_path):
    bundle, _ = bundle_of("lora")
    litert.write(tmp_path / "out", bundle, int8=True)
    images = pixels(bundle, 1)
    found = litert.load(tmp_path / "out" / "model.int8.tflite")(images)
    for task, wanted in logits(bundle, images).items():
        error = np.abs(found[task] - wanted).max()
        assert 0 < error < 0.1 * np.abs(wanted).max()
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "out").iterdir()}
    assert sizes["model.int8.tflite"] < 0.7 * sizes["model.tflite"]


def test_nothing_is_left_of_an_export_that_fails(tmp_path, monkeypatch):
    bundle, _ = bundle_of("lora")
    monkeypatch.setattr(stablehlo, "write_config", lambda *args, **kw: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stablehlo.write(tmp_path / "out", bundle)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="the destination exists"):
        stablehlo.write(tmp_path / "out", bundle)


def test_only_the_exact_gelu_becomes_one_operation():
    shape = jax.ShapeDtypeStruct((2, 3), np.float32)
    exact = program.trace(lambda x: [jax.nn.gelu(x, approximate=False)], shape)
    assert [op.name for op in exact.ops] == [program.GELU]
    tanh = program.trace(lambda x: [jax.nn.gelu(x, approximate=True)], shape)
    assert program.GELU not in [op.name for op in tanh.ops]
    other = program.trace(lambda x: [x * jax.lax.erfc(-x * 0.7)], shape)
    assert "erfc" in [op.name for op in other.ops]


def test_a_trace_holds_no_loop_and_no_arithmetic_on_constants():
    table = np.arange(6, dtype=np.float32).reshape(3, 2)

    def function(x):
        def body(carry, row):
            return carry * row, None

        return [jax.lax.scan(body, x, jax.numpy.sin(table), reverse=True)[0]]

    traced = program.trace(function, jax.ShapeDtypeStruct((2,), np.float32))
    assert [op.name for op in traced.ops] == ["mul"] * 3
    np.testing.assert_allclose(traced.ops[0].inputs[1], np.sin(table[2]), rtol=1e-6)
