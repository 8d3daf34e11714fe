"""Folding: an encoder with an adapter in its weights, computed in float32, and what rounding does to it."""

import re
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from softbio_jax.adapters.config import AdapterRules
from softbio_jax.adapters.merge import merge
from softbio_jax.console import QUIET, Console
from softbio_jax.errors import UserError
from softbio_jax.interop.keymap import check_finite
from softbio_jax.interop.peft_layers import Adapter
from softbio_jax.params import flatten, unflatten


def folded(flat: Mapping[str, np.ndarray], adapter: Adapter) -> dict[str, np.ndarray]:
    """Returns an encoder, one entry per block, with each layer's own adapter in its kernel.

    What the adapter changes is float32, whatever the encoder's type.

    Raises:
      UserError: a layer that the encoder does not have.
    """
    result = dict(flat)
    for path, leaf in adapter.trained.items():
        _check_has(flat, path, adapter)
        result[path] = leaf.astype(np.float32)
    beside: dict[str, np.ndarray] = {}
    for path, layer in adapter.layers.items():
        kernel = path if path == "proj" else f"{path}/kernel"
        _check_has(flat, kernel, adapter)
        # A convolution's kernel (rows, columns, in, out) is a matrix of patches.
        matrix = result[kernel].astype(np.float32).reshape(-1, result[kernel].shape[-1])
        beside |= {f"{path}/kernel": matrix, f"{path}/lora_a": layer.a, f"{path}/lora_b": layer.b}
        if layer.magnitude is not None:
            beside[f"{path}/dora_magnitude"] = layer.magnitude
        if layer.bias is not None and (layer.bias.any() or f"{path}/bias" in result):
            _check_has(flat, f"{path}/bias", adapter)
            update = np.float32(layer.config.scale) * layer.bias
            result[f"{path}/bias"] = result[f"{path}/bias"].astype(np.float32) + update
    rules = tuple((re.escape(path), layer.config) for path, layer in adapter.layers.items())
    for path, kernel in flatten(merge(unflatten(beside), AdapterRules(rules=rules))).items():
        own = "proj" if path == "proj/kernel" else path
        result[own] = np.asarray(kernel).reshape(flat[own].shape)
    return result


def _check_has(flat: Mapping[str, np.ndarray], leaf: str, adapter: Adapter) -> None:
    if leaf not in flat:
        text, vision = leaf.startswith("text/"), adapter.vision()
        drop = ", or add --vision_only" if vision.layers or vision.trained else ""
        raise UserError(
            "adapter of the text encoder, which the base does not have"
            if text
            else "adapter of a layer that the base does not have",
            where=leaf.removesuffix("/kernel"),
            expected="a base with this layer",
            found="none",
            fix=f"name a base of both encoders{drop}" if text else "name the encoder that it was trained on",
        )


def rounded(
    exact: Mapping[str, np.ndarray],
    base: Mapping[str, np.ndarray],
    *,
    where: str = "",
    console: Console = QUIET,
) -> dict[str, np.ndarray]:
    """Returns folded weights in the types that the base has them in.

    Args:
      exact: from `folded`.
      base: the encoder without the adapter, by the same paths.
      where: the base, for the error.
      console: is given a line with the largest absolute rounding d = |stored - exact| and the
        largest relative one d / |exact|, over weights that are normal numbers of the type.

    Raises:
      UserError: weights that became too large for their type, or that are no numbers.
    """
    stored, absolute, relative, types = dict(exact), 0.0, 0.0, set()
    for path, leaf in exact.items():
        own = base[path].dtype if path in base else leaf.dtype
        if own == leaf.dtype:
            continue
        with np.errstate(over="ignore"):  # checked below
            stored[path] = leaf.astype(own)
        difference = np.abs(stored[path].astype(np.float32) - leaf)
        normal = np.abs(leaf) >= float(ml_dtypes.finfo(own).smallest_normal)
        absolute = max(absolute, float(difference.max(initial=0.0)))
        relative = max(relative, float((difference[normal] / np.abs(leaf[normal])).max(initial=0.0)))
        types.add(own.name)
    check_finite({path: leaf for path, leaf in stored.items() if leaf is not base.get(path)}, where=where)
    if types:
        console.say(
            f"folded in float32 and stored as {', '.join(sorted(types))}: rounded by at most {absolute:.2g},"
            f" {relative:.2g} of a weight"
        )
    return stored
