"""MTLoRA: low-rank parts that are each task's own."""

import dataclasses
from typing import Literal

from softbio_jax.adapters.config import AdapterRules, LoRAConfig, TaskRules
from softbio_jax.adapters.method import HEADS, Method
from softbio_jax.adapters.methods.low_rank import BLOCK_LAYERS, POOL_LAYERS, adapter_groups


def mtlora(
    config: LoRAConfig,
    *,
    task_rank: int | None = None,
    task_alpha: float | None = None,
    task_dropout: float = 0.0,
    base_input: Literal["shared", "task"] = "shared",
    placement: Literal["thesis", "paper"] = "thesis",
    pool_apart: bool = False,
) -> Method:
    """MTLoRA: shared blocks, and a last block with low-rank parts of each task's own.

    thesis: the blocks before the last have the adapters of `config`; the last block and the
    pooling, its probe included, have each task's plain LoRA alone. paper (Agiza et al. 2024,
    arXiv:2403.20320): the adapters of `config` everywhere, and in the last block each task's own
    on out, c_fc and c_proj, in front of the frozen pooling.

    Args:
      config: the shared adapters.
      task_rank: R of a task's own, and task_alpha its alpha; None: those of config.
      task_alpha: see task_rank.
      task_dropout: dropout on the input of a task's own.
      base_input: what the last block's kernels read, see `TaskRules`.
      placement: where the adapters are.
      pool_apart: see `lora`.
    """
    own = dataclasses.replace(
        config, dora=False, dropout=task_dropout,
        rank=config.rank if task_rank is None else task_rank,
        alpha=config.alpha if task_alpha is None else task_alpha,
    )  # fmt: skip
    trunk, tail = (f"encoder/{part}/({{}})" for part in ("trunk", "tail"))
    shared = [(trunk.format("|".join(BLOCK_LAYERS)), config)]
    targets: tuple[str, ...]
    if placement == "thesis":
        targets = (tail.format("|".join(BLOCK_LAYERS)), f"pool/({'|'.join(POOL_LAYERS)})")
    else:
        # The shared stream ends before c_proj, where an adapter of its would never learn.
        shared.append((tail.format("|".join(BLOCK_LAYERS[:3])), config))
        targets = (tail.format("|".join(BLOCK_LAYERS[1:])),)
    rules = AdapterRules(
        rules=tuple(shared),
        per_task=TaskRules(
            rules=tuple((target, own) for target in targets),
            base_input=base_input,
            probe=placement == "thesis",
        ),
    )
    return Method(
        name="mtlora", groups=(*HEADS, *adapter_groups(rules, pool_apart)), rules=rules, tail=1
    )
