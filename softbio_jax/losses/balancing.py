"""Balancing task losses: learned or running weights, and the weighted sum of the present tasks.

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


Means = Mapping[str, Mapping[str, jax.Array]]  # {task: {"mean": ()}}, 0 before the first label


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancingConfig:
    """How task losses are summed; s = log sigma^2 is learned, a task each.

    uncertainty: exp(-s) L + s/2 (Kendall et al. 2018, arXiv:1705.07115, for classification; the
    thesis' L/sigma^2 + log sigma).
    liebel_koerner: exp(-s) L + log(1 + exp(s)), never negative (Liebel and Koerner 2018,
    arXiv:1805.06334, without the factor 1/2 on L).
    running_mean: w L with w = T (1/m) / sum_u (1/m_u), m the running mean of L.
    fixed: the given weights, 1 where none is given.
    """

    kind: Literal["uncertainty", "liebel_koerner", "running_mean", "fixed"] = "uncertainty"
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # Bounds of s, against a collapse of sigma once a training loss nears zero.
    clamp: tuple[float, float] = (-4.0, 4.0)
    momentum: float = 0.95  # of the running mean


def init(tasks: Sequence[str], config: BalancingConfig) -> dict[str, dict[str, jax.Array]]:
    """Returns the balancer's parameters: s = 0, that is sigma = 1, for every task."""
    if config.kind not in _REGULARISERS:
        return {}
    return {task: {"log_var": jnp.zeros((), jnp.float32)} for task in tasks}


def init_means(tasks: Sequence[str], config: BalancingConfig) -> dict[str, dict[str, jax.Array]]:
    """Returns the running means before the first step, where the balancer has any."""
    if config.kind != "running_mean":
        return {}
    return {task: {"mean": jnp.zeros((), jnp.float32)} for task in tasks}


def update_means(
    means: Means, losses: Mapping[str, MaskedMean], config: BalancingConfig
) -> dict[str, dict[str, jax.Array]]:
    """Returns m <- momentum m + (1 - momentum) L, L itself at a task's first label.

    An absent task keeps its mean. No gradient passes.
    """
    new = {}
    for task, leaf in means.items():
        old, value = leaf["mean"], jax.lax.stop_gradient(losses[task].value)
        moved = config.momentum * old + (1 - config.momentum) * value
        seen = jnp.where(old > 0, moved, value)
        new[task] = {"mean": jnp.where(losses[task].present, seen, old)}
    return new


def total(
    losses: Mapping[str, MaskedMean],
    balance: Balance,
    config: BalancingConfig,
    means: Means | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss to minimise and the weight each task's loss has in it.

    Args:
      losses: the global masked mean of each task.
      balance: the balancer's parameters.
      config: which balancer.
      means: for running_mean, those with this step's losses in.

    Returns:
      () and {task: ()}.
    """
    regularisers = {task: jnp.zeros(()) for task in losses}
    if config.kind == "fixed":
        weights = {task: jnp.float32(config.weights.get(task, 1.0)) for task in losses}
    elif config.kind == "running_mean":
        weights = _inverse_means(means or {})
    else:
        # Outside the clamp the gradient of s is zero; inside, the identity.
        s = {task: jnp.clip(balance[task]["log_var"], *config.clamp) for task in losses}
        weights = {task: jnp.exp(-s[task]) for task in losses}
        regularisers = {task: _REGULARISERS[config.kind](s[task]) for task in losses}
    terms = [
        jnp.where(loss.present, weights[task] * loss.value + regularisers[task], 0.0)
        for task, loss in losses.items()
    ]
    return jnp.sum(jnp.stack(terms)), weights


_REGULARISERS = {"uncertainty": lambda s: s / 2, "liebel_koerner": jax.nn.softplus}


def _inverse_means(means: Means) -> dict[str, jax.Array]:
    """Returns T (1/m) / sum (1/m), over the tasks seen so far; 0 for the others."""
    inverse = {
        task: jnp.where(leaf["mean"] > 0, 1 / jnp.maximum(leaf["mean"], 1e-8), 0.0)
        for task, leaf in means.items()
    }
    whole = jnp.maximum(sum(inverse.values()), 1e-8)
    seen = sum((value > 0).astype(jnp.float32) for value in inverse.values())
    return {task: seen * value / whole for task, value in inverse.items()}
