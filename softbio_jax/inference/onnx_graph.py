"""An ONNX graph under construction: names, constants, and shapes with a free batch axis."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from softbio_jax.inference.program import Operand, Program, Shape, Value

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

    def model(
        self, outputs: Sequence[tuple[str, Value]], *, metadata: dict[str, str]
    ) -> onnx.ModelProto:
        """Returns the finished model.

        Args:
          outputs: (name, value) pairs.
          metadata: notes that the file carries.
        """
        for name, value in outputs:
            self.nodes.append(self._make.make_node("Identity", [self.operand(value)], [name]))
        graph = self._make.make_graph(
            self.nodes, "softbio_jax", [self._info(self.operand(x), x) for x in self._inputs],
            [self._info(name, value) for name, value in outputs], self.constants,
        )  # fmt: skip
        model = self._make.make_model(
            graph, opset_imports=[self._make.make_opsetid("", OPSET)], ir_version=IR,
            producer_name="softbio_jax",
        )  # fmt: skip
        self._make.set_model_props(model, metadata)
        return model

    def element_type(self, dtype: Any) -> int:
        """Returns ONNX's number for a type."""
        return int(self._make.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _info(self, name: str, value: Value) -> onnx.ValueInfoProto:
        shape = [size if isinstance(size, int) else BATCH for size in value.shape]
        return self._make.make_tensor_value_info(name, self.element_type(value.dtype), shape)
