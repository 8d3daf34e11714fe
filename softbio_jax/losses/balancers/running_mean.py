"""Weights that make the tasks' losses alike in size."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from softbio_jax.losses.balancer import Balancer, Leaves, Values
from softbio_jax.losses.masked import MaskedMean


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunningMean(Balancer):
    """w_t = n (1/m_t) / sum_u (1/m_u) over the n tasks seen so far; m is L's running mean.

    m <- momentum m + (1 - momentum) L, and L itself at a task's first label.
    """

    kind = "running_mean"
    momentum: float

    def init_running(self) -> Leaves:
        return {"mean": jnp.zeros((), jnp.float32)}

    def update(self, running: Leaves, loss: jax.Array) -> Leaves:
        old = running["mean"]
        moved = self.momentum * old + (1 - self.momentum) * loss
        return {"mean": jnp.where(old > 0, moved, loss)}

    def weigh(
        self,
        losses: Mapping[str, MaskedMean],
        learned: Mapping[str, Leaves],
        running: Mapping[str, Leaves],
    ) -> tuple[Values, Values]:
        inverse = {
            task: jnp.where(leaf["mean"] > 0, 1 / jnp.maximum(leaf["mean"], 1e-8), 0.0)
            for task, leaf in running.items()
        }
        whole = jnp.maximum(sum(inverse.values()), 1e-8)
        seen = sum((value > 0).astype(jnp.float32) for value in inverse.values())
        return {task: seen * value / whole for task, value in inverse.items()}, {}
