"""Export as ONNX: float32, and int8 weights if asked; any batch, uint8 pictures in, logits out."""

from __future__ import annotations

import itertools
import json
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.files import atomic_folder
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.export import onnx_ops, program
from softbio_jax.inference.export.program import Operand, Program, Shape, Value
from softbio_jax.inference.export.stablehlo import INPUT, portable, write_config

if TYPE_CHECKING:
    import onnx

OPSET, IR = 20, 9  # Gelu's first operator set, and the file version that came with it
BATCH = "batch"


class Graph:
    """Collects nodes; `operand` gives the ONNX name of what a program's operation reads."""

    def __init__(self, program: Program, *, names: Sequence[str]):
        from onnx import helper, numpy_helper

        self._make, self._tensor = helper, numpy_helper.from_array
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._shared: dict[tuple[Any, ...], str] = {}
        self._kept: list[np.ndarray] = []  # an id is an array's own only while it lives
        self._count = itertools.count()
        self._names: dict[Value, str] = dict(zip(program.inputs, names, strict=True))
        self._inputs = program.inputs
        self._rows = ""

    def operand(self, operand: Operand) -> str:
        """Returns the name of a value, or of a constant, which is stored once."""
        return self._names[operand] if isinstance(operand, Value) else self.constant(operand)

    def constant(self, array: np.ndarray) -> str:
        """Returns the name of an initializer that holds the array."""
        array = np.asarray(array)
        key = (array.shape, array.dtype.str, array.tobytes() if array.size < 64 else id(array))
        if key not in self._shared:
            name = f"c{next(self._count)}"
            self.constants.append(self._tensor(array, name))
            self._shared[key] = name
            self._kept.append(array)
        return self._shared[key]

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Adds a node and returns the name of its first output; the next ones count on."""
        names = [f"v{next(self._count)}" for _ in range(outputs)]
        self.nodes.append(self._make.make_node(kind, list(inputs), names, **attributes))
        return names[0]

    def outputs_of_last(self) -> list[str]:
        """Returns the names of the outputs of the node added last."""
        return list(self.nodes[-1].output)

    def name(self, value: Value, name: str) -> None:
        """Notes what a value is called."""
        self._names[value] = name

    def reshape(self, name: str, shape: Shape) -> str:
        """Adds a reshape; one axis may be symbolic."""
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        if sizes.count(-1) > 1:
            raise NotImplementedError(f"a shape with two free axes: {shape}")
        return self.add("Reshape", name, self.constant(np.array(sizes, np.int64)))

    def expand(self, name: str, shape: Shape) -> str:
        """Adds a broadcast to a shape whose symbolic sizes are multiples of the batch."""
        sizes = [
            self.constant(np.array([size], np.int64)) if isinstance(size, int) else self._free(size)
            for size in shape
        ]
        whole = self.add("Concat", *sizes, axis=0) if len(sizes) > 1 else sizes[0]
        return self.add("Expand", name, whole)

    def _free(self, size: Any) -> str:
        if not self._rows:
            self._rows = self.add("Shape", self.operand(self._inputs[0]), start=0, end=1)
        times = int(size // self._inputs[0].shape[0])
        factor = self.constant(np.array([times], np.int64))
        return self._rows if times == 1 else self.add("Mul", self._rows, factor)

    def model(self, outputs: Sequence[tuple[str, Value]], *, metadata: dict[str, str]) -> onnx.ModelProto:
        """Returns the finished model.

        Args:
          outputs: (name, value) pairs.
          metadata: notes that the file carries.
        """
        for name, value in outputs:
            self.nodes.append(self._make.make_node("Identity", [self.operand(value)], [name]))
        graph = self._make.make_graph(
            self.nodes,
            "softbio_jax",
            [self._info(self.operand(x), x) for x in self._inputs],
            [self._info(name, value) for name, value in outputs],
            self.constants,
        )
        model = self._make.make_model(
            graph,
            opset_imports=[self._make.make_opsetid("", OPSET)],
            ir_version=IR,
            producer_name="softbio_jax",
        )
        self._make.set_model_props(model, metadata)
        return model

    def element_type(self, dtype: Any) -> int:
        """Returns ONNX's number for a type."""
        return int(self._make.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _info(self, name: str, value: Value) -> onnx.ValueInfoProto:
        shape = [size if isinstance(size, int) else BATCH for size in value.shape]
        return self._make.make_tensor_value_info(name, self.element_type(value.dtype), shape)


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
        onnx.save(model, str(folder / FILE), save_as_external_data=large, location=f"{FILE}.data")
        onnx.checker.check_model(str(folder / FILE))
        del model
        if int8:
            _quantize(folder / FILE, folder / INT8_FILE, external=large)
        files = sorted(path.name for path in folder.iterdir())
        write_config(folder, bundle, form=FORMAT, batch=BATCH, files=files, opset=OPSET)


def load(path: str | pathlib.Path, *, threads: int = 0) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
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

    traced = program.trace(logits, jax.ShapeDtypeStruct(shape, jnp.uint8))
    graph = Graph(traced, names=[INPUT])
    for op in traced.ops:
        onnx_ops.add(graph, op)
    metadata = {task.name: json.dumps(task.classes) for task in bundle.tasks}
    return graph.model(list(zip(tasks, traced.outputs, strict=True)), metadata=metadata)


def _quantize(source: pathlib.Path, path: pathlib.Path, *, external: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # advice on graphs whose shapes are still to be inferred
    try:
        quantize_dynamic(
            str(source),
            str(path),
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=external,
        )
    finally:
        logging.disable(logging.NOTSET)
