"""The state that training changes."""

import dataclasses
from collections.abc import Collection
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from softbio_jax.params import Tree
from softbio_jax.runs import parallel

FIRST, MOST = np.float32(2**16), np.float32(2**24)  # of the loss scale
GROWTH_STEPS = 2000


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossScale:
    """The factor of the loss in float16's backward pass, which keeps small gradients from vanishing.

    After an overflow it is halved, after `GROWTH_STEPS` steps without one doubled, and it stays a power
    of two, so that dividing by it is exact. The bounds are 1 and `MOST`: a gradient that overflows at 1
    is not finite by itself, and where no gradient exists nothing would end the growth.

    Source: Micikevicius et al. 2018, arXiv:1710.03740; constants of torch.amp.GradScaler. Flax's
    DynamicScale is not used: it also halves when the loss is not finite, which no scale
    changes, and does not count.
    """

    scale: jax.Array  # () float32
    good_steps: jax.Array  # () int32, finite gradients since the scale changed
    overflows: jax.Array  # () int32, steps skipped because of the scale

    def unscaled(self, gradient: Tree) -> Tree:
        """Returns the gradient of the loss, from that of the loss times the scale; all float32."""
        return jax.tree.map(lambda leaf: leaf / self.scale, gradient)

    def overflowed(self, *, loss: jax.Array, gradient: jax.Array) -> jax.Array:
        """Returns whether the scale was too large, (): from whether loss and gradient are finite."""
        return loss & ~gradient & (self.scale > 1)

    def after(self, *, loss: jax.Array, gradient: jax.Array) -> "LossScale":
        """Returns the scale after a step, from whether its loss and gradient are finite, () each."""
        overflow, good = self.overflowed(loss=loss, gradient=gradient), loss & gradient
        steps = jnp.where(overflow, 0, self.good_steps + good)
        grows = steps >= GROWTH_STEPS
        scale = jnp.where(overflow, self.scale / 2, jnp.where(grows, self.scale * 2, self.scale))
        return LossScale(
            scale=jnp.clip(scale, 1, MOST),
            good_steps=jnp.where(grows, 0, steps),
            overflows=self.overflows + overflow,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScaledState(TrainState):
    """The state of a run in float16; a type of its own, so that other runs' checkpoints have no scale."""

    loss_scale: LossScale


def with_loss_scale(state: TrainState, loss_scale: LossScale) -> ScaledState:
    """Returns a float16 run's state with another scale."""
    return dataclasses.replace(cast(ScaledState, state), loss_scale=loss_scale)


def as_saved(state: TrainState, paths: Collection[str]) -> TrainState:
    """Returns the state without a loss scale where a checkpoint has none among the paths of its leaves.

    Float16 runs of 0.1 were not scaled, and go on as they began.
    """
    if not isinstance(state, ScaledState) or any(path.startswith("loss_scale/") for path in paths):
        return state
    return TrainState(**{field.name: getattr(state, field.name) for field in dataclasses.fields(TrainState)})


def create(
    trainable: Tree,
    batch_stats: Tree,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    scaled: bool = False,
) -> TrainState:
    """Returns the state before the first step.

    Args:
      trainable: the trained leaves.
      batch_stats: the heads' running statistics.
      optimizer: its state is created sharded like the trained leaves.
      mesh: where everything is placed; None: the default device.
      scaled: whether the loss is scaled, as float16 needs it.
    """
    counters: dict[str, Any] = {
        "step": jnp.zeros((), jnp.int32),
        "rate_scale": jnp.ones((), jnp.float32),
        "skipped": jnp.zeros((), jnp.int32),
    }
    if scaled:
        zero = jnp.zeros((), jnp.int32)
        counters["loss_scale"] = LossScale(jnp.asarray(FIRST), zero, jnp.zeros_like(zero))
    init: Any = optimizer.init
    if mesh is not None:
        counters = parallel.replicate(counters, mesh)
        batch_stats = parallel.replicate(batch_stats, mesh)
        trainable = parallel.shard_trained(trainable, mesh)
        shardings = parallel.trained_shardings(jax.eval_shape(init, trainable), mesh)
        init = jax.jit(init, out_shardings=shardings)
    kind = ScaledState if scaled else TrainState
    return kind(trainable=trainable, batch_stats=batch_stats, opt_state=init(trainable), **counters)
