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
    layers: frozenset[int],
    count: int,
    *,
    feeds: Sequence[Mapping[str, np.ndarray]],
    signature: str,
    tasks: Sequence[str],
) -> int:
    """Writes a file in which some layers have one range of inputs and one of results, for all calls.

    The last layers of the heads stay dynamic, so that no logit is cut off at the end of a range.

    Args:
      layers: numbers of these layers, in the order of `program.dense`.
      count: of dense layers in the program.
      feeds: inputs that ranges are measured on.
      signature: its name in the file.
      tasks: names of the outputs.

    Returns:
      The number of layers with static ranges.

    Raises:
      ValueError: the file has another number of dense layers.
    """
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    model, names = _with_flat_biases(source)
    if len(names) != count:
        raise ValueError(f"{source} has {len(names)} dense layers, its program {count}")
    last = {f"{signature}_{task}_output" for task in tasks}
    chosen = [names[i] for i in sorted(layers) if names[i] not in last]
    if not chosen:
        dynamic(source, path)
        return 0
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
    return len(chosen)


def _with_flat_biases(source: pathlib.Path) -> tuple[bytes, list[str]]:
    """Returns a model in which the bias of a dense layer is a vector (N,), and the names of these layers.

    The converter writes (1, 1, N) where it folded a LayerScale into it, and the quantizer would then
    give its N scales to an axis of one.
    """
    from ai_edge_litert.tools import flatbuffer_utils as flatbuffers

    model: Any = flatbuffers.read_model(str(source))
    names = []
    for graph in model.subgraphs:
        for op in graph.operators:
            if flatbuffers.opcode_to_name(model, op.opcodeIndex) != _DENSE:
                continue
            names.append(graph.tensors[op.outputs[0]].name.decode())
            if len(op.inputs) > 2 and op.inputs[2] >= 0:
                bias = graph.tensors[op.inputs[2]]
                bias.shape = [math.prod(bias.shape)]
    return bytes(flatbuffers.convert_object_to_bytearray(model)), names
