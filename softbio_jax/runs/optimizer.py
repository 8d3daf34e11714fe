"""AdamW over the trainable tree, with one peak rate per parameter group."""

import difflib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from softbio_jax.adapters.methods import GROUPS
from softbio_jax.errors import UserError, nearest
from softbio_jax.params import Tree, flatten, unflatten
from softbio_jax.runs.config import OptimizerConfig

# Leaves that shrink under weight decay; the rest are biases, norms, magnitudes, probes, log-variances.
_DECAYED = ("kernel", "lora_a", "lora_b")
# Optimizer states in checkpoints hold this group under its name before 0.2.
_STORED = {"log_var": "log_sigma"}
Number = float | jax.Array


def schedule(peak: Number, config: OptimizerConfig, *, steps: int) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up from 0 to peak, then cosine to 0 or flat.

    With W warm-up steps of S in all: peak t / W up to W, then peak (1 + cos(pi (t - W) / (S - W)))
    / 2 or peak. "plateau" is flat here; the loop lowers its rate scale when validation stalls.

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
    after = (
        optax.cosine_decay_schedule(peak, steps - warmup)
        if config.schedule == "cosine"
        else optax.constant_schedule(peak)
    )
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), after], [warmup])


def make(
    config: OptimizerConfig,
    groups: Mapping[str, str],
    *,
    steps: int,
    rates: Mapping[str, Number] | None = None,
    weight_decay: Number | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns global-norm clipping, then AdamW per group, for the trainable tree.

    Its update takes `rate_scale`, which multiplies every group's rate but lowers none below
    `config.least_rate`, as torch's ReduceLROnPlateau does.

    Args:
      config: rates, decay, clipping.
      groups: trainable path -> group.
      steps: length of the schedule.
      rates: replace the configuration's; they may be traced, which no configuration's value is.
      weight_decay: replaces the configuration's, likewise.

    Raises:
      UserError: a group without a rate, or a rate without a group.
    """
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

    def adamw(group: str) -> optax.GradientTransformation:
        peak = rates[group]
        inner = optax.adamw(
            schedule(peak, config, steps=steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=weight_decay,
            mask=None if config.decay_all else mask,
        )
        return _lowered(inner, least=config.least_rate / peak if config.least_rate else 0.0)

    labels = unflatten({path: _STORED.get(group, group) for path, group in groups.items()})
    transforms = {_STORED.get(group, group): adamw(group) for group in sorted(wanted)}
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(*clip, optax.partition(transforms, labels))


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
        scale = jnp.maximum(rate_scale, jnp.minimum(least, 1.0))
        return jax.tree.map(lambda u: u * scale, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)
