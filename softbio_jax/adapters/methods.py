"""Every adaptation method as a declaration: what is injected, what is trained, in which group.

Adding a method is adding a function here and its name to `METHODS`.
"""

import dataclasses
from collections.abc import Callable, Sequence

from softbio_jax.adapters.config import AdapterRules, LoRAConfig
from softbio_jax.errors import UserError
from softbio_jax.params.paths import label

FROZEN = "frozen"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How a tower is adapted.

    groups are (anchored regex, group) pairs over leaf paths, the first match wins and every leaf
    must match; the group `FROZEN` is not trained. tail is how many last blocks are kept apart
    from the scanned trunk, so that nothing below them needs a backward pass.
    """

    name: str
    groups: tuple[tuple[str, str], ...]
    rules: AdapterRules = AdapterRules()
    tail: int = 0

    def label(self, paths: Sequence[str]) -> dict[str, str]:
        """Returns the group of each path.

        Raises:
          UserError: a path in no group, or an empty group.
        """
        balanced = any(path.startswith("balance/") for path in paths)
        return label(paths, (*([BALANCE] if balanced else []), *self.groups))


# Every method trains the heads, and the balancer's log-variances where it has any.
_HEADS = (("heads/.*", "heads"),)
BALANCE = ("balance/.*", "log_sigma")


def full() -> Method:
    """Everything is trained but the projection, which the pooled feature does not pass."""
    return Method(
        name="full",
        groups=(*_HEADS, ("proj", FROZEN), ("pool/.*", "pooling"), ("encoder/.*", "blocks")),
    )


def lp() -> Method:
    """Linear probing: the heads alone."""
    return Method(name="lp", groups=(*_HEADS, (".*", FROZEN)))


def ap() -> Method:
    """Attention probing: the pooling and the heads."""
    return Method(name="ap", groups=(*_HEADS, ("pool/.*", "pooling"), (".*", FROZEN)))


def ft(blocks: int) -> Method:
    """FT_k: the last k blocks, the pooling and the heads."""
    return Method(
        name=f"ft{blocks}",
        groups=(
            *_HEADS, ("pool/.*", "pooling"), ("encoder/tail/.*", "blocks"), (".*", FROZEN),
        ),
        tail=blocks,
    )  # fmt: skip


BLOCK_TARGETS = "encoder/(trunk|tail)/(attn/(qkv|out)|mlp/(c_fc|c_proj))"
POOL_TARGETS = "pool/(attn/(q|kv|out)|mlp/(c_fc|c_proj))"


def lora(
    config: LoRAConfig, targets: Sequence[str] = (BLOCK_TARGETS, POOL_TARGETS), name: str = "lora"
) -> Method:
    """LoRA or DoRA on the dense layers that `targets` match, and the heads."""
    groups = [*_HEADS, (".*/lora_a", "adapter_a"), (".*/lora_b", "adapter_b")]
    if config.dora:
        groups.append((".*/dora_magnitude", "magnitude"))
    return Method(
        name=name,
        groups=(*groups, (".*", FROZEN)),
        rules=AdapterRules(rules=tuple((target, config) for target in targets)),
    )


METHODS: dict[str, Callable[..., Method]] = {
    "full": full, "lp": lp, "ap": ap, "ft": ft, "lora": lora,
}  # fmt: skip


def method(name: str, **arguments: object) -> Method:
    """Returns the method `name`, built with its own arguments.

    Raises:
      UserError: no such method.
    """
    if name not in METHODS:
        raise UserError("unknown method", where="method.name",
                        expected=f"one of {', '.join(METHODS)}", found=repr(name),
                        fix="take a name of that list")  # fmt: skip
    return METHODS[name](**arguments)
