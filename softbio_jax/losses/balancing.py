"""Balancing task losses: the weighted sum over the tasks that have labels.

A task without labels in the global batch contributes nothing, not even its regulariser: with it,
the task's log-variance would drift to a wrong fixed point.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Annotated, Any, cast

import jax
import jax.numpy as jnp

from softbio_jax.errors import UserError, nearest
from softbio_jax.losses.masked import MaskedMean
from softbio_jax.ranges import Ordered, Range, check_fields, checked, hints
from softbio_jax.registry import Registry

BALANCERS = Registry[type["Balancer"]]("balancer", where="balancing.kind", group="softbio_jax.balancers")
Losses = Mapping[str, MaskedMean]  # by task
Leaves = Mapping[str, jax.Array]  # {name: ()}, of one task
PerTask = Mapping[str, Leaves]
Values = dict[str, jax.Array]  # {task: ()}
Weight = Annotated[float, Range(0, 1e9)]
Clamp = Annotated[tuple[Annotated[float, Range(-80, 80)], Annotated[float, Range(-80, 80)]], Ordered()]
Option = Annotated[float, Range(-1e9, 1e9)]
Momentum = Annotated[float, Range(0, 1, below=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balancer:
    """total = sum_t w_t L_t + regulariser_t, over the tasks present in the global batch.

    A subclass overrides what it needs; its fields are its arguments in the config. Learned values
    are trained with the model, in the group log_var. Running values are part of the run's
    statistics and receive no gradient.
    """

    def init(self) -> Leaves:
        """Returns a task's learned values before the first step."""
        return {}

    def init_running(self) -> Leaves:
        """Returns a task's running values before its first label."""
        return {}

    def update(self, running: Leaves, loss: jax.Array) -> Leaves:
        """Returns a task's running values after one more loss (), which has no gradient."""
        del loss
        return running

    def weigh(self, losses: Losses, learned: PerTask, running: PerTask) -> tuple[Values, Values]:
        """Returns w, and the regularisers of the tasks that have one: {task: ()} each.

        Args:
          losses: global masked mean per task; the weight of an absent task is not used.
          learned: learned values per task.
          running: running values per task, updated with these losses.
        """
        raise NotImplementedError


@BALANCERS.register("uncertainty")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Uncertainty(Balancer):
    """exp(-s) L + s/2, that is L/sigma^2 + log sigma with s = log sigma^2, which starts at 0.

    Source: Kendall et al. 2018, arXiv:1705.07115, for classification.
    """

    clamp: Clamp  # of s; keeps sigma from collapsing once a loss nears zero

    def init(self) -> Leaves:
        return {"log_var": jnp.zeros((), jnp.float32)}

    def weigh(self, losses: Losses, learned: PerTask, running: PerTask) -> tuple[Values, Values]:
        # Outside the clamp the gradient of s is zero; inside, the identity.
        s = {task: jnp.clip(learned[task]["log_var"], *self.clamp) for task in losses}
        weights = {task: jnp.exp(-s[task]) for task in losses}
        return weights, {task: self.regulariser(s[task]) for task in losses}

    def regulariser(self, s: jax.Array) -> jax.Array:
        """Returns s/2."""
        return s / 2


@BALANCERS.register("liebel_koerner")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LiebelKoerner(Uncertainty):
    """exp(-s) L + log(1 + exp(s)), never negative.

    Source: Liebel and Koerner 2018, arXiv:1805.06334, without the factor 1/2 on L.
    """

    def regulariser(self, s: jax.Array) -> jax.Array:
        """Returns log(1 + exp(s))."""
        return jax.nn.softplus(s)


@BALANCERS.register("running_mean")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RunningMean(Balancer):
    """w_t = n (1/m_t) / sum_u (1/m_u) over the n tasks seen so far; m is the running mean of L.

    m <- momentum m + (1 - momentum) L, and L itself at a task's first label.
    """

    momentum: Momentum

    def init_running(self) -> Leaves:
        return {"mean": jnp.zeros((), jnp.float32)}

    def update(self, running: Leaves, loss: jax.Array) -> Leaves:
        old = running["mean"]
        moved = self.momentum * old + (1 - self.momentum) * loss
        return {"mean": jnp.where(old > 0, moved, loss)}

    def weigh(self, losses: Losses, learned: PerTask, running: PerTask) -> tuple[Values, Values]:
        inverse = {
            task: jnp.where(leaf["mean"] > 0, 1 / jnp.maximum(leaf["mean"], 1e-8), 0.0)
            for task, leaf in running.items()
        }
        whole = jnp.maximum(sum(inverse.values()), 1e-8)
        seen = sum((value > 0).astype(jnp.float32) for value in inverse.values())
        return {task: seen * value / whole for task, value in inverse.items()}, {}


@BALANCERS.register("fixed")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed(Balancer):
    """The given w_t, 1 by default."""

    weights: Mapping[str, Weight]

    def weigh(self, losses: Losses, learned: PerTask, running: PerTask) -> tuple[Values, Values]:
        return {task: jnp.float32(self.weights.get(task, 1.0)) for task in losses}, {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancingConfig:
    """How task losses are summed: a kind of `BALANCERS` and its arguments."""

    kind: str = "uncertainty"  # how task losses are summed, see docs/running.md
    weights: Mapping[str, Weight] = dataclasses.field(default_factory=dict)  # task -> weight, of fixed
    clamp: Clamp = (-4.0, 4.0)  # range of learned log-variances
    momentum: Momentum = 0.95  # per step, of a running mean of losses
    # further arguments of a registered kind
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "balancing")
        balancer(self)


def balancer(config: BalancingConfig) -> Balancer:
    """Returns the configured balancer.

    Raises:
      UserError: an unknown kind, or an option that it does not have.
    """
    kind = BALANCERS[config.kind]
    taken = {field.name for field in dataclasses.fields(kind)}
    shared = {name: getattr(config, name) for name in taken & {"weights", "clamp", "momentum"}}
    own = sorted(taken - shared.keys())
    if unknown := sorted(config.options.keys() - set(own)):
        raise UserError(
            "unknown option of a balancer",
            where=f"balancing.options.{unknown[0]}",
            expected=f"one of {', '.join(own)}" if own else "none",
            found=unknown[0],
            fix=nearest(unknown[0], own, otherwise="leave it out"),
        )
    needed = {f.name for f in dataclasses.fields(kind) if _is_required(f)}
    if missing := sorted(needed - shared.keys() - config.options.keys()):
        where, fix = f"balancing.options.{missing[0]}", "set it in the config file"
        raise UserError("missing option of a balancer", where=where, fix=fix)
    for name, value in config.options.items():
        checked(hints(cast(Hashable, kind))[name], value, f"balancing.options.{name}")
    return kind(**shared, **config.options)


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def init(tasks: Sequence[str], config: BalancingConfig) -> dict[str, Values]:
    """Returns the learned values per task before the first step, of tasks that have any."""
    return _per_task(tasks, balancer(config).init)


def init_means(tasks: Sequence[str], config: BalancingConfig) -> dict[str, Values]:
    """Returns the running values per task before the first step, of tasks that have any."""
    return _per_task(tasks, balancer(config).init_running)


def _per_task(tasks: Sequence[str], make: Callable[[], Leaves]) -> dict[str, Values]:
    return {task: leaves for task in tasks if (leaves := dict(make()))}


def update_means(means: PerTask, losses: Losses, config: BalancingConfig) -> dict[str, Values]:
    """Returns the running values updated with this step's losses, without gradient.

    Those of absent tasks stay.
    """
    update, new = balancer(config).update, {}
    for task, old in means.items():
        moved = update(old, jax.lax.stop_gradient(losses[task].value))
        new[task] = {name: jnp.where(losses[task].present, moved[name], old[name]) for name in old}
    return new


def total(
    losses: Losses, balance: PerTask, config: BalancingConfig, means: PerTask | None = None
) -> tuple[jax.Array, Values]:
    """Returns the loss to minimise () and the weight of each task's loss in it, {task: ()}.

    Args:
      losses: global masked mean per task.
      balance: the balancer's learned values.
      config: the balancer.
      means: its running values, updated with these losses.
    """
    weights, regularisers = balancer(config).weigh(losses, balance, means or {})
    terms = [
        jnp.where(loss.present, weights[task] * loss.value + regularisers.get(task, 0.0), 0.0)
        for task, loss in losses.items()
    ]
    return jnp.sum(jnp.stack(terms)), {task: weights[task] for task in losses}
