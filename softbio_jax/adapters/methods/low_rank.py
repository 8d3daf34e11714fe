"""LoRA, LoRA+ and DoRA on the dense layers of the tower."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from softbio_jax.adapters.config import AdapterRules, LoRAConfig
from softbio_jax.adapters.method import FROZEN, HEADS, Method

BLOCK_LAYERS = ("attn/qkv", "attn/out", "mlp/c_fc", "mlp/c_proj")
POOL_LAYERS = ("attn/q", "attn/kv", "attn/out", "mlp/c_fc", "mlp/c_proj")
BLOCK_TARGETS = f"encoder/(trunk|tail)/({'|'.join(BLOCK_LAYERS)})"
# The thesis adapts all of the pooling but its q, k and v.
POOL_TARGETS = "pool/(attn/out|mlp/(c_fc|c_proj))"


def lora(
    config: LoRAConfig,
    *,
    targets: Sequence[str] = (BLOCK_TARGETS, POOL_TARGETS),
    pool_apart: bool = False,
    name: str = "lora",
) -> Method:
    """LoRA, or DoRA where config says so, on the dense layers that `targets` match; the heads.

    pool_apart puts the pooling's adapters in the group pooling, which in the thesis has a rate
    of its own, instead of adapter_a, adapter_b and magnitude.
    """
    rules = AdapterRules(rules=tuple((target, config) for target in targets))
    return Method(name=name, groups=(*HEADS, *adapter_groups(rules, pool_apart)), rules=rules)


def lora_plus(config: LoRAConfig, **arguments: Any) -> Method:
    """LoRA whose A and B learn at rates of their own (Hayou et al. 2024, arXiv:2402.12354).

    What is adapted is LoRA's; the groups adapter_a and adapter_b carry the two rates.
    """
    return lora(config, name="lora_plus", **arguments)


def dora(config: LoRAConfig, **arguments: Any) -> Method:
    """DoRA, and the heads."""
    return lora(dataclasses.replace(config, dora=True), name="dora", **arguments)


def adapter_groups(rules: AdapterRules, pool_apart: bool) -> list[tuple[str, str]]:
    """Returns the groups of what `rules` add, then the frozen rest."""
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
