"""What changes while training."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from softbio_jax.params.paths import Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The trainable half of a run; the frozen half never changes and is passed beside it."""

    step: jax.Array  # () int32, optimizer steps done
    trainable: Tree  # float32
    batch_stats: Tree  # float32, the heads' running statistics
    opt_state: Any
    rate_scale: jax.Array  # () float32, multiplies every learning rate
    skipped: jax.Array  # () int32, non-finite updates skipped in a row


def create(
    trainable: Tree, batch_stats: Tree, optimizer: optax.GradientTransformation
) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        batch_stats=batch_stats,
        opt_state=optimizer.init(trainable),
        rate_scale=jnp.ones((), jnp.float32),
        skipped=jnp.zeros((), jnp.int32),
    )
