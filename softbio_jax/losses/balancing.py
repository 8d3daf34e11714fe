"""Balancing task losses: each balancer is a parameter tree and a weighted sum of the present tasks.

A task absent from the global batch drops out whole, its regulariser included: were the
regulariser kept, its log-variance would drift to a wrong fixed point.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from softbio_jax.losses.masked import MaskedMean

Balance = Mapping[str, Mapping[str, jax.Array]]  # {task: {"log_var": ()}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancingConfig:
    """How task losses are summed.

    uncertainty: exp(-s) L + s/2, s = log sigma^2 learned (Kendall et al. 2018 for
    classification; the thesis' L/sigma^2 + log sigma). fixed: the given weights. clamp bounds s
    against a collapse of sigma once a training loss nears zero.
    """

    kind: Literal["uncertainty", "fixed"] = "uncertainty"
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    clamp: tuple[float, float] = (-4.0, 4.0)


def init(tasks: Sequence[str], config: BalancingConfig) -> dict[str, dict[str, jax.Array]]:
    """Returns the balancer's parameters: s = 0, that is sigma = 1, for every task."""
    if config.kind == "fixed":
        return {}
    return {task: {"log_var": jnp.zeros((), jnp.float32)} for task in tasks}


def total(
    losses: Mapping[str, MaskedMean], balance: Balance, config: BalancingConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss to minimise and the weight each task's loss has in it.

    Args:
      losses: the global masked mean of each task.
      balance: the balancer's parameters.
      config: which balancer.

    Returns:
      () and {task: ()}.
    """
    terms, weights = [], {}
    for task, loss in losses.items():
        if config.kind == "fixed":
            weight = jnp.asarray(config.weights.get(task, 1.0), jnp.float32)
            regulariser = jnp.zeros(())
        else:
            # Outside the clamp the gradient of s is zero; inside, the identity.
            s = jnp.clip(balance[task]["log_var"], *config.clamp)
            weight, regulariser = jnp.exp(-s), s / 2
        weights[task] = weight
        terms.append(jnp.where(loss.present, weight * loss.value + regulariser, 0.0))
    return jnp.sum(jnp.stack(terms)), weights
