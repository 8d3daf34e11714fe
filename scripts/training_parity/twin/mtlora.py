"""MTLoRA on timm's encoder, in plain torch: low-rank updates per task from the last block on.

The scheme is that of Agiza et al. 2024, arXiv:2403.20320: a layer takes the shared stream and a stream per
task, and returns both; a task's stream is the frozen projection plus the task's own update. q, k and v have
updates of their own. With "shared" the frozen projection of the last block reads the shared stream, with
"task" the task's own, as that of the pooling always does.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import apply_rot_embed_cat
from torch import nn
from torch.nn import functional as F

from softbio_jax.models.config import VisionConfig
from training_parity.twin.dropout import GivenTaskDropout
from training_parity.twin.encoder import pooled

Streams = list[torch.Tensor]


class TaskUpdates(nn.Module):
    """s B_tp A_tp drop(x) for every task t and projection p of a layer."""

    def __init__(
        self, layer: nn.Linear, *, tasks: int, parts: int, rank: int, scale: float, rate: float, rounded: bool
    ):
        super().__init__()
        self.scale, self.parts, self.rate = scale, parts, rate
        outputs = layer.out_features // parts
        self.a = _parameters(tasks * parts, rank, layer.in_features)
        self.b = _parameters(tasks * parts, outputs, rank)
        self.dropout = GivenTaskDropout(rate, rounded=rounded)

    def forward(self, task: int, x: torch.Tensor) -> torch.Tensor:
        if self.rate:
            x = self.dropout.of_task(task, x.shape, x)
        own = range(task * self.parts, (task + 1) * self.parts)
        return self.scale * torch.cat([x @ self.a[i].T @ self.b[i].T for i in own], dim=-1)


def _parameters(count: int, *shape: int) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(torch.zeros(*shape)) for _ in range(count))


class TaskLayer(nn.Module):
    """A projection, adapted by peft or not, with updates per task or without.

    Called with (shared, tasks' inputs) it returns both outputs; the tasks' are the projection of the shared
    input, or of their own, plus their updates.
    """

    def __init__(self, layer: nn.Module, updates: TaskUpdates | None):
        super().__init__()
        self.layer, self.updates = layer, updates

    def forward(self, shared: torch.Tensor, tasks: Streams) -> tuple[torch.Tensor, Streams]:
        y = self.layer(shared)
        if self.updates is None:  # the tasks have not parted yet
            return y, [y] * len(tasks)
        frozen = getattr(self.layer, "base_layer", self.layer)(shared)
        return y, [frozen + self.updates(t, x) for t, x in enumerate(tasks)]

    def alone(self, task: int, x: torch.Tensor) -> torch.Tensor:
        """Returns a task's output where the projection reads the task's own input."""
        y = self.layer(x)
        return y if self.updates is None else y + self.updates(task, x)


class TaskBlock(nn.Module):
    """timm's last block with the layers' updates per task; the shared stream in, one per task out."""

    def __init__(self, block: Any, layers: dict[str, TaskLayer], *, tasks: int, prefix: int, shared: bool):
        super().__init__()
        self.block, self.tasks, self.prefix, self.shared = block, tasks, prefix, shared
        self.qkv, self.proj = layers["attn.qkv"], layers["attn.proj"]
        self.fc1, self.fc2 = layers["mlp.fc1"], layers["mlp.fc2"]

    def forward(self, x: torch.Tensor, rope: torch.Tensor | None) -> Streams:
        return self._two_streams(x, rope) if self.shared else self._own_streams(x, rope)

    def _two_streams(self, x: torch.Tensor, rope: torch.Tensor | None) -> Streams:
        block, each = self.block, range(self.tasks)
        normed = block.norm1(x)
        shared, own = self.qkv(normed, [normed] * self.tasks)
        shared, own = self.proj(self._attend(shared, rope), [self._attend(qkv, rope) for qkv in own])
        shared, own = x + self._first(shared), [x + self._first(y) for y in own]
        hidden, own_hidden = self.fc1(block.norm2(shared), [block.norm2(y) for y in own])
        _, update = self.fc2(F.gelu(hidden), [F.gelu(h) for h in own_hidden])
        return [own[t] + self._second(update[t]) for t in each]

    def _own_streams(self, x: torch.Tensor, rope: torch.Tensor | None) -> Streams:
        block, streams = self.block, []
        for task in range(self.tasks):
            attended = self._attend(self.qkv.alone(task, block.norm1(x)), rope)
            y = x + self._first(self.proj.alone(task, attended))
            hidden = F.gelu(self.fc1.alone(task, block.norm2(y)))
            streams.append(y + self._second(self.fc2.alone(task, hidden)))
        return streams

    def _attend(self, qkv: torch.Tensor, rope: torch.Tensor | None) -> torch.Tensor:
        heads = self.block.attn.num_heads
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        if rope is not None:
            q, k = (self._turned(t, rope) for t in (q, k))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def _turned(self, x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
        first, patches = x[:, :, : self.prefix], x[:, :, self.prefix :]
        return torch.cat([first, apply_rot_embed_cat(patches, rope)], dim=2)

    def _first(self, update: torch.Tensor) -> torch.Tensor:
        return self._scaled("ls1", "gamma_1", update)

    def _second(self, update: torch.Tensor) -> torch.Tensor:
        return self._scaled("ls2", "gamma_2", update)

    def _scaled(self, module: str, vector: str, update: torch.Tensor) -> torch.Tensor:
        """Applies LayerScale, which timm's classes hold as a module or as a vector, or not at all."""
        if hasattr(self.block, module):
            return getattr(self.block, module)(update)
        gamma = getattr(self.block, vector, None)
        return update if gamma is None else gamma * update


class TaskPooling(nn.Module):
    """timm's attention pooling of each task's tokens, with the task's probe and updates."""

    def __init__(self, pool: Any, layers: dict[str, TaskLayer], *, tasks: int, probes: bool):
        super().__init__()
        self.heads, self.norm = pool.num_heads, pool.norm
        self.q, self.kv, self.proj = layers["q"], layers["kv"], layers["proj"]
        self.fc1, self.fc2 = layers["mlp.fc1"], layers["mlp.fc2"]
        self.latent = pool.latent
        self.probes = _parameters(tasks, *pool.latent.shape) if probes else None

    def forward(self, task: int, tokens: torch.Tensor) -> torch.Tensor:
        probe = (self.latent if self.probes is None else self.probes[task]).expand(len(tokens), -1, -1)
        q = self.q.alone(task, probe).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv.alone(task, tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.proj.alone(task, x)
        return (x + self.fc2.alone(task, F.gelu(self.fc1.alone(task, self.norm(x)))))[:, 0]


class MTLoRA(nn.Module):
    """timm's encoder, whose last block and pooling are the tasks'."""

    def __init__(self, encoder: Any, config: VisionConfig, parting: TaskBlock, pooling: TaskPooling | None):
        super().__init__()
        self.encoder, self.config, self.parting, self.pooling = encoder, config, parting, pooling

    def forward(self, pixels: torch.Tensor) -> Sequence[torch.Tensor]:
        """Maps (B, 3, S, S) to each task's feature (B, D)."""
        encoder = self.encoder
        placed = encoder._pos_embed(encoder.patch_embed(pixels))
        x, rope = placed if isinstance(placed, tuple) else (placed, None)
        x = encoder.norm_pre(x)
        for block in encoder.blocks[:-1]:
            x = block(x) if rope is None else block(x, rope=rope)
        streams = [encoder.norm(stream) for stream in self.parting(x, rope)]
        if self.pooling is None:
            return [pooled(encoder, self.config, stream) for stream in streams]
        return [self.pooling(task, stream) for task, stream in enumerate(streams)]
