"""Adaptation methods: what each adds and what it trains, registered by name."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from softbio_jax.adapters.config import (
    AdapterRules,
    Alpha,
    LoRAConfig,
    Rank,
    Target,
    TaskRules,
    check_targets,
)
from softbio_jax.errors import UserError
from softbio_jax.params import label
from softbio_jax.ranges import Dropout, Range, check_arguments
from softbio_jax.registry import Registry

METHODS = Registry[Callable[..., "Method"]]("method", where="method.name", group="softbio_jax.methods")
FROZEN = "frozen"  # the group that is not trained
# Every method trains the heads, and the parameters of the balancer and of distillation if there are any.
HEADS = (("heads/.*", "heads"),)
_ABOVE = (("balance/.*", "log_var"), ("distill/.*", "heads"))
# The groups of all methods in this module: a config may set a rate that its method does not use.
GROUPS = ("heads", "pooling", "blocks", "adapter_a", "adapter_b", "magnitude", "log_var")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How an encoder is adapted.

    groups are (anchored regex, group) pairs over leaf paths; the first match wins and every leaf
    must match. The group `FROZEN` is not trained. tail is the number of last blocks outside the
    scanned trunk, so that nothing below them needs a backward pass.
    """

    name: str
    groups: tuple[tuple[str, str], ...]
    rules: AdapterRules = AdapterRules()
    tail: int = 0

    def label(self, paths: Sequence[str]) -> dict[str, str]:
        """Returns the group of each path.

        Rules on a part that the model does not have (a pooling, a projection) are ignored.

        Raises:
          UserError: a path in no group, an empty group, or an adapter rule that matches nothing.
        """
        check_targets(self.rules, paths)
        parts = {path.split("/")[0] for path in paths}
        absent = {"pool", "proj", "balance", "distill"} - parts
        rules = (*_ABOVE, *self.groups)
        return label(paths, [rule for rule in rules if rule[0].split("/")[0] not in absent])


@METHODS.register("lp")
def lp() -> Method:
    """Linear probing: only the heads."""
    return Method(name="lp", groups=(*HEADS, (".*", FROZEN)))


@METHODS.register("ap")
def ap() -> Method:
    """Attention probing: the pooling and the heads."""
    return Method(name="ap", groups=(*HEADS, ("pool/.*", "pooling"), (".*", FROZEN)))


@METHODS.register("ft")
def ft(blocks: Annotated[int, Range(1, 1024)]) -> Method:
    """FT_k: the last k blocks, the pooling and the heads."""
    check_arguments(ft, {"blocks": blocks}, "config.method")
    return Method(
        name=f"ft{blocks}",
        groups=(*HEADS, ("pool/.*", "pooling"), ("encoder/tail/.*", "blocks"), (".*", FROZEN)),
        tail=blocks,
    )


@METHODS.register("full")
def full() -> Method:
    """Full fine-tuning: everything but the projection, which the pooled feature does not use."""
    return Method(
        name="full", groups=(*HEADS, ("proj", FROZEN), ("pool/.*", "pooling"), ("encoder/.*", "blocks"))
    )


BLOCK_LAYERS = ("attn/qkv", "attn/out", "mlp/c_fc", "mlp/c_proj")
POOL_LAYERS = ("attn/q", "attn/kv", "attn/out", "mlp/c_fc", "mlp/c_proj")
BLOCK_TARGETS = f"encoder/(trunk|tail)/({'|'.join(BLOCK_LAYERS)})"
# All of the pooling but its q, k and v.
POOL_TARGETS = "pool/(attn/out|mlp/(c_fc|c_proj))"


@METHODS.register("lora")
def lora(
    config: LoRAConfig,
    *,
    targets: tuple[Target, ...] = (BLOCK_TARGETS, POOL_TARGETS),
    pool_apart: bool = False,
    name: str = "lora",
) -> Method:
    """LoRA, or DoRA if config.dora, on the dense layers that `targets` match; the heads.

    pool_apart puts the pooling's adapters in the group pooling instead of adapter_a, adapter_b and
    magnitude.
    """
    rules = AdapterRules(rules=tuple((target, config) for target in targets))
    return Method(name=name, groups=(*HEADS, *adapter_groups(rules, pool_apart)), rules=rules)


@METHODS.register("lora_plus")
def lora_plus(
    config: LoRAConfig,
    *,
    targets: tuple[Target, ...] = (BLOCK_TARGETS, POOL_TARGETS),
    pool_apart: bool = False,
) -> Method:
    """LoRA+: LoRA with separate rates for A and B, those of the groups adapter_a and adapter_b.

    Source: Hayou et al. 2024, arXiv:2402.12354.
    """
    return lora(config, targets=targets, pool_apart=pool_apart, name="lora_plus")


@METHODS.register("dora")
def dora(
    config: LoRAConfig,
    *,
    targets: tuple[Target, ...] = (BLOCK_TARGETS, POOL_TARGETS),
    pool_apart: bool = False,
) -> Method:
    """DoRA, and the heads."""
    config = dataclasses.replace(config, dora=True)
    return lora(config, targets=targets, pool_apart=pool_apart, name="dora")


def adapter_groups(rules: AdapterRules, pool_apart: bool) -> list[tuple[str, str]]:
    """Returns the groups of the leaves that `rules` add, then the frozen rest."""
    pool = [f"pool/{layer}" for layer in POOL_LAYERS]
    layers = [f"encoder/{part}/{name}" for part in ("trunk", "tail") for name in BLOCK_LAYERS]
    groups = []
    if rules.per_task is not None and rules.per_task.probe:
        groups.append(("pool/task_probe", "pooling"))
    if not pool_apart:
        layers += pool
    elif any(rules.match(path) or rules.match_task(path) for path in pool):
        groups.append(("pool/.*/(lora_a|lora_b|dora_magnitude)", "pooling"))
    found = [path for path in layers if rules.match(path) or rules.match_task(path)]
    if found:
        groups += [(".*/lora_a", "adapter_a"), (".*/lora_b", "adapter_b")]
    if any(isinstance(c := rules.match(path), LoRAConfig) and c.dora for path in found):
        groups.append((".*/dora_magnitude", "magnitude"))
    return [*groups, (".*", FROZEN)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Where MTLoRA has adapters: regexes of layers with shared ones and with one per task.

    probe: whether the pooling's probe also has a part per task.
    """

    shared: tuple[str, ...]
    per_task: tuple[str, ...]
    probe: bool


PLACEMENTS = Registry[Placement]("placement", where="method.placement", group="softbio_jax.placements")


def _layers(part: str, names: Sequence[str]) -> str:
    return f"{part}/({'|'.join(names)})"


# Shared adapters before the last block; per-task ones in it and in the pooling.
PLACEMENTS.add(
    "last_block",
    Placement(
        shared=(_layers("encoder/trunk", BLOCK_LAYERS),),
        per_task=(_layers("encoder/tail", BLOCK_LAYERS), _layers("pool", POOL_LAYERS)),
        probe=True,
    ),
)
# Agiza et al. 2024, arXiv:2403.20320: shared adapters everywhere, per-task ones also in the last
# block, before the frozen pooling. The shared stream ends before the last c_proj, where a shared
# adapter would receive no gradient.
PLACEMENTS.add(
    "paper",
    Placement(
        shared=(_layers("encoder/trunk", BLOCK_LAYERS), _layers("encoder/tail", BLOCK_LAYERS[:3])),
        per_task=(_layers("encoder/tail", BLOCK_LAYERS[1:]),),
        probe=False,
    ),
)


@METHODS.register("mtlora")
def mtlora(
    config: LoRAConfig,
    *,
    task_rank: Rank | None = None,
    task_alpha: Alpha | None = None,
    task_dropout: Dropout = 0.0,
    base_input: Literal["shared", "task"] = "shared",
    placement: str = "last_block",
    pool_apart: bool = False,
) -> Method:
    """MTLoRA: shared blocks, and a last block with per-task low-rank updates.

    Args:
      config: the shared adapters.
      task_rank: R of the per-task adapters; None: that of config.
      task_alpha: alpha of the per-task adapters; None: that of config.
      task_dropout: dropout on the input of the per-task adapters.
      base_input: the input of the last block's kernels, see `TaskRules`.
      placement: a name in `PLACEMENTS`.
      pool_apart: see `lora`.
    """
    own = dataclasses.replace(
        config,
        dora=False,
        dropout=task_dropout,
        rank=config.rank if task_rank is None else task_rank,
        alpha=config.alpha if task_alpha is None else task_alpha,
    )
    where = PLACEMENTS[placement]
    rules = AdapterRules(
        rules=tuple((target, config) for target in where.shared),
        per_task=TaskRules(
            rules=tuple((target, own) for target in where.per_task), base_input=base_input, probe=where.probe
        ),
    )
    return Method(name="mtlora", groups=(*HEADS, *adapter_groups(rules, pool_apart)), rules=rules, tail=1)


def method(name: str, **arguments: Any) -> Method:
    """Returns the method `name`, built with its arguments.

    Raises:
      UserError: an unknown method, arguments that it does not take, or values out of their ranges.
    """
    build = METHODS[name]
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as error:
        raise UserError(
            "bad method arguments",
            where=f"method {name}",
            expected=f"{name}{inspect.signature(build)}".split(" ->")[0],
            found=str(error),
            fix="correct config.method",
        ) from error
    check_arguments(build, arguments, "config.method")
    return build(**arguments)
