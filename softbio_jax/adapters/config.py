"""What is adapted and how: LoRA's numbers and the rules that choose the layers."""

import dataclasses
import math
import re

from softbio_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """A low-rank update s B A of rank R, with s = alpha / R, or alpha / sqrt(R) when rslora.

    dora adds a magnitude a output unit (Liu et al. 2024, arXiv:2402.09353); dropout acts on the
    adapter's input while training.
    """

    rank: int
    alpha: float
    rslora: bool = False
    dropout: float = 0.0
    dora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError("bad LoRA rank", where="lora.rank", expected="at least 1",
                            found=str(self.rank), fix="use method=lp for no adapters")  # fmt: skip

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterRules:
    """Which layers are adapted: anchored regexes over "/"-joined paths, the first match wins."""

    rules: tuple[tuple[str, LoRAConfig], ...] = ()

    def match(self, path: str) -> LoRAConfig | None:
        """Returns the adapter of the dense layer at `path`, such as encoder/trunk/attn/qkv."""
        for pattern, config in self.rules:
            if re.fullmatch(pattern, path):
                return config
        return None


NO_ADAPTERS = AdapterRules()
