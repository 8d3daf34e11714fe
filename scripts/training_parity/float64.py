"""This package's training step in float64, for comparisons below float32's rounding.

Its code names float32 where a computation must not be narrower. Here those names mean float64, in the
modules that a step runs; nothing else of them changes.
"""

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.models import elementwise, positions
from softbio_jax.models.multitask import MultitaskModel

_PARTS = ("models", "adapters", "losses", "runs", "data.augment")


class _Widened(types.ModuleType):
    """jax.numpy, whose float32 is float64."""

    float32 = jnp.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)


@contextlib.contextmanager
def widened() -> Iterator[None]:
    """Traces and runs this package's modules in float64 while the context is open.

    GELU is computed by erfc, as on accelerators: its series for CPUs is exact to 5e-9, which is below
    float32's rounding and not float64's. Rotary angles stay those of float32, as the reference's are; their
    sine and cosine are taken in float64.
    """
    prefixes = tuple(f"softbio_jax.{part}" for part in _PARTS)
    modules = [module for name, module in sys.modules.items() if name.startswith(prefixes)]
    namespace, turns = _Widened("jax.numpy"), positions.turns
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        for module in modules:
            if getattr(module, "jnp", None) is jnp:
                _replace(stack, module, "jnp", namespace)
        _replace(stack, elementwise, "_on_cpu", elementwise._by_erfc)
        _replace(stack, elementwise, "_on_cpu_backward", elementwise._by_erfc_backward)
        _replace(stack, positions, "turns", lambda *a: turns(*a).astype(np.float64))
        yield


def of_model(model: MultitaskModel) -> MultitaskModel:
    """Returns a model that computes in float64, inside `widened`."""
    compute = model.compute.__class__(**vars(model.compute))
    object.__setattr__(compute, "dtype", "float64")  # no configuration may: it needs `widened`
    return model.clone(compute=compute)


def _replace(stack: contextlib.ExitStack, module: Any, name: str, value: Any) -> None:
    stack.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, value)
