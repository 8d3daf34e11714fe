"""The one call that most programs need: `load`."""

from __future__ import annotations

import os

import jax

from softbio_jax.inference.predictor import Predictor
from softbio_jax.inference.source import open_bundle


def load(
    source: str | os.PathLike[str],
    *,
    device: jax.Device | str | None = None,
    max_batch: int = 64,
) -> Predictor:
    """Returns a trained model, ready to predict.

    Args:
      source: a run of scripts/train.py, a folder that `bundle_files.save` wrote, or a hub id.
      device: a device, or a name such as "cpu" or "gpu:1"; None: JAX's first.
      max_batch: how many pictures run at once at most, a power of two.

    Raises:
      UserError: no model, or no such device.
    """
    return Predictor(open_bundle(source), device=device, max_batch=max_batch)
