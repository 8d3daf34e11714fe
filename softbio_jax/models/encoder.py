"""The Perception Encoder's vision encoder: images to tokens."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules
from softbio_jax.models import positions
from softbio_jax.models.blocks import Block, stack
from softbio_jax.models.config import ComputeConfig, VisionConfig
from softbio_jax.models.norm import LayerNorm
from softbio_jax.models.task_block import TaskBlock, fork


class PatchEmbedding(nn.Module):
    """A P x P convolution of stride P, written as a matmul over patches; no bias."""

    patch_size: int
    width: int

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
        return patches @ kernel.reshape(-1, self.width).astype(images.dtype)


# The block where the tasks part, by `TaskRules.base_input`.
_PARTING = {"shared": TaskBlock, "task": Block}


class Encoder(nn.Module):
    """Maps images to tokens: patches, positions, trunk, tail, final norm.

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
        x = PatchEmbedding(size, c.width, name="patch_embed")(images.astype(dtype))
        states = {"patches": x}
        init = nn.initializers.normal(c.width**-0.5)
        if c.class_token:
            token = self.param("class_embedding", init, (c.width,), jnp.float32)
            token = jnp.broadcast_to(token.astype(dtype), (x.shape[0], 1, c.width))
            x = jnp.concatenate([token, x], axis=1)
        table = self.param("positional_embedding", init, (c.tokens, c.width), jnp.float32)
        table = positions.resample(
            table, stored=c.grid, grid=grid, class_token=c.class_token, method=c.resample
        )
        x = x + table.astype(dtype)[None]
        states["positions"] = x
        x = LayerNorm(name="ln_pre")(x).astype(dtype)
        states["pre"] = x

        turn = positions.angles(
            grid, c.head_dim, class_token=c.class_token, rescale_to=c.grid if c.resample == "timm" else None
        )
        rotation = (jnp.cos(turn), jnp.sin(turn))
        make = functools.partial(_block, config=c, compute=self.compute, adapters=self.adapters)
        outputs = []
        for name, layers in (("trunk", c.layers - self.tail), ("tail", self.tail)):
            if layers and name == "tail" and self.adapters.per_task is not None:
                parting = functools.partial(make, kind=_PARTING[self.adapters.per_task.base_input])
                _, streams = fork(parting, name=name, compute=self.compute)(None, x, rotation, rows)
                x = streams[0]
            elif layers:
                run = stack(make, layers=layers, name=name, compute=self.compute, capture=capture)
                x, output = run(x, rotation, rows)
                outputs.append(output)
        if capture:
            states["blocks"] = jnp.concatenate(outputs)
        if after is not None:
            x = states["blocks"][jnp.array(after)]
        if c.ln_post and norm:
            x = LayerNorm(name="ln_post")(x).astype(dtype)
        return x, (states if capture else {})


def _block(
    name: str, *, config: VisionConfig, compute: ComputeConfig, adapters: AdapterRules, kind: Any = Block
) -> Any:
    return kind(config.heads, config.mlp_width, config.layer_scale, compute, adapters, name=name)
