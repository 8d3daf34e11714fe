"""The twin's model: timm's encoder with the method's adapters, the heads, and the log-variances."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.errors import UserError
from softbio_jax.models import positions
from softbio_jax.tasks import TASKS
from training_parity.case import Case
from training_parity.switches import Switches
from training_parity.twin import encoder
from training_parity.twin.dropout import GivenDropout
from training_parity.twin.mtlora import MTLoRA, TaskBlock, TaskLayer, TaskPooling, TaskUpdates

_FUSED = {"attn.qkv": 3, "kv": 2}  # projections in one layer


class Place(NamedTuple):
    """A projection: its path in this package, where blocks are stacked, and timm's module."""

    path: str
    module: str
    name: str  # of the module within its block or the pooling


def places(case: Case) -> list[Place]:
    """Returns every projection of a case's encoder, blocks first, in order."""
    config, tail = case.encoder, case.run.model.tail
    found = []
    for i in range(config.layers):
        part = "trunk" if i < config.layers - tail else "tail"
        found += [Place(f"encoder/{part}/{path}", f"blocks.{i}.{m}", m) for path, m in encoder.BLOCK.items()]
    if config.pooling == "attn":
        found += [Place(f"pool/{path}", f"attn_pool.{m}", m) for path, m in encoder.POOL.items()]
    return found


class Model(nn.Module):
    """Maps pixels to {task: logits}.

    Args:
      case: what is trained.
      state: the encoder's weights, official `visual.` key -> array.
      switches: where it follows PyTorch instead of this package.
    """

    def __init__(self, case: Case, state: dict[str, np.ndarray], switches: Switches):
        super().__init__()
        self.case, self.switches = case, switches
        self.encoder = encoder.build(case.encoder, state)
        self._adapt()
        if case.run.method.rules.per_task is not None:
            self._part()
        head, width = case.config.model.head, case.encoder.feature_width
        self.heads = nn.ModuleDict()
        for task in case.config.tasks:
            layers: list[nn.Module] = [nn.BatchNorm1d(width) if head.batch_norm else nn.Identity()]
            layers.append(GivenDropout(head.dropout) if head.dropout else nn.Identity())
            if head.kind == "deep":
                layers += [nn.Linear(width, width), nn.GELU()]
            self.heads[task] = nn.Sequential(*layers, nn.Linear(width, TASKS[task].num_classes))
        learned = case.config.balancing.kind == "uncertainty"
        self.log_var = nn.ParameterDict(
            {task: nn.Parameter(torch.zeros(())) for task in case.config.tasks if learned}
        )

    @property
    def timm(self) -> Any:
        """timm's encoder."""
        return self.encoder.encoder if isinstance(self.encoder, MTLoRA) else self.encoder

    def forward(self, pixels: torch.Tensor, tasks: Sequence[str]) -> dict[str, torch.Tensor]:
        """Maps normalised pixels (B, 3, S, S) to the logits of these tasks."""
        features = self.features(pixels)
        return {task: self.heads[task](features[task]) for task in tasks}

    def features(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns what each task's head reads, (B, D)."""
        every = self.case.config.tasks
        if isinstance(self.encoder, MTLoRA):
            return dict(zip(every, self.encoder(pixels), strict=True))
        tokens = self.encoder.forward_features(pixels)
        return dict.fromkeys(every, encoder.pooled(self.encoder, self.case.encoder, tokens))

    def widen_rotary(self) -> None:
        """Takes sine and cosine of the rotary angles in float64; the angles stay those of float32."""
        config = self.case.encoder
        if config.rotary == "pe":
            angles = positions.turns(config, (config.grid, config.grid))
            self.timm.rope.pos_embed = encoder.rotary_table(angles, config.prefix)

    def _adapt(self) -> None:
        """Puts in the adapters that the tasks share, by peft."""
        chosen: dict[LoRAConfig, list[str]] = {}
        for place in places(self.case):
            own = self.case.run.method.rules.match(place.path)
            if own is None:
                continue
            if not isinstance(own, LoRAConfig):
                raise UserError(
                    "no twin of this adapter",
                    where=place.path,
                    expected="LoRA or DoRA",
                    found=type(own).__name__,
                    fix="compare its formula alone with torch",
                )
            chosen.setdefault(own, []).append(place.module)
        for own, targets in chosen.items():
            encoder.adapt(self.encoder, own, targets, rounded=self.switches.rounded_dropout)
            for name in targets:
                layer = self.encoder.get_submodule(name)
                if name.startswith("attn_pool.") and not self.switches.live_pooling:
                    layer.forward = layer.base_layer.forward
                if name == "attn_pool.proj" and not self.switches.single_output_update:
                    layer.scaling["default"] *= 2

    def _part(self) -> None:
        """Replaces the last block and the pooling by those where the tasks have updates of their own."""
        config, rules = self.case.encoder, self.case.run.method.rules
        assert rules.per_task is not None
        tasks, layers = len(self.case.config.tasks), {}
        for place in places(self.case):
            own, module = rules.match_task(place.path), self.encoder.get_submodule(place.module)
            updates = own and TaskUpdates(
                module,
                tasks=tasks,
                parts=_FUSED.get(place.name, 1),
                rank=own.rank,
                scale=own.scale,
                rate=own.dropout,
                rounded=self.switches.rounded_dropout,
            )
            layers[place.module] = TaskLayer(module, updates)
        last, pooling = f"blocks.{config.layers - 1}", None
        parting = TaskBlock(
            self.encoder.get_submodule(last),
            {name: layers[f"{last}.{name}"] for name in encoder.BLOCK.values()},
            tasks=tasks,
            prefix=config.prefix,
            shared=rules.per_task.base_input == "shared",
        )
        if config.pooling == "attn":
            own_layers = {name: layers[f"attn_pool.{name}"] for name in encoder.POOL.values()}
            pool, probes = self.encoder.attn_pool, rules.per_task.probe
            pooling = TaskPooling(pool, own_layers, tasks=tasks, probes=probes)
        self.encoder = MTLoRA(self.encoder, config, parting, pooling)
