"""An exported model: a folder of its files and a config.json that says how to use them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax

import softbio_jax
from softbio_jax.errors import UserError
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.bundle_files import PREPROCESSING

CONFIG = "config.json"
SCHEMA = 1
INPUT = "images"


@contextlib.contextmanager
def new_folder(directory: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to write to, which gets its name once everything in it is written.

    Raises:
      UserError: the folder exists.
    """
    directory = pathlib.Path(directory)
    if directory.exists():
        raise UserError("the destination exists", where=str(directory), expected="a new name",
                        found="something there", fix="remove it or name another")  # fmt: skip
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
