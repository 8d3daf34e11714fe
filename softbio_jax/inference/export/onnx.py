"""Export as ONNX: float32, optionally also int8 weights; any batch size, uint8 images in, logits out."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.files import atomic_folder
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.export import onnx_graph, onnx_int8, program
from softbio_jax.inference.export.onnx_graph import BATCH, OPSET
from softbio_jax.inference.export.stablehlo import INPUT, any_batch, logits, portable, write_config
from softbio_jax.inference.reference.write import write_reference

if TYPE_CHECKING:
    import onnx

FORMAT, FILE, INT8_FILE = "onnx", "model.onnx", "model.int8.onnx"
# Larger weights go to a second file: protocol buffers end at 2 GiB.
INLINE_BYTES = 2**30


def write(directory: str | pathlib.Path, bundle: Bundle, *, int8: bool = False) -> None:
    """Writes a new folder with model.onnx and config.json.

    Args:
      int8: also write model.int8.onnx, whose kernels are int8 with one scale per channel, and whose
        activations are quantised row by row: no image depends on the others of its batch.

    Raises:
      UserError: the folder exists, or onnx is not installed.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401 - what it computes is written beside the model
    except ImportError as error:
        raise UserError(
            "onnx is missing",
            where="--format=onnx",
            expected="onnx and onnxruntime",
            found=str(error),
            fix="pip install 'softbio-jax[onnx]'",
        ) from error
    with atomic_folder(directory) as folder:
        model = _model(portable(bundle))
        large = model.ByteSize() > INLINE_BYTES
        _save(model, folder / FILE, external=large)
        del model
        if int8:
            small = onnx_int8.quantised(onnx.load(str(folder / FILE)))
            _save(small, folder / INT8_FILE, external=small.ByteSize() > INLINE_BYTES)
        files = sorted(path.name for path in folder.iterdir())
        write_config(folder, bundle, form=FORMAT, batch=BATCH, files=files, opset=OPSET)
        runs = {name: load(folder / name) for name in (FILE, INT8_FILE) if name in files}
        write_reference(folder, runs, size=bundle.image_size, script=True)


def load(path: str | pathlib.Path, *, threads: int = 0) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns the function of a .onnx file: uint8 (B, S, S, 3) -> {task: logits (B, C)}, on the CPU.

    `threads` are onnxruntime's; 0: one per core.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tasks = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(tasks, session.run(None, {INPUT: images}), strict=True))


def _model(bundle: Bundle) -> onnx.ModelProto:
    traced = program.trace(logits(bundle), any_batch(bundle))
    metadata = {task.name: json.dumps(task.classes) for task in bundle.tasks}
    return onnx_graph.model(traced, inputs=[INPUT], outputs=list(metadata), metadata=metadata)


def _save(model: onnx.ModelProto, path: pathlib.Path, *, external: bool) -> None:
    import onnx

    onnx.save(model, str(path), save_as_external_data=external, location=f"{path.name}.data")
    onnx.checker.check_model(str(path))
