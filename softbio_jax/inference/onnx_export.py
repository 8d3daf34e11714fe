"""Export as ONNX: float32, and int8 weights if asked; any batch, uint8 pictures in, logits out."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.inference import onnx_graph, onnx_ops, tracing
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.exported import INPUT, portable, write_config
from softbio_jax.inference.new_folder import new_folder

if TYPE_CHECKING:
    import onnx

FORMAT, FILE, INT8_FILE = "onnx", "model.onnx", "model.int8.onnx"
# Beyond this the weights go to a file beside it: protocol buffers end at 2 GiB.
INLINE_BYTES = 2**30


def write(directory: str | pathlib.Path, bundle: Bundle, *, int8: bool = False) -> None:
    """Writes a folder with model.onnx, model.int8.onnx if asked, and config.json.

    Args:
      directory: a new folder.
      bundle: what to export.
      int8: also write a file whose kernels are int8, a scale a channel.

    Raises:
      UserError: the folder exists, or the libraries are not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError("onnx is missing", where="--format=onnx",
                        expected="onnx and onnxruntime", found=str(error),
                        fix="pip install 'softbio-jax[onnx]'") from error  # fmt: skip
    with new_folder(directory) as folder:
        model = _model(portable(bundle))
        large = model.ByteSize() > INLINE_BYTES
        onnx.save(model, str(folder / FILE), save_as_external_data=large, location=f"{FILE}.data")
        onnx.checker.check_model(str(folder / FILE))
        del model
        if int8:
            _quantize(folder / FILE, folder / INT8_FILE, external=large)
        files = sorted(path.name for path in folder.iterdir())
        write_config(folder, bundle, form=FORMAT, batch=onnx_graph.BATCH, files=files,
                     opset=onnx_graph.OPSET)  # fmt: skip


def load(
    path: str | pathlib.Path, *, threads: int = 0
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns the function of a file: uint8 (B, S, S, 3) -> {task: logits (B, C)}, on the CPU.

    Args:
      path: a .onnx file.
      threads: of onnxruntime; 0 for as many as there are cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tasks = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(tasks, session.run(None, {INPUT: images}), strict=True))


def _model(bundle: Bundle) -> onnx.ModelProto:
    size = bundle.image_size
    tasks = [task.name for task in bundle.tasks]
    shape = jax.export.symbolic_shape(f"batch, {size}, {size}, 3")

    def logits(images: jax.Array) -> list[jax.Array]:
        found = bundle.forward(bundle.variables, images)
        return [found[task] for task in tasks]

    traced = tracing.trace(logits, jax.ShapeDtypeStruct(shape, jnp.uint8))
    graph = onnx_graph.Graph(traced, names=[INPUT])
    for op in traced.ops:
        onnx_ops.add(graph, op)
    metadata = {task.name: json.dumps(task.classes) for task in bundle.tasks}
    return graph.model(list(zip(tasks, traced.outputs, strict=True)), metadata=metadata)


def _quantize(source: pathlib.Path, path: pathlib.Path, *, external: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # advice on graphs whose shapes are still to be inferred
    try:
        quantize_dynamic(
            str(source), str(path), op_types_to_quantize=["MatMul"], per_channel=True,
            weight_type=QuantType.QInt8, use_external_data_format=external,
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
