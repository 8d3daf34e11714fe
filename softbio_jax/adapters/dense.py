"""The dense layer of every projection in the encoders, adapted or plain, and its fresh start."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from softbio_jax.adapters import math
from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules, LoRAConfig
from softbio_jax.adapters.math import Formula, Leaves, column_norm
from softbio_jax.errors import UserError
from softbio_jax.params import Tree, flatten, unflatten

# PEFT's kaiming_uniform(a=sqrt(5)) on A, that is U(-1/sqrt(in), 1/sqrt(in)).
_init_a = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_init_tasks_a = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=-2, out_axis=-1, batch_axis=(0, 1)
)


class TaskLowRank(nn.Module):
    """s (drop(x) A_t) B_t for every task t; lora_a (T, P, in, R), lora_b (T, P, R, features / P).

    P is the number of projections fused in the layer, each with its own A and B.
    """

    config: LoRAConfig
    tasks: int
    features: int
    projections: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, rows: jax.Array | None) -> jax.Array:
        """Maps x (B, N, in), or (T, B, N, in), to (T, B, N, features)."""
        lead, rank = (self.tasks, self.projections), self.config.rank
        a = self.param("lora_a", _init_tasks_a, (*lead, x.shape[-1], rank), jnp.float32)
        b = self.param(
            "lora_b", nn.initializers.zeros, (*lead, rank, self.features // self.projections), jnp.float32
        )
        x = _drop(self, x, self.config, rows)
        return math.task_low_rank(x, a.astype(self.dtype), b.astype(self.dtype), self.config.scale)


class AdaptedDense(nn.Module):
    """y = x W + b, with a LoRA or DoRA update, or another `Formula`, where a rule matches its path.

    LoRA: y = x W + b + s (drop(x) A) B.
    DoRA: y = x W + b + (g - 1) drop(x) W + g s (drop(x) A) B with g = m / ||W + s A B||, which
    without dropout is g (x W + s (x A) B) + b; dropout as in PEFT.
    Where a per-task rule matches: y_t = the above + s (drop(x) A_t) B_t, with a leading axis (T)
    that x (B, N, in) may lack.

    Parameters: kernel (in, features), bias (features,), and where adapted lora_a (in, R),
    lora_b (R, features), with DoRA dora_magnitude (features,) and the constant dora_base_norm
    (features,), and tasks/lora_a, tasks/lora_b of `TaskLowRank`; all float32.
    """

    features: int
    adapters: AdapterRules = NO_ADAPTERS
    dtype: str = "float32"
    projections: int = 1  # side by side in the kernel
    key_bias: bool = True  # False: the second of q, k, v has no bias, whatever the parameter holds
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: jax.Array, rows: jax.Array | None = None) -> jax.Array:
        """Maps x (..., in) to (..., features).

        Args:
          x: (B, N, in), or (T, B, N, in) once the tasks have parted.
          rows: (B,) int32, each example's index in the global batch, which its dropout mask is
            drawn from; None: no dropout.
        """
        x = x.astype(self.dtype)
        kernel, bias = self._plain(x.shape[-1])
        base = math.apart(x, kernel.astype(self.dtype))
        y = self._adapted(x, base, kernel, rows)
        low = self._task_update(x, rows)
        if low is not None:
            y = jax.lax.broadcast_to_rank(y, low.ndim) + low
        return y + jax.lax.broadcast_to_rank(bias.astype(self.dtype), y.ndim)

    def _plain(self, inputs: int) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", self.kernel_init, (inputs, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        if not self.key_bias:
            q, _, v = jnp.split(bias, 3)
            bias = jnp.concatenate([q, jnp.zeros_like(q), v])
        return kernel, bias

    def _adapted(self, x: jax.Array, base: jax.Array, kernel: jax.Array, rows: jax.Array | None) -> jax.Array:
        config = self.adapters.match("/".join(self.path))
        if config is None:
            return checkpoint_name(base, math.PRODUCT)
        if isinstance(config, Formula):
            return config.apply(x, kernel.astype(self.dtype), self._leaves(config, kernel.shape))
        self._check(config, kernel.shape, self.features)
        a = self.param("lora_a", _init_a, (x.shape[-1], config.rank), jnp.float32)
        b = self.param("lora_b", nn.initializers.zeros, (config.rank, self.features), jnp.float32)
        z = _drop(self, x, config, rows)
        low = math.low_rank(z, a.astype(self.dtype), b.astype(self.dtype), config.scale)
        if not config.dora:
            return checkpoint_name(base + low, math.PRODUCT)
        norm = self.param("dora_base_norm", lambda _: math.column_norm(kernel))
        magnitude = self.param("dora_magnitude", lambda _: math.column_norm(kernel))
        gain = math.dora_gain(kernel, norm, a, b, magnitude, config.scale)
        if z is x:
            return math.rescaled(base, low, gain)
        # With dropout, x W is kept and the correction applies to drop(x) W.
        gain = jax.lax.broadcast_to_rank(gain, base.ndim)
        excess, gain = (gain - 1).astype(self.dtype), gain.astype(self.dtype)
        update = excess * math.apart(z, kernel.astype(self.dtype)) + gain * low
        return checkpoint_name(base + update, math.PRODUCT)

    def _leaves(self, formula: Formula, shape: tuple[int, ...]) -> dict[str, jax.Array]:
        def init(key: jax.Array) -> Leaves:
            return formula.init(key, *shape)

        names = jax.eval_shape(init, jax.random.key(0))
        return {name: self.param(name, lambda key, name=name: init(key)[name]) for name in names}

    def _task_update(self, x: jax.Array, rows: jax.Array | None) -> jax.Array | None:
        own, config = self.adapters.per_task, self.adapters.match_task("/".join(self.path))
        if own is None or config is None:
            return None
        self._check(config, (x.shape[-1], self.features), self.features // self.projections)
        return TaskLowRank(config, own.tasks, self.features, self.projections, self.dtype, name="tasks")(
            x, rows
        )

    def _check(self, config: LoRAConfig, shape: tuple[int, ...], outputs: int) -> None:
        if config.rank > (largest := min(shape[0], outputs)):
            raise UserError(
                "LoRA rank larger than the matrix",
                where="/".join(self.path),
                expected=f"at most {largest}",
                found=str(config.rank),
                fix="lower lora.rank",
            )


class TwoStreamDense(AdaptedDense):
    """The adapted layer on the shared stream, with the tasks' low-rank branches beside it.

    y = x W + b + shared update(x); y_t = x W + b + s (drop(x_t) A_t) B_t: the kernel reads only the
    shared stream (MTLoRA's matrix mode, Agiza et al. 2024, arXiv:2403.20320).
    """

    @nn.compact
    def __call__(  # type: ignore[override]
        self, x: jax.Array, task_x: jax.Array | None, rows: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Maps the shared stream and the tasks' to (B, N, features) and (T, B, N, features).

        Args:
          x: the shared stream (B, N, in).
          task_x: the tasks' streams (T, B, N, in); None where they equal the shared one.
          rows: see `AdaptedDense`.

        Returns:
          Both streams, the second None where no per-task rule matches.
        """
        x = x.astype(self.dtype)
        kernel, bias = self._plain(x.shape[-1])
        base = x @ kernel.astype(self.dtype)
        offset = jax.lax.broadcast_to_rank(bias.astype(self.dtype), x.ndim)
        low = self._task_update(x if task_x is None else task_x.astype(self.dtype), rows)
        y = self._adapted(x, base, kernel, rows) + offset
        return y, (None if low is None else checkpoint_name(base[None] + low, math.PRODUCT) + offset[None])


def _drop(module: nn.Module, x: jax.Array, config: LoRAConfig, rows: jax.Array | None) -> jax.Array:
    if rows is None or config.dropout == 0:
        return x
    return math.dropout(x, module.make_rng("dropout"), rows, rate=config.dropout)


def reset_adapters(params: Tree) -> Tree:
    """Returns params with every leaf that is initialised from plain weights initialised again.

    dora_base_norm and dora_magnitude become their kernel's ||W_j||, task_probe the pooling's probe.
    Needed after the plain weights were replaced, as by a checkpoint: a fresh adapter is the identity
    only for the weights it was initialised from.
    """
    flat = flatten(params)
    for path, leaf in list(flat.items()):
        parent, _, name = path.rpartition("/")
        if name in ("dora_base_norm", "dora_magnitude"):
            flat[path] = column_norm(flat[f"{parent}/kernel"])
        elif name == "task_probe":
            flat[path] = jnp.broadcast_to(flat[f"{parent}/probe"], leaf.shape)
    return unflatten(flat)
