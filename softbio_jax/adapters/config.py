"""LoRA's settings, and the rules that choose the layers to adapt."""

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from softbio_jax.adapters.math import Formula
from softbio_jax.errors import UserError
from softbio_jax.ranges import Dropout, Pattern, Range, check_fields

Rank = Annotated[int, Range(1, 8192)]
Alpha = Annotated[float, Range(0, 1e6)]
Target = Annotated[str, Pattern()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """A low-rank update s B A of rank R, with s = alpha / R, or alpha / sqrt(R) when rslora."""

    rank: Rank  # R
    alpha: Alpha  # scale of the update, times R or sqrt(R)
    rslora: bool = False  # whether s is alpha / sqrt(R)
    dropout: Dropout = 0.0  # of the adapter's input, in training
    dora: bool = False  # adds a magnitude per output unit (Liu et al. 2024, arXiv:2402.09353)

    def __post_init__(self) -> None:
        check_fields(self, "lora")

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


Adapter = LoRAConfig | Formula
Rule = tuple[Target, Adapter]  # an anchored regex over "/"-joined layer paths
LoRARule = tuple[Target, LoRAConfig]
AnyAdapter = TypeVar("AnyAdapter", LoRAConfig, Adapter)
_DENSE_KERNEL = re.compile(r"(.+/(?:attn|mlp)/[^/]+)/kernel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskRules:
    """Layers of the tail and the pooling where every task has its own low-rank update.

    base_input is the input of a tail layer's kernel: "shared", the shared stream, so that the block
    runs once and each task is a low-rank side branch; or "task", each task's own stream, so that
    every task's block can be merged into a plain one. Layers with several projections in one kernel
    (q, k, v) have an A and a B per projection.
    """

    rules: tuple[LoRARule, ...]
    base_input: Literal["shared", "task"] = "shared"
    probe: bool = True  # each task has its own probe in the pooling
    tasks: Annotated[int, Range(1, 1024)] = 1  # T; the model sets it to the number of its tasks

    def __post_init__(self) -> None:
        check_fields(self, "method.task_lora")
        if any(config.dora for _, config in self.rules):
            raise UserError(
                "DoRA on a task's own layers",
                where="method.task_lora.dora",
                expected="plain LoRA",
                found="dora=True",
                fix="set it only on the shared layers",
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TaskRules":
        """Returns the rules of which these values are the `dataclasses.asdict`."""
        rules = tuple((pattern, LoRAConfig(**config)) for pattern, config in values["rules"])
        return cls(**{**values, "rules": rules})

    def match(self, path: str) -> LoRAConfig | None:
        """Returns the per-task adapter of the dense layer at `path`."""
        return _first(self.rules, path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterRules:
    """Which layers are adapted; the first rule that matches a layer's whole path wins."""

    rules: tuple[Rule, ...] = ()
    per_task: TaskRules | None = None

    def __post_init__(self) -> None:
        check_fields(self, "method")
        if self.per_task and any(isinstance(adapter, Formula) for _, adapter in self.rules):
            raise UserError(
                "a Formula together with per-task adapters",
                where="method.rules",
                expected="LoRA on the shared layers",
                found="a Formula",
                fix="remove the per-task rules",
            )

    def match(self, path: str) -> Adapter | None:
        """Returns the adapter of the dense layer at `path`, such as encoder/trunk/attn/qkv."""
        return _first(self.rules, path)

    def match_task(self, path: str) -> LoRAConfig | None:
        """Returns the per-task adapter of the dense layer at `path`."""
        return self.per_task.match(path) if self.per_task else None

    def for_tasks(self, tasks: int) -> "AdapterRules":
        """Returns the same rules for a number of tasks."""
        if self.per_task is None:
            return self
        return dataclasses.replace(self, per_task=dataclasses.replace(self.per_task, tasks=tasks))


NO_ADAPTERS = AdapterRules()


def _first(rules: Sequence[tuple[str, AnyAdapter]], path: str) -> AnyAdapter | None:
    return next((config for pattern, config in rules if re.fullmatch(pattern, path)), None)


def check_targets(rules: AdapterRules, paths: Sequence[str]) -> None:
    """Checks that every rule is the first to match at least one layer.

    Rules on the pooling of a model that has none are ignored.

    Args:
      rules: the rules of the model.
      paths: the "/"-joined paths of all its parameters.

    Raises:
      UserError: a rule that matches nothing, with the nearest layers.
    """
    layers = [match[1] for path in paths if (match := _DENSE_KERNEL.fullmatch(path))]
    pooled = any(layer.startswith("pool/") for layer in layers)
    for patterns in (rules.rules, rules.per_task.rules if rules.per_task else ()):
        free = list(layers)
        for pattern, _ in patterns:
            matched = [layer for layer in free if re.fullmatch(pattern, layer)]
            free = [layer for layer in free if layer not in matched]
            if not matched and (pooled or not pattern.startswith("pool/")):
                near = difflib.get_close_matches(pattern, layers, n=3, cutoff=0.0)
                raise UserError(
                    "adapter target matches no layer",
                    where=repr(pattern),
                    expected="an anchored regex over layer paths that no earlier target matches",
                    found=f"no layer; nearest are {', '.join(near)}",
                    fix="correct the target",
                )
