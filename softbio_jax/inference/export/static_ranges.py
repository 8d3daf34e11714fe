"""Which dense layers keep a model's answers when their activations have one int8 range for all images.

The 255 steps of such a range hold the largest activation of all images. Where a few are very large, or much
depends on small ones, the steps are too coarse, and the layer needs the ranges of every call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.export import program
from softbio_jax.inference.export.calibration import Calibration
from softbio_jax.inference.export.program import Op, Program, Value
from softbio_jax.inference.export.stablehlo import logits

IMAGES = 64  # of which errors are estimated
_STEPS = 255
_SHIFTS = ("reshape", "broadcast_in_dim", "squeeze")
_Arrays = Sequence[Any]


def kernels(bundle: Bundle, calibration: Calibration, *, results: bool) -> list[np.ndarray]:
    """Returns the kernels (D, F) of the dense layers that may have static ranges.

    The errors of these layers, see `errors` and `chosen`, add up to the calibration's tolerance at most. A
    tolerance of 1 accepts every difference. Layers are told by their kernels because other forms of the
    program, for any batch or of a converter, have other numbers of layers.
    """
    size = bundle.image_size
    traced = program.trace(logits(bundle), jax.ShapeDtypeStruct((1, size, size, 3), np.uint8))
    found = errors(traced, calibration.measured, results=results)
    static = chosen(found, calibration.tolerance if calibration.tolerance < 1 else math.inf)
    of_all = [op.inputs[1] for op in program.dense(traced)]
    others = {id(kernel) for i, kernel in enumerate(of_all) if i not in static}
    return [np.asarray(kernel) for kernel in of_all if id(kernel) not in others]


def errors(traced: Program, images: np.ndarray, *, results: bool) -> np.ndarray:
    """Estimates how much one static range changes the probabilities, for every dense layer alone.

    With e the rounding error of a layer's activations x, in 255 steps of the range over all images, the
    probability of class c changes by d_c = <dp_c/dx, e> to first order. The estimate is the square root of
    the mean over images of sum_c d_c^2, over the classes of all tasks: with random signs s_c,
    (sum_c s_c d_c)^2 has this mean, so that one backward pass per image serves all layers.

    Args:
      traced: the program of the logits for one image, (1, S, S, 3) uint8.
      images: (N, S, S, 3) uint8.
      results: also quantise what a layer writes, with its bias and the factors after it.

    Returns:
      (L,) float64, in the order of `program.dense`.
    """
    dense = program.dense(traced)
    ends = _ends(traced, dense) if results else []

    def run(image: jax.Array, added: _Arrays | None) -> tuple[list[jax.Array], list[jax.Array]]:
        return _watched(traced, dense, ends, image, added)

    @jax.jit
    def extremes(batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        def of_one(image: jax.Array) -> tuple[jax.Array, jax.Array]:
            _, found = run(image, None)
            return jnp.stack([x.min() for x in found]), jnp.stack([x.max() for x in found])

        low, high = jax.lax.map(of_one, batch)
        return low.min(axis=0), high.max(axis=0)

    low, high = (np.asarray(x) for x in extremes(images[:, None]))

    @jax.jit
    def changes(batch: jax.Array, keys: jax.Array) -> jax.Array:
        def of_one(inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
            image, key = inputs

            def signed(added: _Arrays) -> tuple[jax.Array, list[jax.Array]]:
                outputs, found = run(image, added)
                probabilities = jnp.concatenate([jax.nn.softmax(z).ravel() for z in outputs])
                signs = jax.random.rademacher(key, probabilities.shape, jnp.float32)
                return (probabilities * signs).sum(), found

            _, shapes = jax.eval_shape(run, image, None)
            slopes, found = jax.grad(signed, has_aux=True)([jnp.zeros(x.shape, x.dtype) for x in shapes])
            rounding = [_rounded(x, low[i], high[i]) - x for i, x in enumerate(found)]
            return jnp.stack([(g * e).sum() for g, e in zip(slopes, rounding, strict=True)])

        return jax.lax.map(of_one, (batch, keys))

    some = images[:IMAGES]
    each = np.asarray(changes(some[:, None], jax.random.split(jax.random.key(0), len(some))), np.float64)
    # A layer's input and result are rounded together: (N, kinds, L) to (L,).
    together = each.reshape(len(some), 2 if results else 1, len(dense)).sum(axis=1)
    return np.sqrt((together**2).mean(axis=0))


def chosen(found: np.ndarray, budget: float) -> frozenset[int]:
    """Returns as many layers as possible whose errors add up to at most `budget`, as independent ones.

    That is the smallest ones with sqrt(sum of squares) <= budget.
    """
    order = np.argsort(found, kind="stable")
    within = np.sqrt(np.cumsum(found[order] ** 2)) <= budget
    return frozenset(order[within].tolist())


def _rounded(x: jax.Array, low: Any, high: Any) -> jax.Array:
    """Returns x in `_STEPS` steps of a range that contains 0."""
    low, high = jnp.minimum(low, 0), jnp.maximum(high, 0)
    step = jnp.maximum((high - low) / _STEPS, jnp.finfo(jnp.float32).tiny)
    zero = jnp.round(-low / step)
    return (jnp.clip(jnp.round(x / step) + zero, 0, _STEPS) - zero) * step


def _watched(
    traced: Program, layers: Sequence[Op], ends: Sequence[Value], image: jax.Array, added: _Arrays | None
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Returns the outputs, and the layers' inputs and results, plus `added` where it is given."""
    number = {op: i for i, op in enumerate(layers)}
    last = {value: len(layers) + i for i, value in enumerate(ends)}
    found: dict[int, jax.Array] = {}

    def plus(place: int, x: jax.Array) -> jax.Array:
        found[place] = x
        return x if added is None else x + added[place]

    def product(op: Op, inputs: list[Any]) -> list[Any]:
        if op in number:
            inputs = [plus(number[op], inputs[0]), *inputs[1:]]
        return program.bound(op, inputs)

    def written(value: Value, x: jax.Array) -> jax.Array:
        return plus(last[value], x) if value in last else x

    forms: Mapping[str, program.Form] = {program.PRODUCT: product}
    outputs = program.run(traced, [image], forms=forms, written=written)
    return outputs, [found[i] for i in range(len(layers) + len(ends))]


def _ends(traced: Program, layers: Sequence[Op]) -> list[Value]:
    """Returns what each layer writes in a runtime that joins the bias and constant factors to its product."""
    readers: dict[Value, list[Op]] = {}
    for op in traced.ops:
        for value in op.inputs:
            if isinstance(value, Value):
                readers.setdefault(value, []).append(op)

    def end(value: Value) -> Value:
        while len(readers.get(value, [])) == 1 and value not in traced.outputs:
            (op,) = readers[value]
            joined = op.name in ("add", "mul") and any(isinstance(x, np.ndarray) for x in op.inputs)
            if not joined and op.name not in _SHIFTS:
                break
            value = op.outputs[0]
        return value

    return [end(op.outputs[0]) for op in layers]
