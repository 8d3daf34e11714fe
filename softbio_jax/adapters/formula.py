"""What an adapter of another formula than LoRA's is."""

import abc
import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

Leaves = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Formula(abc.ABC):
    """An update of the product x W in the dense layers that a rule chooses.

    A subclass's fields are its numbers. Its leaves lie beside the kernel they adapt, under the
    names that `init` gives them. The bias is added after it.
    """

    @abc.abstractmethod
    def init(self, key: jax.Array, inputs: int, outputs: int) -> Leaves:
        """Returns what is trained in a layer of W (in, out), float32; with it y is x W exactly.

        Args:
          key: a leaf's own random key; `init` is called once a leaf, which takes its value by name.
          inputs: of the layer.
          outputs: of the layer.
        """

    @abc.abstractmethod
    def apply(self, x: jax.Array, kernel: jax.Array, leaves: Leaves) -> jax.Array:
        """Returns y (..., out), of the type of x.

        Args:
          x: (..., in).
          kernel: W (in, out), of the same type.
          leaves: what `init` began, float32.
        """

    @abc.abstractmethod
    def merge(self, kernel: np.ndarray, leaves: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the plain kernel (..., in, out) of the same y; leaves are stacked as it is."""

    def products(self, inputs: int, outputs: int) -> int:
        """Returns the operations of the matrix products that `apply` adds to x W, for one row."""
        del inputs, outputs
        return 0
