"""The optimizer of the trainable tree: one peak rate per parameter group, one schedule, an average."""

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from softbio_jax.adapters.methods import GROUPS
from softbio_jax.errors import UserError, nearest
from softbio_jax.params import Tree, flatten, unflatten
from softbio_jax.runs.config import OptimizerConfig, RunConfig
from softbio_jax.runs.state import TrainState

# Leaves that shrink under weight decay; the rest are biases, norms, magnitudes, probes, log-variances.
_DECAYED = ("kernel", "lora_a", "lora_b")
# Optimizer states in checkpoints hold this group under its name before 0.2.
_STORED = {"log_var": "log_sigma"}
LBFGS = "optimizer=lbfgs"  # the argument of configs/finetune.py
Number = float | jax.Array
EffectiveRates = Callable[[optax.OptState, jax.Array], dict[str, jax.Array]]
Mask = Callable[[Tree], Tree]  # parameters -> whether each leaf is decayed


def schedule(peak: Number, config: OptimizerConfig, *, steps: int) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up from 0 to peak, then what `config.schedule` names.

    With W warm-up steps of S in all the rate is peak t / W up to W. Then, with u = (t - W) / (S - W), it
    is peak (1 + cos(pi u)) / 2 (cosine), peak (1 - u) (linear), peak (1 - u)^power (polynomial),
    peak sqrt(W / t) (inverse_sqrt; Vaswani et al. 2017, arXiv:1706.03762), or peak (constant). "plateau" is
    constant here; the loop lowers its rate scale when validation stalls.

    Args:
      peak: the highest rate.
      config: its schedule and W are read.
      steps: S.

    Raises:
      UserError: a warm-up as long as the run, or longer.
    """
    warmup = config.warmup_steps
    if warmup >= steps:
        raise UserError(
            "warm-up longer than the run",
            where="optimizer.warmup_steps",
            expected=f"fewer than train.steps = {steps}",
            found=str(warmup),
            fix="shorten it",
        )
    length = steps - warmup

    def left(count: Any) -> Any:
        # 1 - u as a quotient, and 1 + cos(pi u) as 2 sin^2: differences lose float32's digits at the end.
        return jnp.maximum(length - count, 0) / length

    after: optax.Schedule
    if config.schedule == "cosine":

        def after(count: Any) -> Any:
            return peak * jnp.sin(math.pi / 2 * left(count)) ** 2

    elif config.schedule in ("linear", "polynomial"):
        power = 1.0 if config.schedule == "linear" else config.power

        def after(count: Any) -> Any:
            return peak * left(count) ** power

    elif config.schedule == "inverse_sqrt":

        def after(count: Any) -> Any:
            return peak * jnp.sqrt(warmup / (warmup + count))

    else:
        after = optax.constant_schedule(peak)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), after], [warmup])


def make(
    config: OptimizerConfig,
    groups: Mapping[str, str],
    *,
    steps: int,
    rates: Mapping[str, Number] | None = None,
    weight_decay: Number | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns global-norm clipping, then `config.name` per group, then `average`, for the trainable tree.

    That of lbfgs changes nothing and has no state: its run solves the heads itself. The update takes
    `rate_scale`, which multiplies every group's rate but lowers none below `config.least_rate`, as torch's
    ReduceLROnPlateau does.

    Args:
      config: rates, decay, clipping.
      groups: trainable path -> group.
      steps: length of the schedule.
      rates: replace the configuration's; they may be traced, which no configuration's value is.
      weight_decay: replaces the configuration's, likewise.

    Raises:
      UserError: a group without a rate, or a rate without a group.
    """
    if config.name == "lbfgs":
        return optax.with_extra_args_support(optax.identity())
    rates = config.rates if rates is None else rates
    weight_decay = config.weight_decay if weight_decay is None else weight_decay
    wanted = set(groups.values())
    if missing := sorted(wanted - set(rates)):
        misspelt = difflib.get_close_matches(missing[0], set(rates) - wanted, n=1)
        raise UserError(
            "parameter group without a learning rate",
            where="optimizer.rates",
            expected=f"a rate for {', '.join(sorted(wanted))}",
            found=f"none for {missing[0]}",
            fix=f"rename {misspelt[0]!r}" if misspelt else "add it",
        )
    if unknown := sorted(set(rates) - wanted - set(GROUPS)):
        raise UserError(
            "learning rate of no parameter group",
            where=f"optimizer.rates.{unknown[0]}",
            expected=f"one of {', '.join(sorted(wanted))}",
            found=unknown[0],
            fix=nearest(unknown[0], GROUPS, otherwise="remove it"),
        )

    def mask(params: Tree) -> Tree:
        # Leaves of the other groups are placeholders here, so their mask has no effect.
        return unflatten({path: path.rsplit("/", 1)[-1] in _DECAYED for path in flatten(params)})

    def of_group(group: str) -> optax.GradientTransformation:
        peak = rates[group]
        rate = schedule(peak, config, steps=steps)
        inner = _named(config, rate, weight_decay, None if config.decay_all else mask)
        return _lowered(inner, least=_least(config, peak))

    labels = unflatten({path: _STORED.get(group, group) for path, group in groups.items()})
    transforms = {_STORED.get(group, group): of_group(group) for group in sorted(wanted)}
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    averages = [average(config.ema_decay)] if config.ema_decay else []
    return optax.chain(*clip, optax.partition(transforms, labels), *averages)


def effective_rates(config: OptimizerConfig, groups: Collection[str], *, steps: int) -> EffectiveRates:
    """Returns (optimizer state, rate scale) -> {group: the rate of the next update}, computed on the device.

    The schedule is read at the state's own count, which skipped steps do not advance.

    Args:
      config: rates and schedule.
      groups: the trained groups.
      steps: length of the schedule.
    """
    schedules = {group: schedule(config.rates[group], config, steps=steps) for group in sorted(groups)}

    def rates(opt_state: optax.OptState, rate_scale: jax.Array) -> dict[str, jax.Array]:
        kind = optax.ScaleByScheduleState
        states = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
        count = next(state.count for state in states if isinstance(state, kind))
        return {
            group: rate(count) * _scale(rate_scale, _least(config, config.rates[group]))
            for group, rate in schedules.items()
        }

    return rates


def check_lbfgs(config: RunConfig, groups: Mapping[str, str]) -> None:
    """Checks that a run of lbfgs has a minimum that its steps and losses describe.

    Args:
      config: a run; those of other optimizers pass.
      groups: trainable path -> group.

    Raises:
      UserError: anything else than linear heads on cached features, solved in one step from unweighted
        losses of every training row once.
    """
    if config.optimizer.name != "lbfgs":
        return
    others = sorted({group for path, group in groups.items() if not path.startswith("heads/")})
    head, balancing, train = config.model.head, config.balancing, config.train
    labels = config.data.labels
    for field, found, expected in (
        ("method.name", others and f"{config.method['name']}, which trains {', '.join(others)}", "lp"),
        ("train.cache_features", not train.cache_features and "False", "True"),
        ("train.steps", train.steps != 1 and f"{train.steps}", "1"),
        ("model.head.kind", head.kind != "linear" and head.kind, "linear"),
        ("model.head.age", head.age != "classes" and head.age, "classes"),
        ("model.head.dropout", head.dropout and f"{head.dropout:g}", "0.0"),
        ("balancing.kind", balancing.kind != "fixed" and balancing.kind, "fixed"),
        ("balancing.weights", balancing.weights and f"{dict(balancing.weights)}", "{}"),
        ("data.labels.partial", labels.partial and f"{', '.join(labels.partial)}", "()"),
        ("data.labels.noise", labels.noise and ", ".join(labels.noise), "{}"),
        ("data.labels.smoothing", labels.smoothing and f"{labels.smoothing:g}", "0.0"),
        ("data.sampler.name", (name := config.data.sampler["name"]) != "natural" and name, "natural"),
    ):
        if found:
            raise UserError(
                "lbfgs solves linear heads on cached features only",
                where=field,
                expected=expected,
                found=found,
                fix=f"set it, as configs/finetune.py:method=lp,{LBFGS} does, or use adamw",
            )


def check_has_steps(config: OptimizerConfig) -> None:
    """Raises UserError for lbfgs, whose runs have no train step to be compiled or swept over."""
    if config.name == "lbfgs":
        raise UserError(
            "a run without a train step",
            where="optimizer.name",
            expected="an optimizer with a learning rate, such as adamw",
            found="lbfgs, which solves the heads on cached features",
            fix="leave optimizer=lbfgs out of --config, or train it without planning or sweeping",
        )


class Average(NamedTuple):
    """The state of `average`."""

    updates: jax.Array  # () int32, so far
    average: Tree  # float32, sharded like the trained leaves


def average(decay: float) -> optax.GradientTransformationExtraArgs:
    """Returns the last transformation of a chain, which keeps a moving average of the parameters.

    After update t (from 1), average = d average + (1 - d) parameters with d = min(decay, (1 + t) / (10 + t)),
    from the first parameters on; updates are not changed. With d that small at the start the average soon
    forgets where it began, as tf.train.ExponentialMovingAverage with num_updates. The bias correction of
    optax.ema would count updates of leaves that a step holds, such as those of absent tasks.

    Source: Polyak and Juditsky 1992, doi:10.1137/0330046.
    """

    def init(params: optax.Params) -> Average:
        return Average(
            jnp.zeros((), jnp.int32), jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), params)
        )

    def update(
        updates: optax.Updates, state: Average, params: optax.Params | None = None, **unused: object
    ) -> tuple[optax.Updates, Average]:
        del unused
        t = state.updates + 1
        rest = 1 - jnp.minimum(decay, (1 + t) / (10 + t))
        moved = optax.apply_updates(params, updates)
        return updates, Average(t, optax.incremental_update(moved, state.average, rest))

    return optax.GradientTransformationExtraArgs(init, update)


def evaluated(state: TrainState) -> Tree:
    """Returns the leaves that validation, evaluation and exports use: the average, where the run has one."""
    last = state.opt_state[-1] if isinstance(state.opt_state, tuple) and state.opt_state else None
    return last.average if isinstance(last, Average) else state.trainable


def _named(
    config: OptimizerConfig, rate: optax.Schedule, weight_decay: Number, mask: Mask | None
) -> optax.GradientTransformation:
    """Returns the optimizer of a name; its weight decay, times the rate, is decoupled from the gradient.

    adafactor is Shazeer and Stern 2018, arXiv:1804.04235, without the scaling by the parameters, as
    adapters that begin at zero would not move.
    """
    b1, b2, eps = (value or 0.0 for value in (config.b1, config.b2, config.eps))  # None: not read
    decay = optax.add_decayed_weights(weight_decay, mask)
    if config.name == "adamw":
        return optax.chain(_scale_by_adam(b1, b2, eps), decay, optax.scale_by_learning_rate(rate))
    if config.name == "adam":
        return optax.chain(_scale_by_adam(b1, b2, eps), optax.scale_by_learning_rate(rate))
    if config.name == "lion":
        return optax.lion(rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=mask)
    if config.name == "lamb":
        return optax.lamb(rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask)
    if config.name == "sgd":
        first = [optax.trace(decay=config.momentum)] if config.momentum else []
    else:
        first = [optax.scale_by_factored_rms(epsilon=eps), optax.clip_by_block_rms(1.0)]
    return optax.chain(*first, decay, optax.scale_by_learning_rate(rate))


def _scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Returns optax.scale_by_adam with its bias corrections 1 - b^t to float32's precision, as PyTorch's.

    optax takes the power of a rounded b, and 1 - b2^t is 1.3e-5 off: its own state, so checkpoints fit.
    """

    def update(
        gradient: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(gradient, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(gradient, state.nu, b2, 2)

        def corrected(moment: jax.Array, b: float) -> jax.Array:
            return moment / -jnp.expm1(count * math.log(b)).astype(moment.dtype) if b else moment

        updates = jax.tree.map(lambda m, v: corrected(m, b1) / (jnp.sqrt(corrected(v, b2)) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2, eps).init, update)


def _least(config: OptimizerConfig, peak: Number) -> Number:
    """Returns the share of its scheduled rate below which a plateau does not lower a group."""
    return jnp.minimum(config.least_rate / peak, 1.0) if config.least_rate else 0.0


def _scale(rate_scale: Number, least: Number) -> jax.Array:
    return jnp.maximum(rate_scale, least)


def _lowered(inner: optax.GradientTransformation, *, least: Number) -> optax.GradientTransformationExtraArgs:
    """Returns `inner` with updates scaled by max(rate_scale, least)."""

    def update(
        gradient: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        rate_scale: jax.Array | float = 1.0,
        **unused: object,
    ) -> tuple[optax.Updates, optax.OptState]:
        del unused
        updates, state = inner.update(gradient, state, params)
        scale = _scale(rate_scale, least)
        return jax.tree.map(lambda u: u * scale, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)
