"""The state that training changes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from softbio_jax import parallel
from softbio_jax.params import Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The trainable half of a run; the frozen half never changes and is passed separately."""

    step: jax.Array  # () int32, completed optimizer steps
    trainable: Tree  # float32
    batch_stats: Tree  # float32, the heads' running statistics
    opt_state: Any
    rate_scale: jax.Array  # () float32, multiplies every learning rate
    skipped: jax.Array  # () int32, non-finite updates skipped in a row


def create(
    trainable: Tree, batch_stats: Tree, optimizer: optax.GradientTransformation, *, mesh: Mesh | None = None
) -> TrainState:
    """Returns the state before the first step.

    Args:
      trainable: the trained leaves.
      batch_stats: the heads' running statistics.
      optimizer: its state is created sharded like the trained leaves.
      mesh: where everything is placed; None: the default device.
    """
    counters = {
        "step": jnp.zeros((), jnp.int32),
        "rate_scale": jnp.ones((), jnp.float32),
        "skipped": jnp.zeros((), jnp.int32),
    }
    init: Any = optimizer.init
    if mesh is not None:
        counters = parallel.replicate(counters, mesh)
        batch_stats = parallel.replicate(batch_stats, mesh)
        trainable = parallel.shard_trained(trainable, mesh)
        shardings = parallel.trained_shardings(jax.eval_shape(init, trainable), mesh)
        init = jax.jit(init, out_shardings=shardings)
    return TrainState(trainable=trainable, batch_stats=batch_stats, opt_state=init(trainable), **counters)
