"""A trained model ready for use: merged weights and every setting that a prediction depends on.

A bundle comes from a run directory (`from_run`) or from a folder of `config.json` and
`model.safetensors` (`save`, `from_directory`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules, LoRAConfig, TaskRules
from softbio_jax.adapters.merge import merge
from softbio_jax.checkpoints import leaves
from softbio_jax.errors import UserError
from softbio_jax.files import atomic_folder
from softbio_jax.inference.reference.preprocessing import PREPROCESSING, describe
from softbio_jax.inference.reference.write import Run, write_reference
from softbio_jax.interop import stacking
from softbio_jax.interop.keymap import check_finite, check_shapes, shapes_of
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.attention import on_this_machine
from softbio_jax.models.config import ComputeConfig, VisionConfig
from softbio_jax.models.forward import forward
from softbio_jax.models.multitask import HeadConfig, MultitaskModel
from softbio_jax.params import Tree, flatten, unflatten
from softbio_jax.runs.config import from_mapping
from softbio_jax.tasks import TaskSpec

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT, SCHEMA = "softbio_jax", 1
_TRUNK = "encoder/trunk/"

Images = jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A model ready for use.

    Args:
      name: the model's name in tables and cards.
      method: the adaptation method, for information only: its weights are merged.
      image_size: side S of the images in pixels.
      model: encoder and heads, with the rules of adapters that cannot be merged (MTLoRA's).
      temperatures: task -> T > 0 fitted on validation rows; other tasks are not calibrated.
      variables: {"params": encoder, pool, proj, heads, "batch_stats": heads}, float32.
    """

    name: str
    method: str
    image_size: int
    model: MultitaskModel
    temperatures: Mapping[str, float]
    variables: Tree

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks of the heads, in their order."""
        return self.model.tasks

    @property
    def variant(self) -> str:
        """The name of the encoder's shape."""
        return self.model.config.name

    def forward(self, variables: Tree, images: Images) -> dict[str, jax.Array]:
        """Maps uint8 images to logits, purely: what is jitted, exported and differentiated.

        Args:
          variables: of the structure of `self.variables`.
          images: (B, S, S, 3) uint8, RGB.

        Returns:
          {task: (B, C)} float32, before any temperature.
        """
        with jax.default_matmul_precision(self.model.compute.matmul_precision):
            return forward(self.model, variables, jax.numpy.asarray(images)).logits


def from_run(workdir: str | pathlib.Path) -> Bundle:
    """Returns the bundle of a run directory, at the checkpoint that its evaluation used.

    Its temperatures are those that the last evaluation fitted on validation rows.

    Raises:
      UserError: no run, no checkpoint, or one that does not fit.
    """
    from softbio_jax.runs.restore import restore_run

    workdir = pathlib.Path(workdir)
    path = workdir.resolve()
    session = restore_run(workdir)
    model = session.run.model
    # In float32: a merged adapter must not be rounded to the frozen kernels' type.
    flat = {path: np.asarray(leaf, np.float32) for path, leaf in flatten(session.params()).items()}
    params = unflatten({p: leaf for p, leaf in flat.items() if not p.startswith("balance/")})
    stats = {k: v for k, v in session.state.batch_stats.items() if k != "balance"}
    params, model = folded(params, model)
    names = {task.name for task in model.tasks}
    metrics = workdir / "eval" / "metrics.json"
    fitted = json.loads(metrics.read_text())["temperatures"] if metrics.exists() else {}
    return Bundle(
        # scripts/demo.py trains in OUT/run.
        name=path.parent.name if path.name == "run" else path.name,
        method=session.run.method.name,
        image_size=session.run.image_size,
        model=model.clone(compute=dataclasses.replace(model.compute, remat="none")),
        temperatures={t: v for t, v in fitted.items() if t in names},
        variables={"params": params, "batch_stats": jax.device_get(stats)},
    )


def folded(params: Tree, model: MultitaskModel) -> tuple[Tree, MultitaskModel]:
    """Merges into the kernels every adapter that all tasks share; returns the parameters and their model.

    Without task-specific adapters that is all of them, and the last blocks are stacked with the
    others again. With MTLoRA the trunk is merged; its last blocks and pooling stay adapted.
    """
    rules = model.adapters
    if rules.per_task is None:
        plain = stacking.unstack(flatten(merge(params, rules)))
        return unflatten(stacking.stack(plain)), model.clone(adapters=NO_ADAPTERS, tail=0)
    flat = flatten(params)
    trunk = {path: leaf for path, leaf in flat.items() if path.startswith(_TRUNK)}
    rest = {path: leaf for path, leaf in flat.items() if path not in trunk}
    layers = {path.rpartition("/")[0] for path in trunk}
    done = [rule for rule in rules.rules if any(re.fullmatch(rule[0], x) for x in layers)]
    left = tuple(rule for rule in rules.rules if rule not in done)
    merged = flatten(merge(unflatten(trunk), AdapterRules(rules=tuple(done))))
    return unflatten(merged | rest), model.clone(adapters=dataclasses.replace(rules, rules=left))


def save(bundle: Bundle, directory: str | pathlib.Path) -> pathlib.Path:
    """Writes a bundle to a new folder, which appears only once complete.

    Raises:
      UserError: the folder exists.
    """
    directory = pathlib.Path(directory)
    arrays = {path: np.asarray(leaf) for path, leaf in flatten(bundle.variables).items()}
    notes = {"format": FORMAT, "variant": bundle.variant}
    with atomic_folder(directory) as folder:
        save_arrays(folder / WEIGHTS, arrays, metadata=notes)
        (folder / CONFIG).write_text(json.dumps(to_json(bundle), indent=2) + "\n")
        write_reference(folder, {WEIGHTS: runner(bundle)}, size=bundle.image_size)
        # safetensors creates files that only their owner can read.
        (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)
    return directory


def runner(bundle: Bundle) -> Run:
    """Returns what computes the logits of an image (1, S, S, 3) uint8, or float32 in [-1, 1]."""
    model = bundle.model.clone(compute=on_this_machine(bundle.model.compute))
    return lambda images: _forward(model, bundle.variables, images)


@functools.partial(jax.jit, static_argnums=0)  # compiled once for models that differ in weights alone
def _forward(model: MultitaskModel, variables: Tree, images: Images) -> dict[str, jax.Array]:
    with jax.default_matmul_precision(model.compute.matmul_precision):
        return forward(model, variables, jnp.asarray(images)).logits


def from_directory(directory: str | pathlib.Path) -> Bundle:
    """Reads a folder that `save` wrote, and checks every key, shape and value.

    Raises:
      UserError: another kind of folder, a damaged one, or one of a newer format.
    """
    directory = pathlib.Path(directory)
    bundle = _settings(directory / CONFIG)
    where = str(directory / WEIGHTS)
    arrays, _ = load_arrays(where)
    for task in bundle.tasks:
        bias = arrays.get(f"params/heads/{task.name}/dense_out/bias")
        if bias is not None and bias.shape != (task.num_classes,):
            raise UserError(
                "head with other classes",
                where=f"{where} head {task.name}",
                expected=f"{task.num_classes} classes, as config.json names them",
                found=str(len(bias)),
                fix="give weights and config.json of the same model",
            )
    check_shapes(shapes_of(arrays), _expected(bundle), where=where, layout=f"a {bundle.variant} bundle")
    check_finite(arrays, where=where)
    return dataclasses.replace(bundle, variables={"batch_stats": {}} | unflatten(arrays))


def is_bundle(directory: pathlib.Path) -> bool:
    """Returns whether a folder holds a bundle, rather than a run or something else."""
    path = directory / CONFIG
    try:
        return path.is_file() and json.loads(path.read_text()).get("format") == FORMAT
    except (ValueError, AttributeError):
        return False


def label(bundle: Bundle) -> str:
    """Returns `name@digest` with a digest of everything that predictions depend on."""
    settings = {key: value for key, value in to_json(bundle).items() if key != "name"}
    settings["preprocessing"] = PREPROCESSING  # not how it is worded for other programs
    text = json.dumps(settings, sort_keys=True) + leaves.of_tree(bundle.variables)
    return f"{bundle.name}@{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def to_json(bundle: Bundle) -> dict[str, Any]:
    """Returns the contents of config.json."""
    model = bundle.model
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "name": bundle.name,
        "method": bundle.method,
        "tower": dataclasses.asdict(model.config),  # its name since the first schema
        "image_size": bundle.image_size,
        "preprocessing": describe(bundle.image_size),
        "tasks": {task.name: list(task.classes) for task in bundle.tasks},
        "head": dataclasses.asdict(model.head),
        "feature": model.feature,
        "compute": dataclasses.asdict(model.compute),
        "adapters": None if model.adapters == NO_ADAPTERS else dataclasses.asdict(model.adapters),
        "tail": model.tail,
        "temperatures": dict(bundle.temperatures),
    }


def _settings(path: pathlib.Path) -> Bundle:
    """Returns the bundle of a config.json, without its variables."""
    try:
        values = json.loads(path.read_text())
        if values["format"] != FORMAT or values["schema"] != SCHEMA:
            raise ValueError(f"format {values['format']!r}, schema {values['schema']!r}")
        for name, expected in PREPROCESSING.items():
            if (found := values["preprocessing"].get(name)) != expected:
                raise UserError(
                    "another preprocessing",
                    where=f"{path} {name}",
                    expected=str(expected),
                    found=str(found),
                    fix=f"write {expected}, which this project's models were "
                    "trained with, or use the program that wrote it",
                )
        return Bundle(
            name=values["name"],
            method=values["method"],
            image_size=int(values["image_size"]),
            model=MultitaskModel(
                from_mapping(VisionConfig, values["tower"], "tower"),
                compute=on_this_machine(from_mapping(ComputeConfig, values["compute"], "compute")),
                adapters=_rules(values["adapters"]),
                tail=int(values["tail"]),
                tasks=tuple(TaskSpec(name=k, classes=tuple(v)) for k, v in values["tasks"].items()),
                head=from_mapping(HeadConfig, values["head"], "head"),
                feature=values["feature"],
            ),
            temperatures={k: float(v) for k, v in values["temperatures"].items()},
            variables={},
        )
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "not a model's configuration",
            where=str(path),
            expected=f"format {FORMAT!r}, schema {SCHEMA}",
            found=f"{type(error).__name__}: {error}",
            fix="write it again with this version",
        ) from error


def _rules(values: Mapping[str, Any] | None) -> AdapterRules:
    if values is None:
        return NO_ADAPTERS
    own = values["per_task"]
    rules = tuple((pattern, LoRAConfig(**config)) for pattern, config in values["rules"])
    return AdapterRules(rules=rules, per_task=None if own is None else TaskRules.from_json(own))


def _expected(bundle: Bundle) -> dict[str, tuple[int, ...]]:
    size = bundle.model.config.patch_size  # the shapes of parameters do not depend on the resolution
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return shapes_of(flatten(dict(jax.eval_shape(bundle.model.init, key, image))))
