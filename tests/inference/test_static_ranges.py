"""Static int8 ranges: the estimated errors against measured ones, and an encoder with an outlying token."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.inference.export import onnx as onnx_lib
from softbio_jax.inference.export import program, static_ranges
from softbio_jax.inference.export.stablehlo import logits
from tests.inference.test_bundle import bundle_of, pixels
from tests.inference.test_int8 import of_pixels

TASKS = ("age", "gender", "emotion")
C_PROJ = 4  # of the first block, after the patches, qkv, out and c_fc


def traced(bundle):
    shape = (1, bundle.image_size, bundle.image_size, 3)
    return program.trace(logits(bundle), jax.ShapeDtypeStruct(shape, np.uint8))


def outlying():
    """A bundle of which one token has an activation hundreds of times the others', which nothing reads."""
    bundle, _ = bundle_of("lora")
    params = jax.tree.map(np.array, bundle.variables["params"])
    encoder = params["encoder"]
    direction = np.where(np.arange(32) % 2, 1.0, -1.0)
    encoder["positional_embedding"][5] = 50 * direction
    mlp = encoder["trunk"]["mlp"]
    mlp["c_fc"]["kernel"][0, :, 0] = 40 * direction
    mlp["c_fc"]["bias"][0, 0] = -900  # the others' are far below 0, so that GELU ends them
    mlp["c_proj"]["kernel"][0, 0] = 0
    return dataclasses.replace(bundle, variables={**bundle.variables, "params": params})


def test_the_estimate_is_what_one_rounded_layer_changes():
    bundle, _ = bundle_of("lora")
    given, images = traced(bundle), pixels(bundle, static_ranges.IMAGES)
    found = static_ranges.errors(given, images, results=True)
    layers = program.dense(given)
    ends = static_ranges._ends(given, layers)
    run = jax.jit(jax.vmap(lambda image, added: static_ranges._watched(given, layers, ends, image, added)))
    none = [jnp.zeros(()) for _ in range(len(layers) + len(ends))]
    outputs, seen = jax.jit(jax.vmap(lambda image: static_ranges._watched(given, layers, ends, image, none)))(
        images[:, None]
    )

    def probabilities(found):
        return np.concatenate([np.asarray(jax.nn.softmax(z)).reshape(len(images), -1) for z in found], axis=1)

    measured = []
    for i in range(len(layers)):
        added = [jnp.zeros_like(x) for x in seen]
        for place in (i, len(layers) + i):
            x = seen[place]
            low, high = min(float(x.min()), 0), max(float(x.max()), 0)
            step = (high - low) / 255
            added[place] = jnp.round(x / step) * step - x
        change = probabilities(run(images[:, None], added)[0]) - probabilities(outputs)
        measured.append(np.sqrt((change**2).sum(axis=1).mean()))
    ratios = found / np.array(measured)
    assert len(found) == len(layers) == 23
    assert np.median(ratios) == pytest.approx(1, abs=0.15)
    assert ((ratios > 0.5) & (ratios < 2)).all(), ratios


def test_as_many_layers_as_the_budget_holds_smallest_first():
    found = np.array([3.0, 0.0, 4.0, 12.0])
    assert static_ranges.chosen(found, 5.0) == {0, 1, 2}
    assert static_ranges.chosen(found, 4.99) == {0, 1}
    assert static_ranges.chosen(found, 13.0) == {0, 1, 2, 3}
    assert static_ranges.chosen(found, 0.0) == {1}


def test_a_layer_with_an_outlying_token_keeps_ranges_of_every_call(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    bundle = outlying()
    given = of_pixels(bundle)
    wanted = [op.inputs[1] for i, op in enumerate(program.dense(traced(bundle))) if i != C_PROJ]
    found = static_ranges.kernels(bundle, given, results=False)
    assert [kernel.tobytes() for kernel in found] == [kernel.tobytes() for kernel in wanted]
    onnx_lib.write(tmp_path / "mixed", bundle, int8=True, calibration=given)
    # With a static range there, too:
    monkeypatch.setattr(static_ranges, "chosen", lambda found, budget: frozenset(range(len(found))))
    loose = dataclasses.replace(given, tolerance=1.0)
    onnx_lib.write(tmp_path / "static", bundle, int8=True, calibration=loose)
    said = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("mixed", "static")]
    mixed, whole = (config["quantisation"] for config in said)
    some, every = map(int, re.findall(r"\d+", mixed["activations"].removeprefix("int8")))
    # The query of the pooling, a constant in one image's program, is dynamic; the heads are float32.
    assert some == every - 2 < len(wanted)
    assert whole["activations"].startswith(f"int8, static in {some + 1} of {every} dense layers")
    mixed, whole = (sum(found["agreement"][task]["distance"] for task in TASKS) for found in (mixed, whole))
    assert 1.5 * mixed < whole
