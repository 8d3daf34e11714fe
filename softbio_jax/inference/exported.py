"""An exported model: a folder of its files and a config.json that says how to use them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax

import softbio_jax
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.bundle_files import PREPROCESSING

CONFIG = "config.json"
SCHEMA = 1
INPUT = "images"


def write_config(
    folder: pathlib.Path, bundle: Bundle, *, form: str, batch: int | str, **settings: Any
) -> None:
    """Writes config.json: input, outputs with their classes, preprocessing and temperatures.

    Args:
      folder: the export's.
      bundle: what was exported.
      form: the format.
      batch: pictures a call, or the name of the free axis.
      settings: what else holds for the format.
    """
    size = bundle.image_size
    values = {
        "format": form,
        "schema": SCHEMA,
        "name": bundle.name,
        "variant": bundle.tower.name,
        "method": bundle.method,
        "input": {"name": INPUT, "shape": [batch, size, size, 3], "type": "uint8"},
        "outputs": {task.name: list(task.classes) for task in bundle.tasks},
        "temperatures": dict(bundle.temperatures),
        "preprocessing": {**PREPROCESSING, "normalisation": "inside the model"},
        "versions": {"softbio_jax": softbio_jax.__version__, "jax": jax.__version__},
        **settings,
    }
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n")


def portable(bundle: Bundle) -> Bundle:
    """Returns the bundle in float32 with plain attention, which every runtime can do."""
    compute = dataclasses.replace(bundle.compute, dtype="float32", attention="xla", remat="none")
    return dataclasses.replace(bundle, compute=compute)
