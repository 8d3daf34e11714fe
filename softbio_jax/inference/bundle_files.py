"""A bundle as a folder: model.safetensors and config.json, arrays and JSON, no code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules, LoRAConfig, TaskRules
from softbio_jax.checkpoints import digest
from softbio_jax.errors import UserError
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.new_folder import new_folder
from softbio_jax.interop.keymap import shapes_of
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.interop.strict import check_finite, check_shapes
from softbio_jax.models.attention import on_this_machine
from softbio_jax.models.config import ComputeConfig, VisionConfig
from softbio_jax.models.heads import HeadConfig
from softbio_jax.params.paths import flatten, unflatten
from softbio_jax.tasks import TaskSpec
from softbio_jax.train.config import from_mapping

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT, SCHEMA = "softbio_jax", 1
# What the pictures go through before the tower; written for other programs, checked on reading.
PREPROCESSING = {
    "colours": "RGB",
    "resize": "squash to a square: area averages when shrinking more than 1.5 times, else bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


def save(bundle: Bundle, directory: str | pathlib.Path) -> pathlib.Path:
    """Writes a bundle to a new folder, whole or not at all.

    Raises:
      UserError: the folder exists.
    """
    directory = pathlib.Path(directory)
    arrays = {path: np.asarray(leaf) for path, leaf in flatten(bundle.variables).items()}
    notes = {"format": FORMAT, "variant": bundle.tower.name}
    with new_folder(directory) as folder:
        save_arrays(folder / WEIGHTS, arrays, metadata=notes)
        (folder / CONFIG).write_text(json.dumps(to_json(bundle), indent=2) + "\n")
        # Safetensors are written for their owner alone; the folder's readers are those of any file.
        (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)
    return directory


def from_directory(directory: str | pathlib.Path) -> Bundle:
    """Reads what `save` wrote, every key, shape and value checked.

    Raises:
      UserError: something else, damaged, or of a newer format.
    """
    directory = pathlib.Path(directory)
    bundle = _settings(directory / CONFIG)
    where = str(directory / WEIGHTS)
    arrays, _ = load_arrays(where)
    for task in bundle.tasks:
        bias = arrays.get(f"params/heads/{task.name}/dense_out/bias")
        if bias is not None and bias.shape != (task.num_classes,):
            raise UserError("head with other classes", where=f"{where} head {task.name}",
                            expected=f"{task.num_classes} classes, as config.json names them",
                            found=str(len(bias)),
                            fix="give weights and config.json of the same model")  # fmt: skip
    check_shapes(
        shapes_of(arrays), _expected(bundle), where=where, layout=f"a {bundle.tower.name} bundle"
    )
    check_finite(arrays, where=where)
    return dataclasses.replace(bundle, variables={"batch_stats": {}} | unflatten(arrays))


def is_bundle(directory: pathlib.Path) -> bool:
    """Tells whether a folder holds a bundle, and not a run or something else."""
    path = directory / CONFIG
    try:
        return path.is_file() and json.loads(path.read_text()).get("format") == FORMAT
    except (ValueError, AttributeError):
        return False


def label(bundle: Bundle) -> str:
    """Returns `name@digest`, the digest that of everything predictions depend on."""
    settings = {key: value for key, value in to_json(bundle).items() if key != "name"}
    text = json.dumps(settings, sort_keys=True) + digest.of_tree(bundle.variables)
    return f"{bundle.name}@{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def to_json(bundle: Bundle) -> dict[str, Any]:
    """Returns the contents of config.json."""
    adapted = bundle.adapters != NO_ADAPTERS
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "name": bundle.name,
        "method": bundle.method,
        "tower": dataclasses.asdict(bundle.tower),
        "image_size": bundle.image_size,
        "preprocessing": PREPROCESSING,
        "tasks": {task.name: list(task.classes) for task in bundle.tasks},
        "head": dataclasses.asdict(bundle.head),
        "feature": bundle.feature,
        "compute": dataclasses.asdict(bundle.compute),
        "adapters": dataclasses.asdict(bundle.adapters) if adapted else None,
        "tail": bundle.tail,
        "temperatures": dict(bundle.temperatures),
    }


def _settings(path: pathlib.Path) -> Bundle:
    if not path.is_file():
        raise UserError("no model", where=str(path.parent), expected=f"{CONFIG} and {WEIGHTS}",
                        found="no config.json", fix="correct the path")  # fmt: skip
    try:
        values = json.loads(path.read_text())
        if values["format"] != FORMAT or values["schema"] != SCHEMA:
            raise ValueError(f"format {values['format']!r}, schema {values['schema']!r}")
        for name, expected in PREPROCESSING.items():
            if (found := values["preprocessing"].get(name)) != expected:
                raise UserError("a model of another preprocessing", where=f"{path} {name}",
                                expected=str(expected), found=str(found),
                                fix=f"write {expected}, which this project's models were "
                                "trained with, or use the program that wrote it")  # fmt: skip
        return Bundle(
            name=values["name"],
            method=values["method"],
            tower=from_mapping(VisionConfig, values["tower"], "tower"),
            image_size=int(values["image_size"]),
            tasks=tuple(TaskSpec(name=k, classes=tuple(v)) for k, v in values["tasks"].items()),
            head=from_mapping(HeadConfig, values["head"], "head"),
            feature=values["feature"],
            compute=on_this_machine(from_mapping(ComputeConfig, values["compute"], "compute")),
            adapters=_rules(values["adapters"]),
            tail=int(values["tail"]),
            temperatures={k: float(v) for k, v in values["temperatures"].items()},
            variables={},
        )
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("not a model's configuration", where=str(path),
                        expected=f"format {FORMAT!r}, schema {SCHEMA}",
                        found=f"{type(error).__name__}: {error}",
                        fix="write it again with this version") from error  # fmt: skip


def _rules(values: Mapping[str, Any] | None) -> AdapterRules:
    if values is None:
        return NO_ADAPTERS
    own = values["per_task"]
    rules = tuple((pattern, LoRAConfig(**config)) for pattern, config in values["rules"])
    return AdapterRules(rules=rules, per_task=None if own is None else TaskRules.from_json(own))


def _expected(bundle: Bundle) -> dict[str, tuple[int, ...]]:
    size = bundle.tower.patch_size  # parameters do not depend on the resolution
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return shapes_of(flatten(dict(jax.eval_shape(bundle.model.init, key, image))))
