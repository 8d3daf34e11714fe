"""What training adds to a tower, in the one form in which the layouts of other programs meet."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from softbio_jax.adapters.config import AdapterRules
from softbio_jax.interop import peft
from softbio_jax.interop.peft_layers import Adapter
from softbio_jax.params.paths import Tree, flatten, unflatten


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Shared adapters by layer, and whatever else was trained by its path.

    Args:
      adapter: the shared adapters, one entry a block.
      leaves: path -> array: heads, balancing, trained weights, MTLoRA's block and pooling.
      batch_stats: the heads' running statistics.
      rules: those of a model that takes it all.
      tail: that model's number of last blocks kept apart.
    """

    adapter: Adapter
    leaves: Mapping[str, np.ndarray]
    batch_stats: Tree
    rules: AdapterRules
    tail: int


def of_model(params: Tree, batch_stats: Tree, rules: AdapterRules) -> Adaptation:
    """Returns what a model with shared adapters, or MTLoRA, adds to its tower.

    Args:
      params: a model's nested dict of arrays; its plain weights are leaves like the others.
      batch_stats: the heads' running statistics.
      rules: the rules the model was built with.
    """
    return Adaptation(
        adapter=peft.collect(params, rules),
        leaves={path: np.asarray(leaf) for path, leaf in flatten(params).items()},
        batch_stats=batch_stats,
        rules=rules,
        tail=int(rules.per_task is not None),
    )


def attach(params: Tree, adaptation: Adaptation) -> Tree:
    """Returns a tower's params, of the adaptation's tail, with all that it adds."""
    return unflatten(flatten(peft.attach(params, adaptation.adapter)) | dict(adaptation.leaves))
