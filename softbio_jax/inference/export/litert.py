"""Export for LiteRT, the runtime of phones and robots: a .tflite file, a fixed number of images per call.

`litert-converter` converts StableHLO to the file, without TensorFlow; `ai-edge-quantizer` quantizes it.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.files import atomic_folder
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.export import program
from softbio_jax.inference.export.calibration import Calibration, quantisation
from softbio_jax.inference.export.stablehlo import INPUT, logits, portable, write_config
from softbio_jax.inference.reference.write import write_camera, write_reference

FORMAT, FILE, INT8_FILE = "litert", "model.tflite", "model.int8.tflite"
_SIGNATURE = "serving_default"
_COMPOSITE = "aten.gelu.default"  # the converter's name of its GELU


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
        _convert(_stablehlo(portable(bundle), batch), names, folder / FILE)
        if int8:
            _quantize(folder / FILE, folder / INT8_FILE, names, calibration, batch)
        runs = {name: load(folder / name) for name in files}
        if int8:
            settings = quantisation(runs[FILE], runs[INT8_FILE], calibration, where=INT8_FILE)
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
    function = jax.jit(lambda images: tuple(_run(traced, images)))
    return jax.export.export(function, platforms=["cpu"])(image).mlir_module_serialized


def _run(traced: program.Program, *arguments: Any) -> list[Any]:
    """Runs a program with JAX, with its operations in the forms for which LiteRT has an operator."""
    env: dict[Any, Any] = dict(zip(traced.inputs, arguments, strict=True))

    def read(operand: Any) -> Any:
        return env[operand] if isinstance(operand, program.Value) else operand

    for op in traced.ops:
        inputs = [read(operand) for operand in op.inputs]
        if op.name == program.GELU:
            results = [_gelu(inputs[0])]
        elif op.name == "dot_general":
            left, right = inputs
            # Over rows: a fully connected operator, where a batched product would be a general one.
            dense = _is_dense(op)
            product = left.reshape(-1, left.shape[-1]) @ right if dense else _batched(left, right, op)
            results = [product.reshape(op.outputs[0].shape)]
        else:
            bound = op.primitive.bind(*inputs, **op.params)
            results = bound if op.primitive.multiple_results else [bound]
        env |= dict(zip(op.outputs, results, strict=True))
    return [read(operand) for operand in traced.outputs]


def _gelu(x: jax.Array) -> jax.Array:
    def decomposition(x: jax.Array, *, approximate: str) -> jax.Array:
        return jax.nn.gelu(x, approximate=approximate != "none")

    return jax.lax.composite(decomposition, _COMPOSITE)(x, approximate="none")


def _is_dense(op: program.Op) -> bool:
    """Returns whether a product is a dense layer: the last axis of a tensor times a constant matrix."""
    tensor, kernel = op.inputs
    last = len(tensor.shape) - 1
    return isinstance(kernel, np.ndarray) and op.params["dimension_numbers"] == (((last,), (0,)), ((), ()))


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


def _convert(module: bytes, outputs: list[str], path: pathlib.Path) -> None:
    try:
        from litert_converter import converter_api_ext as converter
        from litert_converter.mlir import ir, passmanager
        from litert_converter.mlir.dialects import stablehlo
    except ImportError as error:
        raise UserError(
            "the LiteRT converter is missing",
            where="--format=litert",
            expected="litert-converter, ai-edge-litert",
            found=str(error),
            fix="pip install 'softbio-jax[litert]'",
        ) from error
    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        parsed = stablehlo.deserialize_portable_artifact(context, module)
        converter.set_signature(parsed.operation, _SIGNATURE, [INPUT], outputs)
        config = converter.ConvertToTFLConfig()
        config.canonicalizing_inf_as_min_max_float = False
        converter.run_convert_to_tfl_passes(parsed, passmanager.PassManager(), config)
        converter.export_flatbuffer_to_file(parsed.operation, str(path))


def _quantize(
    source: pathlib.Path, path: pathlib.Path, tasks: list[str], calibration: Calibration | None, batch: int
) -> None:
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    model = source.read_bytes() if calibration is None else _with_flat_biases(source)
    job = quantizer.Quantizer(model)
    # Only dense layers: attention's products have no kernels.
    dense, ranges = qtyping.TFLOperationName.FULLY_CONNECTED, None
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        if calibration is None:
            job.add_dynamic_config(regex=".*", operation_name=dense, num_bits=8)
        else:
            job.add_static_config(regex=".*", operation_name=dense, activation_num_bits=8, weight_num_bits=8)
            last = f"{_SIGNATURE}_({'|'.join(map(re.escape, tasks))})_output"
            job.add_dynamic_config(regex=last, operation_name=dense, num_bits=8)
            recipe = recipe_manager.RecipeManager()
            recipe.load_quantization_recipe(job.get_quantization_recipe())
            # The quantizer's own calibration averages the ends of ranges over images, which cuts off the
            # tokens of largest activations; on them depends more than on the finer steps.
            measured = calibrator.Calibrator(
                model, num_threads=os.cpu_count() or 1, qsv_update_func=qsv_utils.min_max_update
            )
            samples = ({INPUT: images} for images in calibration.batches(batch))
            measured.calibrate({_SIGNATURE: list(samples)}, recipe)
            ranges = measured.get_model_qsvs()
        done = job.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    done.export_model(str(path))


def _with_flat_biases(source: pathlib.Path) -> bytes:
    """Returns a model in which the bias of a dense layer is a vector (N,).

    The converter writes (1, 1, N) where it folded a LayerScale into it, and the quantizer would then
    give its N scales to an axis of one.
    """
    from ai_edge_litert.tools import flatbuffer_utils as flatbuffers

    model: Any = flatbuffers.read_model(str(source))
    for graph in model.subgraphs:
        for op in graph.operators:
            dense = flatbuffers.opcode_to_name(model, op.opcodeIndex) == "FULLY_CONNECTED"
            if dense and len(op.inputs) > 2 and op.inputs[2] >= 0:
                bias = graph.tensors[op.inputs[2]]
                bias.shape = [math.prod(bias.shape)]
    return bytes(flatbuffers.convert_object_to_bytearray(model))
