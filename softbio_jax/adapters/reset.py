"""DoRA's norms, which must follow the kernels a tower starts from."""

from softbio_jax.adapters.math import column_norm
from softbio_jax.params.paths import Tree, flatten, unflatten


def reset_norms(params: Tree) -> Tree:
    """Returns params with every dora_base_norm and dora_magnitude equal to its kernel's ||W_j||.

    Needed after a tower's kernels were replaced, by a checkpoint for instance: the identity at
    the start holds only for the norms of the kernels in place.
    """
    flat = flatten(params)
    for path in list(flat):
        parent, _, name = path.rpartition("/")
        if name in ("dora_base_norm", "dora_magnitude"):
            flat[path] = column_norm(flat[f"{parent}/kernel"])
    return unflatten(flat)
