"""Export as StableHLO: one file for cpu, cuda and tpu, any batch size; reading it needs only jax.

Also holds what all exported folders have in common: their config.json and the portable bundle.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pathlib
import struct
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

import softbio_jax
from softbio_jax.errors import UserError
from softbio_jax.files import atomic_folder
from softbio_jax.inference.bundle import Bundle, Images, counts_to_json, thresholds_to_json
from softbio_jax.inference.reference.preprocessing import describe
from softbio_jax.inference.reference.write import write_reference
from softbio_jax.models.flops import matmul_flops

CONFIG, SCHEMA, INPUT = "config.json", 1, "images"
FORMAT, FILE = "stablehlo", "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
MAX_BYTES = 2**31 - 1  # the file is a flatbuffer, whose offsets are signed 32-bit numbers


def write(directory: str | pathlib.Path, bundle: Bundle) -> None:
    """Writes a new folder with model.stablehlo and config.json.

    Raises:
      UserError: the folder exists, or the weights are too large for one file.
    """
    bundle = portable(bundle)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(bundle.variables))
    if weights > MAX_BYTES:
        raise UserError(
            "too large for one file",
            where=bundle.variant,
            expected=f"at most {MAX_BYTES:,} bytes of weights",
            found=f"{weights:,}",
            fix="export it as onnx or safetensors",
        )
    function = jax.jit(lambda images: bundle.forward(bundle.variables, images))
    exported = jax.export.export(function, platforms=PLATFORMS)(any_batch(bundle))
    with atomic_folder(directory) as folder:
        (folder / FILE).write_bytes(exported.serialize())
        write_config(
            folder,
            bundle,
            form=FORMAT,
            batch="batch",
            file=FILE,
            platforms=list(exported.platforms),
            calling_convention=exported.calling_convention_version,
        )
        write_reference(folder, {FILE: jax.jit(exported.call)}, size=bundle.image_size, script=True)


def load(directory: str | pathlib.Path) -> Callable[[Images], dict[str, jax.Array]]:
    """Returns the function of an exported folder: uint8 (B, S, S, 3) -> {task: logits (B, C)}.

    Raises:
      UserError: not such an export, or one that this jax cannot read.
    """
    directory = pathlib.Path(directory)
    try:
        config = json.loads((directory / CONFIG).read_text())
        exported = jax.export.deserialize(bytearray((directory / config["file"]).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        raise UserError(
            "not a StableHLO export",
            where=str(directory),
            expected=f"{CONFIG} and {FILE} for jax {jax.__version__}",
            found=f"{type(error).__name__}: {error}",
            fix="export it again",
        ) from error
    return jax.jit(exported.call)


def portable(bundle: Bundle) -> Bundle:
    """Returns the bundle in float32 with plain attention, which every runtime supports."""
    compute = dataclasses.replace(
        bundle.model.compute, dtype="float32", attention="xla", remat="none", unroll=1
    )
    return dataclasses.replace(bundle, model=bundle.model.clone(compute=compute))


def logits(bundle: Bundle) -> Callable[[jax.Array], list[jax.Array]]:
    """Returns the function from images to the logits of the tasks, in their order."""

    def function(images: jax.Array) -> list[jax.Array]:
        found = bundle.forward(bundle.variables, images)
        return [found[task.name] for task in bundle.tasks]

    return function


def check_installed(form: str, libraries: Sequence[str]) -> None:
    """Raises UserError where a module of the extra that the export `form` needs cannot be imported."""
    try:
        for library in libraries:
            importlib.import_module(library)
    except ImportError as error:
        raise UserError(
            "the libraries of an export are missing",
            where=f"--format={form}",
            expected=", ".join(libraries),
            found=str(error),
            fix=f"pip install 'softbio-jax[{form}]'",
        ) from error


def any_batch(bundle: Bundle) -> jax.ShapeDtypeStruct:
    """Returns the input of a bundle with a symbolic batch size: ("batch", S, S, 3) uint8."""
    size = bundle.image_size
    return jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"batch, {size}, {size}, 3"), jnp.uint8)


def cost(bundle: Bundle) -> dict[str, float]:
    """Returns the number of parameters, and the GFLOPs of one image, two per multiply-add of a product."""
    size = bundle.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    traced = jax.make_jaxpr(portable(bundle).forward)(bundle.variables, image)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(bundle.variables["params"]))
    return {"parameters": numbers, "gflops": matmul_flops(traced) / 1e9}


def write_config(
    folder: pathlib.Path, bundle: Bundle, *, form: str, batch: int | str, **settings: Any
) -> None:
    """Writes config.json: input, outputs with their classes, preprocessing and temperatures.

    `batch` is the number of images per call, or the name of the symbolic axis.
    """
    size = bundle.image_size
    values = {
        "format": form,
        "schema": SCHEMA,
        "name": bundle.name,
        "variant": bundle.variant,
        "method": bundle.method,
        "input": {"name": INPUT, "shape": [batch, size, size, 3], "type": "uint8"},
        "outputs": {task.name: list(task.classes) for task in bundle.tasks},
        **counts_to_json(bundle),
        "temperatures": dict(bundle.temperatures),
        **thresholds_to_json(bundle),
        "cost": cost(bundle),
        "preprocessing": describe(size, training=bundle.crops),
        "versions": {"softbio_jax": softbio_jax.__version__, "jax": jax.__version__},
        **settings,
    }
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n")
