"""MTLoRA as its reference computes it, on timm's encoder.

The scheme (Agiza et al. 2024, arXiv:2403.20320, as used on this encoder): shared adapters in all
blocks but the last; there and in the pooling every projection has a low-rank update a task. In the
last block a frozen projection reads the shared stream, in the pooling each task's own. q, k and v
are apart, and each is computed once for the shared stream and once more for every task.
"""

import torch
from timm.layers import apply_rot_embed_cat
from torch import nn
from torch.nn import functional as F


def shared_targets(blocks: int) -> str:
    """Returns peft's target regex for the blocks before the last of an encoder of that many."""
    numbers = "|".join(map(str, range(blocks - 1)))
    return rf"blocks\.({numbers})\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))"


class TaskLinear(nn.Module):
    """A frozen projection, and B_t A_t for every task."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, *, tasks: int, rank: int):
        super().__init__()
        outputs, inputs = weight.shape
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        bound = inputs**-0.5
        self.a = nn.ParameterList(
            nn.Parameter(torch.empty(rank, inputs).uniform_(-bound, bound)) for _ in range(tasks)
        )
        self.b = nn.ParameterList(nn.Parameter(torch.zeros(outputs, rank)) for _ in range(tasks))

    def base(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)

    def update(self, task: int, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, self.a[task]), self.b[task])

    def forward(self, task: int, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.update(task, x)


def _task_linears(fused: nn.Linear, parts: int, *, tasks: int, rank: int) -> nn.ModuleList:
    """Splits a fused projection into its parts, each with updates of its own."""
    pairs = zip(fused.weight.chunk(parts), fused.bias.chunk(parts), strict=True)
    return nn.ModuleList(TaskLinear(w, b, tasks=tasks, rank=rank) for w, b in pairs)


class TaskBlock(nn.Module):
    """The last block: the shared stream in, one stream a task out."""

    def __init__(self, block: nn.Module, *, tasks: int, rank: int, prefix: int):
        super().__init__()
        self.tasks, self.prefix = tasks, prefix
        self.heads = block.attn.num_heads
        self.half = getattr(block.attn, "rotate_half", False)
        self.norm1, self.norm2 = block.norm1, block.norm2
        sizes = {"tasks": tasks, "rank": rank}
        self.qkv = _task_linears(block.attn.qkv, 3, **sizes)
        self.proj = TaskLinear(block.attn.proj.weight, block.attn.proj.bias, **sizes)
        self.fc1 = TaskLinear(block.mlp.fc1.weight, block.mlp.fc1.bias, **sizes)
        self.fc2 = TaskLinear(block.mlp.fc2.weight, block.mlp.fc2.bias, **sizes)

    def forward(self, x: torch.Tensor, rope: torch.Tensor) -> list[torch.Tensor]:
        normed = self.norm1(x)
        shared = self.proj.base(self._attend([part.base(normed) for part in self.qkv], rope))
        x_shared = x + shared
        hidden = self.fc1.base(self.norm2(x_shared))
        mlp = self.fc2.base(F.gelu(hidden))
        streams = []
        for task in range(self.tasks):
            attended = self._attend([part(task, normed) for part in self.qkv], rope)
            stream = x_shared + self.proj.update(task, attended)
            own = F.gelu(hidden + self.fc1.update(task, self.norm2(stream)))
            streams.append(stream + mlp + self.fc2.update(task, own))
        return streams

    def _attend(self, qkv: list[torch.Tensor], rope: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in qkv)
        q, k = (self._rotate(t, rope) for t in (q, k))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def _rotate(self, x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
        turned = apply_rot_embed_cat(x[:, :, self.prefix :], rope, half=self.half)
        return torch.cat([x[:, :, : self.prefix], turned], dim=2).type_as(x)


class TaskPooling(nn.Module):
    """Attention pooling of each task's tokens with the task's probe and updates."""

    def __init__(self, pool: nn.Module, *, tasks: int, rank: int):
        super().__init__()
        sizes = {"tasks": tasks, "rank": rank}
        self.heads, self.norm = pool.num_heads, pool.norm
        self.probes = nn.ParameterList(nn.Parameter(pool.latent.detach().clone()) for _ in range(tasks))
        self.q = TaskLinear(pool.q.weight, pool.q.bias, **sizes)
        self.kv = _task_linears(pool.kv, 2, **sizes)
        self.proj = TaskLinear(pool.proj.weight, pool.proj.bias, **sizes)
        self.fc1 = TaskLinear(pool.mlp.fc1.weight, pool.mlp.fc1.bias, **sizes)
        self.fc2 = TaskLinear(pool.mlp.fc2.weight, pool.mlp.fc2.bias, **sizes)

    def forward(self, task: int, tokens: torch.Tensor) -> torch.Tensor:
        probe = self.probes[task].expand(len(tokens), -1, -1)
        three = [self.q(task, probe), *(part(task, tokens) for part in self.kv)]
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in three)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.proj(task, x)
        x = x + self.fc2(task, F.gelu(self.fc1(task, self.norm(x))))
        return x[:, 0]


class MTLoRATower(nn.Module):
    """timm's encoder with the parting in the place of its last block and its pooling."""

    def __init__(self, tower: nn.Module, *, tasks: int, rank: int):
        super().__init__()
        self.parting = TaskBlock(tower.blocks[-1], tasks=tasks, rank=rank, prefix=tower.num_prefix_tokens)
        self.pooling = TaskPooling(tower.attn_pool, tasks=tasks, rank=rank)
        tower.blocks, tower.attn_pool = tower.blocks[:-1], nn.Identity()
        self.tower = tower

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps (B, 3, S, S) to each task's feature, (T, B, D)."""
        x, rope = self.tower._pos_embed(self.tower.patch_embed(pixels))
        x = self.tower.norm_pre(x)
        for block in self.tower.blocks:
            x = block(x, rope=rope)
        streams = self.parting(x, rope)
        return torch.stack(
            [self.pooling(task, self.tower.norm(stream)) for task, stream in enumerate(streams)]
        )
