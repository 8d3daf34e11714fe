"""int8 kernels and activations of the dense layers of a LiteRT file, by `ai-edge-quantizer`."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_DENSE = "FULLY_CONNECTED"  # attention's products have no kernels
_COMPARED = 4  # rows of a kernel that tell it from others


def dynamic(source: pathlib.Path, path: pathlib.Path) -> None:
    """Writes a file whose runtime measures the range of every row of activations, in every call."""
    from ai_edge_quantizer import qtyping, quantizer

    job = quantizer.Quantizer(source.read_bytes())
    job.add_dynamic_config(regex=".*", operation_name=qtyping.TFLOperationName(_DENSE), num_bits=8)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        done = job.quantize(None, enable_progress_bar=False, enable_progress_report=False)
    done.export_model(str(path))


def static(
    source: pathlib.Path,
    path: pathlib.Path,
    kernels: Sequence[np.ndarray],
    *,
    feeds: Sequence[Mapping[str, np.ndarray]],
    signature: str,
    tasks: Sequence[str],
) -> tuple[int, int]:
    """Writes a file in which some layers have one range of inputs and one of results, for all calls.

    The last layers of the heads stay dynamic, so that no logit is cut off at the end of a range.

    Args:
      kernels: (D, F), of these layers.
      feeds: inputs that ranges are measured on.
      signature: its name in the file.
      tasks: names of the outputs.

    Returns:
      The number of layers with static ranges, and of all.
    """
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    model, layers = _with_flat_biases(source)
    last = {f"{signature}_{task}_output" for task in tasks}
    chosen = [
        name
        for name, kernel in layers
        if kernel is not None and name not in last and any(_equal(kernel, other.T) for other in kernels)
    ]
    if not chosen:
        dynamic(source, path)
        return 0, len(layers)
    job, dense = quantizer.Quantizer(model), qtyping.TFLOperationName(_DENSE)
    job.add_dynamic_config(regex=".*", operation_name=dense, num_bits=8)
    for name in chosen:
        # The quantizer knows an operation by the names of its results, each with a semicolon after it.
        job.add_static_config(
            regex=f"^{re.escape(name)};?$", operation_name=dense, activation_num_bits=8, weight_num_bits=8
        )
    recipe = recipe_manager.RecipeManager()
    recipe.load_quantization_recipe(job.get_quantization_recipe())
    # The quantizer's own calibration averages the ends of ranges over images, which cuts off the tokens
    # of largest activations; on them depends more than on the finer steps.
    measured = calibrator.Calibrator(
        model, num_threads=os.cpu_count() or 1, qsv_update_func=qsv_utils.min_max_update
    )
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():  # progress bars
        warnings.simplefilter("ignore", UserWarning)  # that calibrating needs memory
        measured.calibrate({signature: list(feeds)}, recipe)
        done = job.quantize(
            measured.get_model_qsvs(), enable_progress_bar=False, enable_progress_report=False
        )
    done.export_model(str(path))
    return len(chosen), len(layers)


def _equal(kernel: np.ndarray, other: np.ndarray) -> bool:
    """Returns whether kernels (F, D) are equal up to constant factors of rows, which a converter folds in."""
    if kernel.shape != other.shape:
        return False
    one, two = (
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        for rows in (kernel[:_COMPARED], other[:_COMPARED])
    )
    signs = np.sign((one * two).sum(axis=1, keepdims=True))
    return bool(np.abs(one - signs * two).max() < 1e-4)


def _with_flat_biases(source: pathlib.Path) -> tuple[bytes, list[tuple[str, np.ndarray | None]]]:
    """Returns a model in which biases of dense layers are vectors (F,), and these layers' names and kernels.

    The converter writes (1, 1, F) where it folded a LayerScale into it, and the quantizer would then
    give its F scales to an axis of one. A kernel that is no constant is None.
    """
    from ai_edge_litert.tools import flatbuffer_utils as flatbuffers

    model: Any = flatbuffers.read_model(str(source))
    layers = []
    for graph in model.subgraphs:
        for op in graph.operators:
            if flatbuffers.opcode_to_name(model, op.opcodeIndex) != _DENSE:
                continue
            kernel = graph.tensors[op.inputs[1]]
            data = model.buffers[kernel.buffer].data
            array = None if data is None else np.asarray(data).view(np.float32).reshape(kernel.shape)
            layers.append((graph.tensors[op.outputs[0]].name.decode(), array))
            if len(op.inputs) > 2 and op.inputs[2] >= 0:
                bias = graph.tensors[op.inputs[2]]
                bias.shape = [math.prod(bias.shape)]
    return bytes(flatbuffers.convert_object_to_bytearray(model)), layers
