"""The twin's training: masked losses, log-variances, clipping, AdamW and the schedule, in plain torch."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from softbio_jax.errors import UserError
from softbio_jax.interop import stacking
from softbio_jax.interop.official import OFFICIAL
from softbio_jax.runs.config import OptimizerConfig
from training_parity.batches import Batch
from training_parity.case import Case, Start
from training_parity.masks import Masks
from training_parity.record import Arrays, Record
from training_parity.switches import OURS, Switches
from training_parity.twin.model import Model
from training_parity.twin.mtlora import TaskUpdates
from training_parity.twin.names import give_masks, leaves

_STATISTICS = {"mean": "running_mean", "var": "running_var"}


class Twin:
    """A run of plain PyTorch, a record per step.

    Args:
      case: what is trained.
      start: the state before the first step.
      dtype: "float32" or "float64".
      switches: where it follows PyTorch instead of this package.
    """

    def __init__(self, case: Case, start: Start, *, dtype: str, switches: Switches = OURS):
        self.case, self.switches, self.dtype = case, switches, getattr(torch, dtype)
        check(case)
        self.model = Model(case, _official(start), switches)
        trained = {path: leaf.shape for path, leaf in start.trained.items()}
        self.leaves = leaves(self.model, trained)
        self.model.requires_grad_(False).to(self.dtype).train()
        if dtype == "float64" and switches.wide_rotary:
            self.model.widen_rotary()
        for path, leaf in self.leaves.items():
            leaf.write(start.trained[path])
            for tensor in leaf.tensors:
                tensor.requires_grad_(True)
        for path, array in start.statistics.items():
            self._statistic(path).copy_(torch.from_numpy(array))
        self.optimizer, self.scheduler = self._optimizer(case.config.optimizer, case.config.train.steps)

    def step(self, batch: Batch, masks: Masks) -> Record:
        """Takes a step with these dropout masks and returns its record."""
        config, tasks = self.case.config, self.case.config.tasks
        rates = {group["name"]: np.array(group["lr"]) for group in self.optimizer.param_groups}
        give_masks(self.model, masks)
        pixels = self._pixels(batch["image"])
        labels = {task: torch.from_numpy(batch[f"labels/{task}"].astype(np.int64)) for task in tasks}
        known = {task: torch.from_numpy(batch[f"mask/{task}"]) for task in tasks}
        present = [task for task in tasks if known[task].any()]
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.logits(pixels, present if self.switches.absent_heads_held else tasks)
        losses = {task: self.loss(logits[task], labels[task], known[task]) for task in present}
        total = self.total(losses)
        if losses:
            total.backward()
        gradient = {path: leaf.read(lambda tensor: tensor.grad) for path, leaf in self.leaves.items()}
        norm = self.clip(config.optimizer.clip_norm)
        self.update()
        return Record(
            loss={task: loss.detach().numpy() for task, loss in losses.items()},
            total={"total": total.detach().numpy()},
            statistics=self._statistics(),
            gradient=gradient,
            norm={"norm": norm.numpy()},
            rate=rates,
            first_moment=self._moment("exp_avg"),
            second_moment=self._moment("exp_avg_sq"),
            value={path: leaf.read(lambda tensor: tensor) for path, leaf in self.leaves.items()},
        )

    def logits(self, pixels: torch.Tensor, tasks: Any) -> dict[str, torch.Tensor]:
        """Returns {task: (B, C)}, under batch norm of the global batch, or of each replica's rows."""
        features = self.model.features(pixels)
        if self.switches.global_statistics:
            return {task: self.model.heads[task](features[task]) for task in tasks}
        return {task: self._of_replicas(self.model.heads[task], features[task]) for task in tasks}

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Returns the mean cross-entropy over the labelled rows."""
        return F.cross_entropy(logits[known], labels[known])

    def total(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns the sum over the tasks with a label of exp(-s) L + s / 2, or of w L."""
        balancing, total = self.case.config.balancing, torch.zeros((), dtype=self.dtype)
        for task, loss in losses.items():
            if task in self.model.log_var:
                s = self.model.log_var[task].clamp(*balancing.clamp)
                total = total + (-s).exp() * loss + 0.5 * s
            else:
                total = total + balancing.weights.get(task, 1.0) * loss
        return total

    def clip(self, largest: float) -> torch.Tensor:
        """Scales the gradient to a norm of at most `largest` and returns the norm before."""
        tensors = self._with_gradient()
        if not self.switches.exact_clipping and largest:
            return nn.utils.clip_grad_norm_(tensors, largest).detach()
        norm = nn.utils.get_total_norm([tensor.grad for tensor in tensors])
        if largest and norm > largest:
            for tensor in tensors:
                tensor.grad.mul_(largest / norm)
        return norm.detach()

    def update(self) -> None:
        """Takes AdamW's step, then the schedule's."""
        self.optimizer.step()
        if self.switches.common_count:
            for group in self.optimizer.param_groups:
                for tensor in group["params"]:
                    # A tensor without a gradient has been passed over.
                    state = self.optimizer.state[tensor]
                    if tensor.grad is None and not state:
                        state["step"] = torch.zeros((), dtype=torch.float32)
                        state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(tensor) for _ in "12")
                    if tensor.grad is None:
                        state["step"] += 1
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint of PyTorch holds."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])

    def _pixels(self, images: np.ndarray) -> torch.Tensor:
        """Returns bytes (B, S, S, 3) as the encoder's normalised pixels (B, 3, S, S)."""
        values = torch.from_numpy(images).to(self.dtype).permute(0, 3, 1, 2) / 255
        mean, std = (
            torch.tensor(v, dtype=self.dtype) for v in (self.case.encoder.mean, self.case.encoder.std)
        )
        return (values - mean[:, None, None]) / std[:, None, None]

    def _of_replicas(self, head: nn.Sequential, features: torch.Tensor) -> torch.Tensor:
        norm, rest = head[0], head[1:]
        parts = features.chunk(self.switches.replicas)
        return rest(torch.cat([norm(part) for part in parts]))

    def _optimizer(self, config: OptimizerConfig, steps: int) -> tuple[Any, Any]:
        """Returns AdamW with a group per rate and decay, and the schedule as a factor of every rate."""
        decayed = {id(tensor) for module in self.model.modules() for tensor in _matrices(module)}
        groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for name, tensor in self.model.named_parameters():
            if tensor.requires_grad:
                apart = bool(self.case.config.method.get("pool_apart"))
                key = (group_of(name, pool_apart=apart), config.decay_all or id(tensor) in decayed)
                groups.setdefault(key, []).append(tensor)
        optimizer = torch.optim.AdamW(
            [
                {
                    "name": group,
                    "params": tensors,
                    "lr": config.rates[group],
                    "weight_decay": config.weight_decay if decays else 0.0,
                }
                for (group, decays), tensors in groups.items()
            ],
            betas=(config.b1, config.b2),
            eps=config.eps,
            foreach=False,
        )
        warmup = config.warmup_steps

        def factor(done: int) -> float:
            if done < warmup:
                return done / warmup
            share = min((done - warmup) / (steps - warmup), 1.0)
            shapes = {
                "cosine": 0.5 * (1 + math.cos(math.pi * share)),
                "linear": 1 - share,
                "polynomial": (1 - share) ** (config.power or 1),
                "inverse_sqrt": math.sqrt(warmup / max(done, 1)),
            }
            return shapes.get(config.schedule, 1.0)

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def _with_gradient(self) -> list[nn.Parameter]:
        return [tensor for tensor in self.model.parameters() if tensor.grad is not None]

    def _moment(self, name: str) -> Arrays:
        state = self.optimizer.state
        return {path: leaf.read(lambda t: state[t].get(name)) for path, leaf in self.leaves.items()}

    def _statistics(self) -> Arrays:
        if not self.case.config.model.head.batch_norm:
            return {}
        return {
            f"heads/{task}/norm/{name}": getattr(head[0], buffer).numpy().copy()
            for task, head in self.model.heads.items()
            for name, buffer in _STATISTICS.items()
        }

    def _statistic(self, path: str) -> torch.Tensor:
        _, task, _, name = path.split("/")
        buffer: torch.Tensor = getattr(self.model.heads[task][0], _STATISTICS[name])
        return buffer


def check(case: Case) -> None:
    """Checks that the twin trains as the case's configuration says.

    Raises:
      UserError: an optimizer, balancer or feature that it does not have.
    """
    config = case.config
    for where, found, known in (
        ("optimizer.name", config.optimizer.name, ("adamw",)),
        ("optimizer.ema_decay", config.optimizer.ema_decay, (0.0,)),
        ("balancing.kind", config.balancing.kind, ("uncertainty", "fixed")),
        ("model.feature", config.model.feature, ("pooled",)),
    ):
        if found not in known:
            raise UserError(
                "no twin of this setting",
                where=where,
                expected=" or ".join(map(str, known)),
                found=str(found),
                fix="compare with another value of it",
            )


def group_of(name: str, *, pool_apart: bool) -> str:
    """Returns the rate's group of a parameter by its name in the twin."""
    adapter = {
        "lora_A.": "adapter_a",
        ".updates.a.": "adapter_a",
        "lora_B.": "adapter_b",
        ".updates.b.": "adapter_b",
        "lora_magnitude_vector": "magnitude",
    }
    pooling = "attn_pool" in name or ".pooling." in name
    for part, group in adapter.items():
        if part in name:
            return "pooling" if pool_apart and pooling else group
    if name.startswith(("heads.", "log_var.")):
        return name.partition(".")[0]
    return "pooling" if pooling else "blocks"


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    """Returns the tensors of a module that decay: matrices of layers and adapters, no vectors or tokens."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        return [module.weight]
    return [*module.a, *module.b] if isinstance(module, TaskUpdates) else []


def _official(start: Start) -> dict[str, np.ndarray]:
    """Returns the plain weights of the encoder under their official names, without the projection."""
    adapters = ("lora_a", "lora_b", "dora_base_norm", "dora_magnitude", "task_probe")
    plain = {
        path: leaf
        for path, leaf in (start.frozen | start.trained).items()
        if path.startswith(("encoder/", "pool/")) and not path.endswith(adapters)
    }
    return OFFICIAL.backward(stacking.unstack(plain))
