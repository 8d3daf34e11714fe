"""The dense layer every projection of the towers is made of, adapted or plain."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from softbio_jax.adapters import math
from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules, LoRAConfig
from softbio_jax.errors import UserError

# PEFT's kaiming_uniform(a=sqrt(5)) on A, that is U(-1/sqrt(in), 1/sqrt(in)).
_init_a = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class AdaptedDense(nn.Module):
    """y = x W + b, with a LoRA or DoRA update where a rule matches the layer's path.

    LoRA: y = x W + b + s (drop(x) A) B.
    DoRA: y = x W + b + (g - 1) drop(x) W + g s (drop(x) A) B with g = m / ||W + s A B||, which
    without dropout is g (x W + s (x A) B) + b; dropout as PEFT has it.

    Parameters: kernel (in, features), bias (features,), and where adapted lora_a (in, R),
    lora_b (R, features), with DoRA dora_magnitude (features,) and the constant dora_base_norm
    (features,), all float32.
    """

    features: int
    adapters: AdapterRules = NO_ADAPTERS
    dtype: str = "float32"
    train: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, w, offset = (t.astype(self.dtype) for t in (x, kernel, bias))
        config = self.adapters.match("/".join(self.path))
        if config is None:
            return x @ w + offset
        self._check(config, shape)
        a = self.param("lora_a", _init_a, (shape[0], config.rank), jnp.float32)
        b = self.param("lora_b", nn.initializers.zeros, (config.rank, shape[1]), jnp.float32)
        drops = self.train and config.dropout > 0
        z = nn.Dropout(config.dropout, deterministic=not drops)(x)
        base = x @ w
        low = math.low_rank(z, a.astype(self.dtype), b.astype(self.dtype), config.scale)
        if not config.dora:
            return base + low + offset
        norm = self.param("dora_base_norm", lambda _: math.column_norm(kernel))
        magnitude = self.param("dora_magnitude", lambda _: math.column_norm(kernel))
        gain = math.dora_gain(kernel, norm, a, b, magnitude, config.scale).astype(self.dtype)
        # Corrections are added to x W, so that a fresh adapter leaves it bit for bit.
        return base + ((gain - 1) * (z @ w if drops else base) + gain * low) + offset

    def _check(self, config: LoRAConfig, shape: tuple[int, int]) -> None:
        if config.rank > min(shape):
            raise UserError(
                "LoRA rank larger than the matrix", where="/".join(self.path),
                expected=f"at most {min(shape)}", found=str(config.rank), fix="lower lora.rank",
            )  # fmt: skip
