"""The vision encoder of every family: images to tokens, as its `VisionConfig` declares."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules
from softbio_jax.models import positions
from softbio_jax.models.blocks import Block, merged, slices, stack
from softbio_jax.models.config import ComputeConfig, VisionConfig
from softbio_jax.models.elementwise import LayerNorm
from softbio_jax.models.task_block import TaskBlock, fork


class PatchEmbedding(nn.Module):
    """A P x P convolution of stride P, written as a matmul over patches."""

    patch_size: int
    width: int
    bias: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        size = self.patch_size
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (size, size, 3, self.width), jnp.float32
        )
        batch, height, width, _ = images.shape
        rows, columns = height // size, width // size
        patches = images[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, 3)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)
        x = patches @ kernel.reshape(-1, self.width).astype(images.dtype)
        if not self.bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        return x + bias.astype(x.dtype)[None, None]


def _normalised(images: jax.Array, config: VisionConfig) -> jax.Array:
    """Returns (v - mean) / std of pixels v in [0, 1], given as 2 v - 1; in float32."""
    if config.centred:
        return images
    mean, std = (jnp.array(values, jnp.float32)[None, None, None] for values in (config.mean, config.std))
    return images.astype(jnp.float32) * (0.5 / std) + (0.5 - mean) / std


# The block where the tasks part, by `TaskRules.base_input`.
_PARTING = {"shared": TaskBlock, "task": Block}


class Encoder(nn.Module):
    """Maps images to tokens: patches, positions, registers, trunk, tail, final norm.

    The trunk holds the first L - tail blocks, the tail the last ones, which a method treats
    separately; either may be empty. With per-task adapters the tail is the block where the tasks
    part, and the tokens have a leading task axis.
    """

    config: VisionConfig
    compute: ComputeConfig = ComputeConfig()
    adapters: AdapterRules = NO_ADAPTERS
    tail: int = 0

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        rows: jax.Array | None = None,
        capture: bool = False,
        norm: bool = True,
        after: tuple[int, ...] | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the tokens and, with capture, the intermediate states.

        Args:
          images: (B, H, W, 3) in [-1, 1]; H and W at least a patch, rounded down to patches.
          rows: (B,) int32, turns the adapters' dropout on, see `AdaptedDense`.
          capture: also return patches, positions, pre and blocks (L, B, N, D), without the
            block where tasks part.
          norm: whether the final norm is applied.
          after: return the tokens after these blocks, in [-L, L); needs capture.

        Returns:
          (B, N, D), (T, B, N, D) with per-task adapters, or (len(after), B, N, D); and a dict of
          states.
        """
        c, dtype = self.config, jnp.dtype(self.compute.dtype)
        size = c.patch_size
        grid = (images.shape[1] // size, images.shape[2] // size)
        embed = PatchEmbedding(size, c.width, c.patch_bias, name="patch_embed")
        x = embed(_normalised(images, c).astype(dtype))
        states = {"patches": x}
        init = nn.initializers.normal(c.width**-0.5)
        if c.class_token:
            token = self.param("class_embedding", init, (c.width,), jnp.float32)
            token = jnp.broadcast_to(token.astype(dtype), (x.shape[0], 1, c.width))
            x = jnp.concatenate([token, x], axis=1)
        if c.position_embedding:
            shape = (c.tokens - c.register_tokens, c.width)
            table = self.param("positional_embedding", init, shape, jnp.float32)
            table = positions.resample(
                table, stored=c.grid, grid=grid, class_token=c.class_token, method=c.resample
            )
            x = x + table.astype(dtype)[None]
        if c.register_tokens:
            registers = self.param("register_tokens", init, (c.register_tokens, c.width), jnp.float32)
            registers = jnp.broadcast_to(registers.astype(dtype), (x.shape[0], *registers.shape))
            token, patches = jnp.split(x, [int(c.class_token)], axis=1)
            x = jnp.concatenate([token, registers, patches], axis=1)
        states["positions"] = x
        if c.ln_pre:
            x = LayerNorm(c.norm_eps, name="ln_pre")(x).astype(dtype)
        states["pre"] = x

        rotation = positions.rotation(c, grid)
        make = functools.partial(_block, config=c, compute=self.compute, adapters=self.adapters)
        outputs = []
        # Only in training: without a backward pass nothing is kept.
        parts = (x,) if rows is None else slices(x, self.compute)
        part_rows = None if rows is None else slices(rows, self.compute)
        axis = 0
        for name, layers in (("trunk", c.layers - self.tail), ("tail", self.tail)):
            if layers and name == "tail" and self.adapters.per_task is not None:
                parting = functools.partial(make, kind=_PARTING[self.adapters.per_task.base_input])
                _, streams = fork(parting, name=name, compute=self.compute)(None, parts, rotation, part_rows)
                parts, axis = tuple(stream[0] for stream in streams), 1
            elif layers:
                run = stack(make, layers=layers, name=name, compute=self.compute, capture=capture)
                parts, output = run(parts, rotation, part_rows)
                outputs.append(output)
        x = merged(parts, axis=axis)
        if capture:
            states["blocks"] = jnp.concatenate(outputs)
        if after is not None:
            x = states["blocks"][jnp.array(after)]
        if c.ln_post and norm:
            x = LayerNorm(c.norm_eps, name="ln_post")(x).astype(dtype)
        return x, (states if capture else {})


def _block(
    name: str, *, config: VisionConfig, compute: ComputeConfig, adapters: AdapterRules, kind: Any = Block
) -> Any:
    own = {"activation": config.activation, "norm_eps": config.norm_eps, "key_bias": config.key_bias}
    return kind(config.heads, config.mlp_width, config.layer_scale, compute, adapters, name=name, **own)
