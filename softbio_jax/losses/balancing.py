"""Balancing task losses: the weighted sum of the present tasks.

A task absent from the global batch drops out whole, its regulariser included: were the
regulariser kept, its log-variance would drift to a wrong fixed point.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from softbio_jax.errors import UserError, nearest
from softbio_jax.losses.masked import MaskedMean
from softbio_jax.registry import Registry

BALANCERS = Registry[type["Balancer"]]("balancer", where="balancing.kind", group="softbio_jax.balancers")
Leaves = Mapping[str, jax.Array]  # {name: ()}, one task's
Values = dict[str, jax.Array]  # {task: ()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balancer:
    """total = sum_t w_t L_t + regulariser_t, over the tasks present in the global batch.

    A subclass says which `kind` it is and overrides what it has; its fields are its arguments in
    the config. What is learned is trained beside the tower, in the group log_var; what runs
    along is kept with the run's statistics, and no gradient reaches it.
    """

    kind = ""

    def init(self) -> Leaves:
        """Returns what is learned of a task, before the first step."""
        return {}

    def init_running(self) -> Leaves:
        """Returns what runs along with a task's loss, before its first label."""
        return {}

    def update(self, running: Leaves, loss: jax.Array) -> Leaves:
        """Returns a task's running values with one more loss (), which has no gradient."""
        del loss
        return running

    def weigh(
        self, losses: Mapping[str, MaskedMean], learned: Mapping[str, Leaves], running: Mapping[str, Leaves]
    ) -> tuple[Values, Values]:
        """Returns w, and the regularisers of the tasks that have one: {task: ()} each.

        Args:
          losses: the global masked mean of each task; an absent one's weight is not used.
          learned: {task: what `init` began}.
          running: {task: what `update` made of this step's loss}.
        """
        raise NotImplementedError


@BALANCERS.register("uncertainty")
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
        self, losses: Mapping[str, MaskedMean], learned: Mapping[str, Leaves], running: Mapping[str, Leaves]
    ) -> tuple[Values, Values]:
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

    kind = "liebel_koerner"

    def regulariser(self, s: jax.Array) -> jax.Array:
        """Returns log(1 + exp(s))."""
        return jax.nn.softplus(s)


@BALANCERS.register("running_mean")
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
        self, losses: Mapping[str, MaskedMean], learned: Mapping[str, Leaves], running: Mapping[str, Leaves]
    ) -> tuple[Values, Values]:
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
    """w_t as given, 1 where none is."""

    kind = "fixed"
    weights: Mapping[str, float]

    def weigh(
        self, losses: Mapping[str, MaskedMean], learned: Mapping[str, Leaves], running: Mapping[str, Leaves]
    ) -> tuple[Values, Values]:
        return {task: jnp.float32(self.weights.get(task, 1.0)) for task in losses}, {}


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
    losses: Mapping[str, MaskedMean], balance: Balance, config: BalancingConfig, means: Means | None = None
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
