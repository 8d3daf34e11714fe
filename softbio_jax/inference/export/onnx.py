"""Export as ONNX: float32, optionally also int8 weights; any batch size, uint8 images in, logits out."""

from __future__ import annotations

import json
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from softbio_jax.files import atomic_folder
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.export import onnx_graph, onnx_int8, program, stablehlo, static_ranges
from softbio_jax.inference.export.calibration import Calibration, quantisation
from softbio_jax.inference.export.onnx_graph import BATCH, OPSET
from softbio_jax.inference.export.stablehlo import INPUT, any_batch, logits, portable, write_config
from softbio_jax.inference.reference.write import write_reference

if TYPE_CHECKING:
    import onnx

FORMAT, FILE, INT8_FILE = "onnx", "model.onnx", "model.int8.onnx"
_LIBRARIES = ("onnx", "onnxruntime")  # what the runtime computes is written beside the model
# Larger weights go to a second file: protocol buffers end at 2 GiB.
INLINE_BYTES = 2**30


def check_installed() -> None:
    """Raises UserError where the libraries of this export are missing."""
    stablehlo.check_installed(FORMAT, _LIBRARIES)


def write(
    directory: str | pathlib.Path,
    bundle: Bundle,
    *,
    int8: bool = False,
    calibration: Calibration | None = None,
) -> None:
    """Writes a new folder with model.onnx and config.json.

    Args:
      int8: also write model.int8.onnx, whose kernels are int8 with one scale per channel. No image
        depends on the others of its batch.
      calibration: images of which the ranges of int8 activations are measured; None: every row of
        activations has its own range, measured in every call.

    Raises:
      UserError: the folder exists, onnx is not installed, or int8 differs too much.
    """
    check_installed()
    import onnx

    with atomic_folder(directory) as folder:
        bundle, counts = portable(bundle), (0, 0)
        model = _model(bundle)
        large = model.ByteSize() > INLINE_BYTES
        _save(model, folder / FILE, external=large)
        del model
        if int8 and calibration is not None:
            kernels = static_ranges.kernels(bundle, calibration, results=False)
            counts = _quantise(folder / FILE, folder / INT8_FILE, calibration, kernels, external=large)
        elif int8:
            _save_int8(onnx_int8.quantised(onnx.load(str(folder / FILE))), folder / INT8_FILE)
        files = sorted(path.name for path in folder.iterdir())
        runs = {name: load(folder / name) for name in (FILE, INT8_FILE) if name in files}
        settings = {}
        if int8:
            settings = quantisation(runs[FILE], runs[INT8_FILE], calibration, static=counts, where=INT8_FILE)
        write_config(folder, bundle, form=FORMAT, batch=BATCH, files=files, opset=OPSET, **settings)
        quantised = [INT8_FILE] if calibration else []
        write_reference(folder, runs, size=bundle.image_size, script=True, quantised=quantised)


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


def _save_int8(model: onnx.ModelProto, path: pathlib.Path) -> None:
    _save(model, path, external=model.ByteSize() > INLINE_BYTES)


def _quantise(
    source: pathlib.Path,
    path: pathlib.Path,
    calibration: Calibration,
    kernels: Sequence[np.ndarray],
    *,
    external: bool,
) -> tuple[int, int]:
    """Writes a model whose dense layers are int8; those with one of the `kernels` have measured ranges.

    onnxruntime joins the products of the heads to their biases; they stay float32.

    Returns:
      The number of layers with static ranges, and of all that are int8.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = ({INPUT: image[None]} for image in calibration.measured)

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    with tempfile.TemporaryDirectory() as scratch:
        prepared, partly = (pathlib.Path(scratch) / name for name in (FILE, INT8_FILE))
        # The symbolic shapes would need another library; the batch is the only symbol.
        quant_pre_process(source, prepared, skip_symbolic_shape=True, save_as_external_data=external)
        given = {kernel.tobytes() for kernel in kernels}
        static = {
            tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() in given
            for tensor in onnx.load(prepared).graph.initializer
            if len(tensor.dims) == 2
        }
        model, dense, chosen = onnx.load(prepared, load_external_data=False), 0, []
        for number, node in enumerate(model.graph.node):
            node.name = str(number)  # the quantizer knows nodes by their names
            if node.op_type == "MatMul" and node.input[1] in static:
                dense += 1
                chosen += [node.name] if static[node.input[1]] else []
        onnx.save(model, str(prepared))
        if not chosen:
            partly = prepared
        else:
            quantization.quantize_static(
                prepared,
                partly,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=chosen,
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                activation_type=quantization.QuantType.QUInt8,
                use_external_data_format=external,
                # Sums stay float32: no logit is cut off at the end of a range.
                extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
            )
        _save_int8(onnx_int8.quantised(onnx.load(str(partly))), path)
    return len(chosen), dense
