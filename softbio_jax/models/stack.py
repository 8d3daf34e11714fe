"""A stack of identical blocks as one scan, its parameters stacked on a leading layer axis."""

from collections.abc import Callable

import flax.linen as nn
import jax

from softbio_jax.errors import UserError
from softbio_jax.models.blocks import Block, Rotation
from softbio_jax.models.config import ComputeConfig

_POLICIES = jax.checkpoint_policies
# What the forward pass saves for the backward pass; the rest is recomputed.
REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
    "none": None,  # save everything
    "attention": None,  # except attention's weights, see `attend`
    "dots": _POLICIES.dots_with_no_batch_dims_saveable,
    "full": _POLICIES.nothing_saveable,
}


class _ScannedBlock(nn.Module):
    make: Callable[[str], Block]
    capture: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, rotation: Rotation | None, rows: jax.Array | None
    ) -> tuple[jax.Array, object]:
        block = self.make("block")
        nn.share_scope(self, block)  # no level of its own in the parameter tree
        x = block(x, rotation, rows)
        return x, (x if self.capture else None)


def stack(
    make: Callable[[str], Block], *, layers: int, name: str, compute: ComputeConfig, capture: bool
) -> nn.Module:
    """Returns a module that maps (x (B, N, D), rotation, rows) to (x, states).

    Args:
      make: builds a block of the given name.
      layers: L >= 1.
      name: the stack's name in the parameter tree.
      compute: its remat and unroll are used.
      capture: whether states are every block's output (L, B, N, D), else None.

    Raises:
      UserError: no such remat policy.
    """
    body = over_layers(_ScannedBlock, length=layers, inputs=2, compute=compute)
    return body(make, capture, name=name)


def over_layers(
    body: type[nn.Module], *, length: int, inputs: int, compute: ComputeConfig
) -> type[nn.Module]:
    """Returns a module scanned over layers, its parameters with a leading layer axis.

    Args:
      body: a layer: (carry, *inputs) to (carry, output).
      length: number of layers.
      inputs: number of inputs beside the carry, the same for every layer.
      compute: its remat and unroll are used.

    Raises:
      UserError: no such remat policy.
    """
    if compute.remat not in REMAT_POLICIES:
        raise UserError(
            "unknown remat policy",
            where="compute.remat",
            expected=f"one of {', '.join(REMAT_POLICIES)}",
            found=repr(compute.remat),
            fix="use a name of that list",
        )
    if REMAT_POLICIES[compute.remat] is not None:
        # Inside a scan nothing can be merged across iterations, so CSE need not be prevented.
        body = nn.remat(body, policy=REMAT_POLICIES[compute.remat], prevent_cse=False)
    return nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast,) * inputs,
        length=length,
        unroll=compute.unroll,
    )
