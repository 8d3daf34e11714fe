"""int8 products of an ONNX model: kernels by channel, activations by row.

A row of activations is one token of one image, so that no answer depends on the images that share
its batch. (onnxruntime's own dynamic quantisation has one scale for the whole batch.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

_LARGEST = 127.0
_NUMBERS: dict[str, Any] = {
    "int8.last": np.array([-1], np.int64),
    "int8.least": np.array(1e-30, np.float32),  # so that a row of zeros has a scale
    "int8.step": np.array(1 / _LARGEST, np.float32),
    "int8.half": np.array(128.5, np.float32),
    "int8.zero": np.array(128, np.uint8),
}


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a model whose products with constant matrices are computed from int8.

    With s = max |x| / 127 of a row of x and t = max |w| / 127 of a column of w, x @ w becomes
    s t (round(x / s) @ round(w / t)), the inner product in int32.
    Rows are stored from 1 to 255, 128 being zero: runtimes are several times faster with uint8 there.

    Args:
      model: float32, with its weights loaded.
    """
    import onnx

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kernels = {
        node.input[1]: _channels(onnx.numpy_helper.to_array(constants[node.input[1]]))
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in constants and len(constants[node.input[1]].dims) == 2
    }
    if not kernels:
        return model
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in kernels:
            nodes += _product(node)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    for name, (values, scales) in kernels.items():
        tensors.append(onnx.numpy_helper.from_array(values, f"{name}.int8"))
        tensors.append(onnx.numpy_helper.from_array(scales, f"{name}.scale"))
    tensors += [onnx.numpy_helper.from_array(value, name) for name, value in _NUMBERS.items()]
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(tensors)
    return result


def _channels(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (summed, channels) as int8 and the scale of every channel."""
    scales = np.abs(kernel).max(axis=0).astype(np.float32) / np.float32(_LARGEST)
    scales = np.where(scales == 0, np.float32(1), scales)
    return np.rint(kernel / scales).astype(np.int8), scales


def _product(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Returns the nodes that replace a product with a constant matrix."""
    from onnx import TensorProto, helper

    x, kernel = node.input
    out, make = node.output[0], helper.make_node
    names = (
        "max",
        "min",
        "minus",
        "high",
        "scale",
        "inverse",
        "divided",
        "moved",
        "uint8",
        "sum",
        "float",
        "rows",
    )
    high, low, minus, most, scale, inverse, divided, moved, small, summed, product, rows = (
        f"{out}.{name}" for name in names
    )
    return [
        make("ReduceMax", [x, "int8.last"], [high], keepdims=1),
        make("ReduceMin", [x, "int8.last"], [low], keepdims=1),
        make("Neg", [low], [minus]),
        make("Max", [high, minus, "int8.least"], [most]),
        make("Mul", [most, "int8.step"], [scale]),
        make("Reciprocal", [scale], [inverse]),
        make("Mul", [x, inverse], [divided]),
        make("Add", [divided, "int8.half"], [moved]),  # the cast cuts: rounded, and moved by 128
        make("Cast", [moved], [small], to=TensorProto.UINT8),
        make("MatMulInteger", [small, f"{kernel}.int8", "int8.zero"], [summed]),
        make("Cast", [summed], [product], to=TensorProto.FLOAT),
        make("Mul", [product, scale], [rows]),
        make("Mul", [rows, f"{kernel}.scale"], [out]),
    ]
