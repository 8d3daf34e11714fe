"""Balancing task losses: the weighted sum of the present tasks.

A task absent from the global batch drops out whole, its regulariser included: were the
regulariser kept, its log-variance would drift to a wrong fixed point.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from softbio_jax.errors import UserError, nearest
from softbio_jax.losses.balancer import Balancer, Leaves
from softbio_jax.losses.balancers import BALANCERS
from softbio_jax.losses.masked import MaskedMean

Balance = Mapping[str, Mapping[str, jax.Array]]  # {task: {name: ()}}, learned
Means = Mapping[str, Mapping[str, jax.Array]]  # {task: {name: ()}}, running


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancingConfig:
    """How task losses are summed: a kind of `losses.balancers`, and what it takes."""

    kind: str = "uncertainty"
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)  # of fixed
    clamp: tuple[float, float] = (-4.0, 4.0)  # of learned log-variances
    momentum: float = 0.95  # of a running mean
    options: Mapping[str, float] = dataclasses.field(default_factory=dict)  # a kind's further ones

    def __post_init__(self) -> None:
        balancer(self)


def balancer(config: BalancingConfig) -> Balancer:
    """Returns the balancer that config names, with its arguments.

    Raises:
      UserError: no such kind, or an option that it does not take.
    """
    if config.kind not in BALANCERS:
        raise UserError("unknown balancer", where="balancing.kind",
                        expected=f"one of {', '.join(BALANCERS)}", found=repr(config.kind),
                        fix=nearest(config.kind, BALANCERS, otherwise="take one of them"),
                        )  # fmt: skip
    kind = BALANCERS[config.kind]
    taken = {field.name for field in dataclasses.fields(kind)}
    shared = {name: getattr(config, name) for name in taken & {"weights", "clamp", "momentum"}}
    own = sorted(taken - shared.keys())
    if unknown := sorted(config.options.keys() - set(own)):
        raise UserError("unknown option of a balancer", where=f"balancing.options.{unknown[0]}",
                        expected=f"one of {', '.join(own)}" if own else "none",
                        found=unknown[0],
                        fix=nearest(unknown[0], own, otherwise="leave it out"))  # fmt: skip
    return kind(**shared, **config.options)


def init(tasks: Sequence[str], config: BalancingConfig) -> dict[str, dict[str, jax.Array]]:
    """Returns what the balancer learns, before the first step; empty where it learns nothing."""
    return _each(tasks, balancer(config).init)


def init_means(tasks: Sequence[str], config: BalancingConfig) -> dict[str, dict[str, jax.Array]]:
    """Returns the running values before the first step, where the balancer has any."""
    return _each(tasks, balancer(config).init_running)


def update_means(
    means: Means, losses: Mapping[str, MaskedMean], config: BalancingConfig
) -> dict[str, dict[str, jax.Array]]:
    """Returns the running values with this step's losses in.

    An absent task keeps its own. No gradient passes.
    """
    update, new = balancer(config).update, {}
    for task, old in means.items():
        moved = update(old, jax.lax.stop_gradient(losses[task].value))
        new[task] = {name: jnp.where(losses[task].present, moved[name], old[name]) for name in old}
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
      means: its running values, with this step's losses in.

    Returns:
      () and {task: ()}.
    """
    weights, regularisers = balancer(config).weigh(losses, balance, means or {})
    terms = [
        jnp.where(loss.present, weights[task] * loss.value + regularisers.get(task, 0.0), 0.0)
        for task, loss in losses.items()
    ]
    return jnp.sum(jnp.stack(terms)), {task: weights[task] for task in losses}


def _each(tasks: Sequence[str], make: Callable[[], Leaves]) -> dict[str, dict[str, jax.Array]]:
    return {task: leaves for task in tasks if (leaves := dict(make()))}
