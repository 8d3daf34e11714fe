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
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax import coverage
from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules, LoRARule, TaskRules
from softbio_jax.checkpoints import leaves
from softbio_jax.errors import UserError
from softbio_jax.files import atomic_folder
from softbio_jax.inference import crops as crops_lib
from softbio_jax.inference.reference.preprocessing import PREPROCESSING, describe
from softbio_jax.inference.reference.write import Run, write_reference
from softbio_jax.interop.keymap import check_finite, check_shapes, shapes_of
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.attention.choice import on_this_machine, resolved
from softbio_jax.models.config import ComputeConfig, Side, VisionConfig
from softbio_jax.models.forward import forward
from softbio_jax.models.multitask import HeadConfig, MultitaskModel, check_tasks
from softbio_jax.params import Tree, flatten, unflatten
from softbio_jax.ranges import Name, Range, checked, from_mapping
from softbio_jax.safety import untrusted
from softbio_jax.tasks import Classes, TaskSpec

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT, SCHEMAS = "softbio_jax", (1, 2)  # 2 has flip_average, which older versions would not read
_TRUNK, _UNSURE = "encoder/trunk/", "thresholds"
_FETCH, _REWRITE = "fetch or export both files again", "write it again with this version"
# The fields of config.json besides those that are a dataclass.
_RANGES = {
    "name": Annotated[str, Name()],
    "method": Annotated[str, Name()],
    "image_size": Side,
    "tail": int,
    "tasks": Mapping[Annotated[str, Name()], Classes],
    "feature": Literal["pooled", "projected"],
    "temperatures": Mapping[str, Annotated[float, Range(1e-6, 1e6)]],
}
_THRESHOLDS = Mapping[str, Mapping[str, Annotated[float, Range(0, 1)] | None]]

Images = jax.Array | np.ndarray
Thresholds = Mapping[str, Mapping[str, float | None]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A model ready for use.

    Args:
      name: the model's name in tables and cards.
      method: the adaptation method, for information only: its weights are merged.
      image_size: side S of the images in pixels.
      model: encoder and heads, with the rules of adapters that cannot be merged (MTLoRA's).
      temperatures: task -> T > 0 fitted on validation rows; other tasks are not calibrated.
      training_images: task -> class -> number of training images; tasks without a record are absent.
      crops: how the training images were cut, by training set; empty where unknown.
      thresholds: task -> risk, such as "0.1" -> the probability below which an answer is unsure, chosen on
        validation rows, None where none keeps the risk; empty where unknown.
      variables: {"params": encoder, pool, proj, heads, "batch_stats": heads}, float32.
    """

    name: str
    method: str
    image_size: int
    model: MultitaskModel
    temperatures: Mapping[str, float]
    variables: Tree
    training_images: coverage.TrainingImages = dataclasses.field(default_factory=dict)
    crops: crops_lib.Crops = dataclasses.field(default_factory=dict)
    thresholds: Thresholds = dataclasses.field(default_factory=dict)

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
        return self.answers(variables, images)[0]

    def answers(self, variables: Tree, images: Images) -> tuple[dict[str, jax.Array], jax.Array | None]:
        """Returns the logits of `forward`, and the expected age in years (B,) of a head of years."""
        with jax.default_matmul_precision(self.model.compute.matmul_precision):
            _, logits, years = forward(self.model, variables, jax.numpy.asarray(images))
        return logits, years

    def on_device(self, device: jax.Device) -> Bundle:
        """Returns the bundle with the attention and the unrolling that suit one device."""
        compute, encoder = on_this_machine(self.model.compute, [device]), self.model.config
        patches = (self.image_size // encoder.patch_size,) * 2
        compute, _ = resolved(compute, encoder, [device], tokens=encoder.tokens_on(patches))
        return dataclasses.replace(self, model=self.model.clone(compute=compute))


def save(bundle: Bundle, directory: str | pathlib.Path) -> pathlib.Path:
    """Writes a bundle to a new folder, which appears only once complete.

    Raises:
      UserError: the folder exists.
    """
    directory = pathlib.Path(directory)
    arrays = {path: np.asarray(leaf) for path, leaf in flatten(bundle.variables).items()}
    settings = json.loads(json.dumps(to_json(bundle)))
    notes = {"format": FORMAT, "variant": bundle.variant} | _digests(settings, arrays)
    with atomic_folder(directory) as folder:
        save_arrays(folder / WEIGHTS, arrays, metadata=notes)
        (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
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
    settings, bundle = _settings(directory / CONFIG)
    where = str(directory / WEIGHTS)
    arrays, notes = load_arrays(where)
    for task in bundle.tasks:
        bias = arrays.get(f"params/heads/{task.name}/dense_out/bias")
        outputs = bundle.model.head.outputs(task)
        if bias is not None and bias.shape != (outputs,):
            raise UserError(
                "head with other classes",
                where=f"{where} head {task.name}",
                expected=f"{outputs} classes, as config.json names them",
                found=str(len(bias)),
                fix="give weights and config.json of the same model",
            )
    check_shapes(shapes_of(arrays), _expected(bundle), where=where, layout=f"a {bundle.variant} bundle")
    check_finite(arrays, where=where)
    for name, digest in _digests(settings, arrays).items():
        if notes.get(name, digest) != digest:  # older ones have none
            raise UserError(
                "a damaged model, or files of two",
                where=str(directory / CONFIG) if name == "settings" else where,
                expected=f"the {name} that were saved together, {notes[name][:12]}",
                found=digest[:12],
                fix=_FETCH,
            )
    return dataclasses.replace(bundle, variables={"batch_stats": {}} | unflatten(arrays))


def is_bundle(directory: pathlib.Path) -> bool:
    """Returns whether a folder holds a bundle, rather than a run or something else."""
    path = directory / CONFIG
    try:
        return path.is_file() and untrusted.read_json(path, wrong="", fix="").get("format") == FORMAT
    except UserError:
        return False


def label(bundle: Bundle) -> str:
    """Returns `name@digest` with a digest of everything that predictions depend on."""
    ignored = ("name", coverage.KEY, _UNSURE)  # no probability depends on them
    settings = {key: value for key, value in to_json(bundle).items() if key not in ignored}
    settings["preprocessing"] = PREPROCESSING  # not how it is worded for other programs
    text = json.dumps(settings, sort_keys=True) + leaves.of_tree(bundle.variables)
    return f"{bundle.name}@{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _digests(settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the SHA-256 of the contents of config.json but the name, and of the weights."""
    text = json.dumps({key: value for key, value in settings.items() if key != "name"}, sort_keys=True)
    return {"settings": hashlib.sha256(text.encode()).hexdigest(), "weights": leaves.of_tree(dict(arrays))}


def to_json(bundle: Bundle) -> dict[str, Any]:
    """Returns the contents of config.json."""
    model = bundle.model
    return {
        "format": FORMAT,
        "schema": SCHEMAS[-1] if model.flip_average else SCHEMAS[0],
        "name": bundle.name,
        "method": bundle.method,
        "tower": model.config.to_json(),  # its name since the first schema
        "image_size": bundle.image_size,
        "preprocessing": describe(bundle.image_size, training=bundle.crops),
        "tasks": {task.name: list(task.classes) for task in bundle.tasks},
        "head": dataclasses.asdict(model.head),
        "feature": model.feature,
        **({"flip_average": True} if model.flip_average else {}),
        "compute": dataclasses.asdict(model.compute),
        "adapters": None if model.adapters == NO_ADAPTERS else dataclasses.asdict(model.adapters),
        "tail": model.tail,
        "temperatures": dict(bundle.temperatures),
        **thresholds_to_json(bundle),
        **counts_to_json(bundle),
    }


def thresholds_to_json(bundle: Bundle) -> dict[str, Any]:
    """Returns the entry of config.json with the thresholds of unsure answers; empty where unknown."""
    return {_UNSURE: {task: dict(of) for task, of in bundle.thresholds.items()}} if bundle.thresholds else {}


def counts_to_json(bundle: Bundle) -> dict[str, Any]:
    """Returns the entry of config.json with the training images per class; empty where unknown."""
    return {coverage.KEY: bundle.training_images} if bundle.training_images else {}


def _settings(path: pathlib.Path) -> tuple[dict[str, Any], Bundle]:
    """Returns the contents of a config.json, and the bundle that it describes, without its variables."""
    try:
        values = settings = untrusted.read_json(path, wrong="not a model's configuration", fix=_REWRITE)
        if values["format"] != FORMAT or values["schema"] not in SCHEMAS:
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
        images = coverage.from_json(values.get(coverage.KEY))
        crops = crops_lib.from_json(values["preprocessing"].get("crop", {}).get(crops_lib.KEY))
        thresholds = checked(_THRESHOLDS, values.get(_UNSURE, {}), f"{path} {_UNSURE}")
        where, fields = f"{path} ", {"tower", "compute", "head", *_RANGES}
        values = {name: values[name] for name in fields | {"adapters"}}
        values |= {name: checked(hint, values[name], where + name) for name, hint in _RANGES.items()}
        flip_average = checked(bool, settings.get("flip_average", False), where + "flip_average")
        encoder = from_mapping(VisionConfig, values["tower"], where + "tower")
        encoder.check_image_size(values["image_size"], where=where + "image_size")
        checked(Annotated[int, Range(0, encoder.layers)], values["tail"], where + "tail")
        check_tasks(list(values["tasks"]), where=where + "tasks")
        for task in sorted(set(values["temperatures"]) - set(values["tasks"])):
            raise ValueError(f"a temperature of {task!r}, which is no task")
        compute = from_mapping(ComputeConfig, values["compute"], where + "compute")
        bundle = Bundle(
            name=values["name"],
            method=values["method"],
            image_size=values["image_size"],
            model=MultitaskModel(
                encoder,
                compute=on_this_machine(compute),
                adapters=_rules(values["adapters"], where + "adapters"),
                tail=values["tail"],
                tasks=tuple(TaskSpec(name=k, classes=v) for k, v in values["tasks"].items()),
                head=from_mapping(HeadConfig, values["head"], where + "head"),
                feature=values["feature"],
                flip_average=flip_average,
            ),
            temperatures=values["temperatures"],
            training_images=images,
            crops=crops,
            thresholds=thresholds,
            variables={},
        )
        return settings, bundle
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "not a model's configuration",
            where=str(path),
            expected=f"format {FORMAT!r}, schema {' or '.join(map(str, SCHEMAS))}",
            found=f"{type(error).__name__}: {error}",
            fix=_REWRITE,
        ) from error


def _rules(values: Mapping[str, Any] | None, where: str) -> AdapterRules:
    if values is None:
        return NO_ADAPTERS
    own = checked(TaskRules | None, values["per_task"], f"{where}.per_task")
    rules = checked(tuple[LoRARule, ...], values["rules"], f"{where}.rules")
    return AdapterRules(rules=rules, per_task=own)


def _expected(bundle: Bundle) -> dict[str, tuple[int, ...]]:
    size = bundle.model.config.patch_size  # the shapes of parameters do not depend on the resolution
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return shapes_of(flatten(dict(jax.eval_shape(bundle.model.init, key, image))))
