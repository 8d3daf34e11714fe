"""ONNX rules of single operations against JAX, and exports of every kind of age head."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from softbio_jax.errors import UserError
from softbio_jax.inference.export import litert, onnx_graph, program, stablehlo
from softbio_jax.inference.export import onnx as onnx_lib
from tests.compiling import quick_jit
from tests.inference.test_bundle import bundle_of, pixels, with_age_head

ROWS = np.array([[-3.0, -0.5, 0.0, 1e-3], [2.0, 7.0, -7.0, 1.0], [np.inf, -np.inf, np.nan, 5.0]], np.float32)
FINITE = ROWS[:2]


def converted(function, images):
    """Returns what an ONNX runtime computes of a function whose batch size is free."""
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx")
    (batch,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)
    traced = program.trace(lambda x: [function(x)], shape)
    model = onnx_graph.model(traced, inputs=["x"], outputs=["y"], metadata={})
    return runtime.InferenceSession(model.SerializeToString()).run(None, {"x": images})[0]


FUNCTIONS = {
    "abs": lambda x: jnp.abs(x),
    "sign": lambda x: jnp.sign(x),
    "log1p": lambda x: jnp.log1p(jnp.exp(x)),
    "cumsum": lambda x: jnp.cumsum(x, axis=1),
    "cumsum from the end": lambda x: lax.cumsum(x, axis=1, reverse=True),
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 2)), constant_values=3.0),
    "crop": lambda x: lax.pad(x, jnp.float32(0), ((0, 0, 0), (-1, 1, 0))),
    "one column": lambda x: x[:, 2],
    "some columns": lambda x: x[:, 1:3],
    "columns of several axes": lambda x: x.reshape(-1, 2, 2)[:, 1, :1],
    "select": lambda x: jnp.where(x > 0, x, 2 * x),
    "less": lambda x: jnp.where(x < 0, x, 0.0),
    "less or equal": lambda x: jnp.where(x <= 0, 5.0, x),
    "greater or equal": lambda x: jnp.where(x >= 0, 5.0, x),
    "equal": lambda x: jnp.where(x == 0, 5.0, x),
    "not equal": lambda x: jnp.where(x != 0, 5.0, x),
    "truth values": lambda x: jnp.where((x > 0) & ~(x > 1) | (x == -7), 5.0, x),
    "log-sigmoid": jax.nn.log_sigmoid,
    "log-sum-exp": lambda x: jax.nn.logsumexp(x, axis=-1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_operation_is_what_it_is_in_jax(name):
    np.testing.assert_allclose(
        converted(FUNCTIONS[name], FINITE), FUNCTIONS[name](FINITE), rtol=1e-6, atol=1e-6
    )


def test_what_is_not_finite_is_found():
    def function(x):
        return jnp.where(jnp.isfinite(x), x, -1.0)

    np.testing.assert_array_equal(converted(function, ROWS), function(ROWS))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: jnp.sort(x, axis=1), "no ONNX rule for an operation: sort"),
        (lambda x: lax.pad(x, jnp.float32(0), ((0, 0, 0), (0, 0, 1))), "pad: found padding between elements"),
        (lambda x: x[:, np.array([0, 2])], "gather: found rows known only at run time, or several"),
    ],
)
def test_another_operation_is_one_line(function, says):
    with pytest.raises(UserError, match=says) as error:
        converted(function, FINITE)
    assert "fix: export as stablehlo" in str(error.value)


@pytest.mark.parametrize("age", ["ordinal", "years"])
@pytest.mark.parametrize("form", ["onnx", "stablehlo", pytest.param("litert", marks=pytest.mark.app)])
def test_every_kind_of_age_head_is_exported(age, form, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra onnx")
    bundle = with_age_head(bundle_of("lora")[0], age)
    images = pixels(bundle, 1)
    folder = tmp_path / "out"
    {"onnx": onnx_lib, "stablehlo": stablehlo, "litert": litert}[form].write(folder, bundle)
    load = {
        "onnx": lambda: onnx_lib.load(folder / "model.onnx", threads=1),
        "stablehlo": lambda: stablehlo.load(folder),
        "litert": lambda: litert.load(folder / "model.tflite"),
    }[form]
    found, wanted = load()(images), quick_jit(bundle.forward)(bundle.variables, images)
    assert set(found) == set(wanted)
    assert found["age"].shape == (1, 9)
    for task in wanted:
        np.testing.assert_allclose(found[task], wanted[task], atol=1e-4, err_msg=task)
