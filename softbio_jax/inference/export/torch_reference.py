"""The configuration and the reference beside an encoder that was exported for torch."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import softbio_jax
from softbio_jax import files
from softbio_jax.inference.bundle import Bundle, runner
from softbio_jax.inference.export.stablehlo import CONFIG, SCHEMA, portable
from softbio_jax.inference.reference import mistakes
from softbio_jax.inference.reference.preprocessing import describe
from softbio_jax.inference.reference.write import write_reference


def write(encoder: pathlib.Path, bundle: Bundle, *, layout: str, tasks: Sequence[str]) -> None:
    """Writes NAME.config.json, NAME.reference.jpg and NAME.reference.json beside NAME.safetensors.

    Args:
      encoder: its file.
      bundle: the model that it is of.
      layout: whose names the weights have.
      tasks: those whose encoder it is.
    """
    # The file is what one pass of the encoder reads; averaging two is for the program that calls it.
    once = dataclasses.replace(bundle, model=bundle.model.clone(flip_average=False))
    size, run = bundle.image_size, runner(portable(once))
    encoder_config = bundle.model.config
    scale = mistakes.scale_of(encoder_config.mean, encoder_config.std)
    heads = {task.name: list(task.classes) for task in bundle.tasks if task.name in tasks}
    config: dict[str, Any] = {
        "format": f"safetensors of {layout}",
        "schema": SCHEMA,
        "name": bundle.name,
        "variant": bundle.variant,
        "method": bundle.method,
        "files": {"encoder": encoder.name, "heads": f"{encoder.stem}.heads{encoder.suffix}"},
        "input": {"shape": ["batch", 3, size, size], "type": "float32"},
        "feature": bundle.model.feature,
        "pooling": encoder_config.pooling,
        **({"flip_average": True} if bundle.model.flip_average else {}),
        "outputs": heads,
        "temperatures": {task: value for task, value in bundle.temperatures.items() if task in heads},
        "preprocessing": describe(
            size, normalised="outside", layout="NCHW", training=bundle.crops, scale=scale
        ),
        "versions": {"softbio_jax": softbio_jax.__version__},
    }

    def logits(images: np.ndarray) -> Mapping[str, Any]:
        values = images.transpose(0, 2, 3, 1)
        if scale is not mistakes.SIGNED:
            values = (scale.levels(values) / 127.5 - 1).astype(np.float32)
        found = run(values)
        return {task: found[task] for task in heads}

    prefix = f"{encoder.stem}."
    files.write_text(encoder.with_name(f"{prefix}{CONFIG}"), json.dumps(config, indent=2) + "\n")
    write_reference(
        encoder.parent,
        {encoder.name: logits},
        size=size,
        prefix=prefix,
        normalised="outside",
        layout="NCHW",
        scale=scale,
    )
