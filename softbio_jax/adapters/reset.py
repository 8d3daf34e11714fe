"""Adapter leaves that must follow the weights a tower starts from."""

import jax.numpy as jnp

from softbio_jax.adapters.math import column_norm
from softbio_jax.params.paths import Tree, flatten, unflatten


def reset_adapters(params: Tree) -> Tree:
    """Returns params with every leaf that starts from a tower's own weights started again.

    dora_base_norm and dora_magnitude become their kernel's ||W_j||, task_probe the pooling's
    probe. Needed after those were replaced, by a checkpoint for instance: the identity at the
    start holds only for the weights in place.
    """
    flat = flatten(params)
    for path, leaf in list(flat.items()):
        parent, _, name = path.rpartition("/")
        if name in ("dora_base_norm", "dora_magnitude"):
            flat[path] = column_norm(flat[f"{parent}/kernel"])
        elif name == "task_probe":
            flat[path] = jnp.broadcast_to(flat[f"{parent}/probe"], leaf.shape)
    return unflatten(flat)
