"""Dropout masks as this package's step draws them, for a side that cannot draw them itself."""

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from softbio_jax.adapters import dense, math
from softbio_jax.models.forward import classify_in_training, encode
from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.params import Tree

# Path of an adapter or of a head -> its mask, True where kept; stacked blocks have one after the other.
Masks = dict[str, list[np.ndarray]]


def drawer(
    model: MultitaskModel, params: Tree, statistics: Tree, key: jax.Array
) -> Callable[[int, np.ndarray], Masks]:
    """Returns (step, images) -> the masks of a step of `make_train_step` with this model and run's key.

    The masks depend on the shapes of images and parameters alone, not on their values.
    """
    found: Masks = collections.defaultdict(list)

    def keep(path: str) -> Callable[[np.ndarray], None]:
        return lambda mask: found[path].append(np.asarray(mask))

    def forward(key: jax.Array, step: jax.Array, images: jax.Array) -> jax.Array:
        # As `train_step` makes its key.
        dropout_key = jax.random.fold_in(jax.random.split(key)[1], step)
        with _recorded(keep):
            features = encode(model, params, images, rows=jnp.arange(len(images)), dropout_key=dropout_key)
            variables = {"params": params, "batch_stats": statistics}
            logits, _ = classify_in_training(model, variables, features, dropout_key)
        return jnp.stack([values.sum() for values in logits.values()])

    compiled = jax.jit(forward)

    def masks(step: int, images: np.ndarray) -> Masks:
        found.clear()
        jax.block_until_ready(compiled(key, step, images))
        jax.effects_barrier()
        return dict(found)

    return masks


@contextlib.contextmanager
def _recorded(keep: Callable[[str], Callable[[np.ndarray], None]]) -> Iterator[None]:
    """Hands every mask that is drawn while the context is open to keep(path), in order."""
    plain = dense._drop

    def drop(module: nn.Module, x: jax.Array, config: Any, rows: jax.Array | None) -> jax.Array:
        if rows is None or config.dropout == 0:
            return x
        ones = jnp.ones(x.shape, x.dtype)
        kept = math.dropout(ones, module.make_rng("dropout"), rows, rate=config.dropout)
        io_callback(keep("/".join(module.path)), None, kept != 0, ordered=True)
        return x * kept

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if not isinstance(context.module, nn.Dropout):
            return call(*args, **kwargs)
        kept = call(jnp.ones_like(args[0]), *args[1:], **kwargs)
        io_callback(keep("/".join(context.module.path)), None, kept != 0, ordered=True)
        return args[0] * kept

    dense._drop = drop
    try:
        with nn.intercept_methods(intercept):
            yield
    finally:
        dense._drop = plain
