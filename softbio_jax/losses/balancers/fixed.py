"""Weights that are given."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp

from softbio_jax.losses.balancer import Balancer, Leaves, Values
from softbio_jax.losses.masked import MaskedMean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed(Balancer):
    """w_t as given, 1 where none is."""

    kind = "fixed"
    weights: Mapping[str, float]

    def weigh(
        self,
        losses: Mapping[str, MaskedMean],
        learned: Mapping[str, Leaves],
        running: Mapping[str, Leaves],
    ) -> tuple[Values, Values]:
        return {task: jnp.float32(self.weights.get(task, 1.0)) for task in losses}, {}
