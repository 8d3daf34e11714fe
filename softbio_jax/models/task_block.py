"""The block where the tasks part: one shared stream in, one stream per task out."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from softbio_jax.adapters.config import AdapterRules
from softbio_jax.adapters.dense import TwoStreamDense
from softbio_jax.models.attention.attend import self_attention
from softbio_jax.models.blocks import ATTENTION, LayerScale, Slices, each_slice, over_layers
from softbio_jax.models.config import Activation, ComputeConfig, gated_width
from softbio_jax.models.elementwise import ACTIVATIONS, LayerNorm
from softbio_jax.models.positions import Rotation

Streams = tuple[jax.Array, jax.Array | None]  # shared (B, N, D), the tasks' (T, B, N, D)


class TaskAttention(nn.Module):
    """Self-attention of the shared stream, and of each task's where q, k, v are per task."""

    heads: int
    compute: ComputeConfig
    adapters: AdapterRules
    key_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, rotation: Rotation | None, rows: jax.Array | None) -> Streams:
        width = x.shape[-1]
        dense: dict[str, Any] = {"adapters": self.adapters, "dtype": self.compute.dtype}
        qkv = TwoStreamDense(3 * width, projections=3, key_bias=self.key_bias, name="qkv", **dense)
        shared, tasks = qkv(x, None, rows)
        shared = self._attend(shared, rotation)
        if tasks is not None:
            tasks = self._attend(tasks, rotation)
        return TwoStreamDense(width, name="out", **dense)(shared, tasks, rows)

    def _attend(self, qkv: jax.Array, rotation: Rotation | None) -> jax.Array:
        out = self_attention(qkv, heads=self.heads, compute=self.compute, rotation=rotation)
        return checkpoint_name(out, ATTENTION)


class TaskMLP(nn.Module):
    """c_proj(activation(c_fc(x))) in both streams."""

    hidden: int
    compute: ComputeConfig
    adapters: AdapterRules
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array, tasks: jax.Array | None, rows: jax.Array | None) -> Streams:
        dense: dict[str, Any] = {"adapters": self.adapters, "dtype": self.compute.dtype}
        outputs, act = gated_width(self.hidden, self.activation), ACTIVATIONS[self.activation]
        hidden, task_hidden = TwoStreamDense(outputs, name="c_fc", **dense)(x, tasks, rows)
        if task_hidden is not None:
            task_hidden = act(task_hidden)
        return TwoStreamDense(x.shape[-1], name="c_proj", **dense)(act(hidden), task_hidden, rows)


class TaskBlock(nn.Module):
    """A pre-norm block that runs once, with a low-rank side branch per task.

    With the shared stream s, each task's t, and every update as in `TwoStreamDense`:
    s = x + attn(ln_1(x)), t = x + attn_t(ln_1(x)); y_t = t + mlp_t(ln_2(s), ln_2(t)). Where all
    layers have a per-task update and none a shared one:
    y_t = Block(x) + s B_o A_o attn_t + s B_2 A_2 gelu(h + s B_1 A_1 ln_2(t)),
    h = c_fc(ln_2(s)), attn_t the attention with q_t, k_t, v_t, and t = s + s B_o A_o attn_t.
    Parameters are those of `Block`, with the adapters beside them.
    """

    heads: int
    mlp_width: int
    layer_scale: float | None
    compute: ComputeConfig
    adapters: AdapterRules
    activation: Activation = "gelu"
    norm_eps: float = 1e-5
    key_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, rotation: Rotation | None, rows: jax.Array | None = None) -> jax.Array:
        """Maps x (B, N, D) to every task's stream (T, B, N, D)."""
        parts: dict[str, Any] = {"compute": self.compute, "adapters": self.adapters}
        attention = TaskAttention(self.heads, key_bias=self.key_bias, name="attn", **parts)
        mlp = TaskMLP(self.mlp_width, activation=self.activation, name="mlp", **parts)
        ln_2 = LayerNorm(self.norm_eps, name="ln_2")

        streams = attention(LayerNorm(self.norm_eps, name="ln_1")(x), rotation, rows)
        first, own = self._scaled("ls_1", streams)
        shared, tasks = x + first.astype(x.dtype), x[None] + own.astype(x.dtype)
        _, update = self._scaled("ls_2", mlp(ln_2(shared), ln_2(tasks), rows))
        return tasks + update.astype(x.dtype)

    def _scaled(self, name: str, streams: Streams) -> tuple[jax.Array, jax.Array]:
        # Every task has an update of its own from the attention's out on.
        assert streams[1] is not None
        if self.layer_scale is None:
            return streams[0], streams[1]
        scale = LayerScale(self.layer_scale, name=name)
        return scale(streams[0]), scale(streams[1])


class _Fork(nn.Module):
    make: Callable[[str], nn.Module]

    @nn.compact
    def __call__(
        self, carry: None, x: Slices, rotation: Rotation | None, rows: Slices | None
    ) -> tuple[None, Slices]:
        block = self.make("block")
        nn.share_scope(self, block)  # no level of its own in the parameter tree
        return carry, each_slice(block, x, rotation, rows)


def fork(make: Callable[[str], nn.Module], *, name: str, compute: ComputeConfig) -> nn.Module:
    """Returns a module that maps (None, x (B, N, D), rotation, rows) to (None, (1, T, B, N, D)), in slices.

    A scan of length 1, so that the parameters have the layer axis of a plain tail; make builds the
    block of the given name.
    """
    return over_layers(_Fork, length=1, inputs=3, compute=compute)(make, name=name)
