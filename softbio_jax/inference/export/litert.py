"""Export for LiteRT, the runtime of phones and robots: a .tflite file, a fixed number of images per call.

`litert-converter` converts StableHLO to the file, without TensorFlow; `ai-edge-quantizer` quantizes it.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from softbio_jax.files import atomic_folder
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.export import litert_int8, program, stablehlo, static_ranges
from softbio_jax.inference.export.calibration import Calibration, quantisation
from softbio_jax.inference.export.stablehlo import INPUT, logits, portable, write_config
from softbio_jax.inference.reference.write import write_camera, write_reference

FORMAT, FILE, INT8_FILE = "litert", "model.tflite", "model.int8.tflite"
_LIBRARIES = ("litert_converter", "ai_edge_litert", "ai_edge_quantizer")
_SIGNATURE = "serving_default"
_COMPOSITE = "aten.gelu.default"  # the converter's name of its GELU


def check_installed() -> None:
    """Raises UserError where the libraries of this export are missing."""
    stablehlo.check_installed(FORMAT, _LIBRARIES)


def write(
    directory: str | pathlib.Path,
    bundle: Bundle,
    *,
    int8: bool = False,
    calibration: Calibration | None = None,
    batch: int = 1,
) -> None:
    """Writes a new folder with model.tflite, config.json, and scripts that run the model.

    Args:
      int8: also write model.int8.tflite, whose kernels are int8 with one scale per channel.
      calibration: images of which the ranges of int8 activations are measured; None: the runtime
        measures them in every call. The last layers of the heads always do so, so that no logit is cut
        off at the end of a range.
      batch: images per call.

    Raises:
      UserError: the folder exists, the converter is not installed, or int8 differs too much.
    """
    files = [FILE, INT8_FILE] if int8 else [FILE]
    names = [task.name for task in bundle.tasks]
    settings: dict[str, Any] = {}
    with atomic_folder(directory) as folder:
        bundle, counts = portable(bundle), (0, 0)
        _convert(_stablehlo(bundle, batch), names, folder / FILE)
        if int8 and calibration is None:
            litert_int8.dynamic(folder / FILE, folder / INT8_FILE)
        elif int8 and calibration is not None:
            # A layer with a static range also writes int8, with its bias and the factors after it.
            counts = litert_int8.static(
                folder / FILE,
                folder / INT8_FILE,
                static_ranges.kernels(bundle, calibration, results=True),
                feeds=[{INPUT: images} for images in calibration.batches(batch)],
                signature=_SIGNATURE,
                tasks=names,
            )
        runs = {name: load(folder / name) for name in files}
        if int8:
            settings = quantisation(runs[FILE], runs[INT8_FILE], calibration, static=counts, where=INT8_FILE)
        write_config(folder, bundle, form=FORMAT, batch=batch, files=files, signature=_SIGNATURE, **settings)
        quantised = [INT8_FILE] if calibration else []
        write_reference(folder, runs, size=bundle.image_size, script=True, quantised=quantised)
        write_camera(folder)


def load(path: str | pathlib.Path, *, threads: int = 1) -> Callable[[np.ndarray], dict[str, Any]]:
    """Returns the function of a .tflite file: uint8 (B, S, S, 3) -> {task: logits (B, C)}.

    Any B: of a file that takes N images per call, the last call is filled up with zeros.
    """
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path), num_threads=threads).get_signature_runner(_SIGNATURE)
    size = int(runner.get_input_details()[INPUT]["shape"][0])

    def call(images: np.ndarray) -> dict[str, Any]:
        count = len(images)
        filled = np.concatenate([images, np.zeros((-count % size, *images.shape[1:]), images.dtype)])
        parts = [runner(**{INPUT: filled[i : i + size]}) for i in range(0, len(filled), size)]
        return {task: np.concatenate([part[task] for part in parts])[:count] for task in parts[0]}

    return call


def _stablehlo(bundle: Bundle, batch: int) -> bytes:
    """Returns the forward pass of a batch as a portable StableHLO module."""
    size = bundle.image_size
    image = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    traced = program.trace(logits(bundle), image)
    function = jax.jit(lambda images: tuple(program.run(traced, [images], forms=_FORMS)))
    return jax.export.export(function, platforms=["cpu"])(image).mlir_module_serialized


def _gelu(op: program.Op, inputs: list[Any]) -> list[Any]:
    def decomposition(x: jax.Array, *, approximate: str) -> jax.Array:
        return jax.nn.gelu(x, approximate=approximate != "none")

    return [jax.lax.composite(decomposition, _COMPOSITE)(inputs[0], approximate="none")]


def _product(op: program.Op, inputs: list[Any]) -> list[Any]:
    left, right = inputs
    # Over rows: a fully connected operator, where a batched product would be a general one.
    dense = program.is_dense(op)
    product = left.reshape(-1, left.shape[-1]) @ right if dense else _batched(left, right, op)
    return [product.reshape(op.outputs[0].shape)]


def _batched(left: jax.Array, right: jax.Array, op: program.Op) -> jax.Array:
    """Merges axes to (batch..., rows, columns): the converter fails on some products with more free axes."""
    (left_sum, right_sum), (left_batch, right_batch) = op.params["dimension_numbers"]
    first, summed = range(len(left_batch)), range(-len(left_sum), 0)
    left = jnp.moveaxis(left, (*left_batch, *left_sum), (*first, *summed))
    right = jnp.moveaxis(right, (*right_batch, *right_sum), (*first, *summed))
    batch = left.shape[: len(left_batch)]
    size = math.prod(left.shape[left.ndim - len(left_sum) :])
    left, right = left.reshape(*batch, -1, size), right.reshape(*batch, -1, size)
    return left @ right.mT


# The forms for which LiteRT has an operator.
_FORMS: dict[str, program.Form] = {program.GELU: _gelu, program.PRODUCT: _product}


def _convert(module: bytes, outputs: list[str], path: pathlib.Path) -> None:
    check_installed()
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager
    from litert_converter.mlir.dialects import stablehlo as dialect

    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        parsed = dialect.deserialize_portable_artifact(context, module)
        converter.set_signature(parsed.operation, _SIGNATURE, [INPUT], outputs)
        config = converter.ConvertToTFLConfig()
        config.canonicalizing_inf_as_min_max_float = False
        converter.run_convert_to_tfl_passes(parsed, passmanager.PassManager(), config)
        converter.export_flatbuffer_to_file(parsed.operation, str(path))
