"""Learned log-variances s = log sigma^2, one a task."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from softbio_jax.losses.balancer import Balancer, Leaves, Values
from softbio_jax.losses.masked import MaskedMean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uncertainty(Balancer):
    """exp(-s) L + s/2, the thesis' L/sigma^2 + log sigma; s starts at 0, that is sigma at 1.

    Source: Kendall et al. 2018, arXiv:1705.07115, for classification.
    """

    kind = "uncertainty"
    clamp: tuple[float, float]  # of s, against a collapse of sigma once a loss nears zero

    def init(self) -> Leaves:
        return {"log_var": jnp.zeros((), jnp.float32)}

    def weigh(
        self,
        losses: Mapping[str, MaskedMean],
        learned: Mapping[str, Leaves],
        running: Mapping[str, Leaves],
    ) -> tuple[Values, Values]:
        # Outside the clamp the gradient of s is zero; inside, the identity.
        s = {task: jnp.clip(learned[task]["log_var"], *self.clamp) for task in losses}
        weights = {task: jnp.exp(-s[task]) for task in losses}
        return weights, {task: self.regulariser(s[task]) for task in losses}

    def regulariser(self, s: jax.Array) -> jax.Array:
        """Returns s/2."""
        return s / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiebelKoerner(Uncertainty):
    """exp(-s) L + log(1 + exp(s)), never negative.

    Source: Liebel and Koerner 2018, arXiv:1805.06334, without the factor 1/2 on L.
    """

    kind = "liebel_koerner"

    def regulariser(self, s: jax.Array) -> jax.Array:
        """Returns log(1 + exp(s))."""
        return jax.nn.softplus(s)
