"""From a run to a model ready for use: the checkpoint that was evaluated, adapters merged."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping

import jax
import numpy as np

from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules
from softbio_jax.adapters.merge import merge
from softbio_jax.errors import UserError
from softbio_jax.inference import crops
from softbio_jax.inference.bundle import Bundle, Thresholds
from softbio_jax.interop import stacking
from softbio_jax.models.config import ComputeConfig
from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.params import Tree, flatten, unflatten
from softbio_jax.runs.config import RunComputeConfig
from softbio_jax.safety import untrusted

_TRUNK = "encoder/trunk/"
_ONLY_TRAINED = ("balance/", "distill/")  # parameters of the loss


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
    params = unflatten({p: leaf for p, leaf in flat.items() if not p.startswith(_ONLY_TRAINED)})
    stats = {k: v for k, v in session.state.batch_stats.items() if k != "balance"}
    params, model = folded(params, model)
    names = {task.name for task in model.tasks}
    fitted = _fitted_temperatures(workdir / "eval" / "metrics.json")
    thresholds = _thresholds(workdir / "eval" / "validation.csv", fitted)
    return Bundle(
        # scripts/demo.py trains in OUT/run.
        name=path.parent.name if path.name == "run" else path.name,
        method=session.run.method.name,
        image_size=session.run.image_size,
        model=model.clone(compute=_portable(model.compute, session.run.config.compute)),
        temperatures={t: v for t, v in fitted.items() if t in names},
        training_images={t: n for t, n in session.training_images.items() if t in names},
        crops=_training_crops(workdir / "run.json"),
        thresholds={t: v for t, v in thresholds.items() if t in names},
        variables={"params": params, "batch_stats": jax.device_get(stats)},
    )


def _portable(compute: ComputeConfig, configured: RunComputeConfig) -> ComputeConfig:
    """Returns how a model computes wherever it is loaded: nothing is chosen for this machine's devices."""
    return dataclasses.replace(
        compute, remat="none", attention=configured.attention, unroll=configured.unroll
    )


def _training_crops(path: pathlib.Path) -> crops.Crops:
    """Returns how the images of a run's training sets are cut, as run.json has it; empty where unknown."""
    if not path.exists():
        return {}
    record = untrusted.read_json(path, wrong="a damaged record of a run", fix="restore it", own=True)
    sets = record.get("data", {}).items()
    found = {key.split("/")[1]: entry.get("crop") for key, entry in sets if key.startswith("train/")}
    return crops.from_json({name: crop for name, crop in found.items() if crop})


def _fitted_temperatures(path: pathlib.Path) -> dict[str, float]:
    """Returns the temperatures of an evaluation, none without one."""
    if not path.exists():
        return {}
    fix = "run scripts/evaluate.py again"
    found = untrusted.read_json(path, wrong="a damaged evaluation", fix=fix, own=True).get("temperatures")
    if not isinstance(found, dict) or not all(isinstance(value, float | int) for value in found.values()):
        raise UserError("a damaged evaluation", where=str(path), found="no temperatures", fix=fix)
    return found


def _thresholds(path: pathlib.Path, temperatures: Mapping[str, float]) -> Thresholds:
    """Returns the thresholds of unsure answers by the validation rows of an evaluation, none without them."""
    if not path.exists():
        return {}
    from softbio_jax.evaluation import predictions_csv
    from softbio_jax.evaluation.metrics import calibration, selective

    validation, found = predictions_csv.load(path), {}
    for task in validation.tasks():
        labels, probabilities = validation.labelled(task)
        scaled = calibration.with_temperature(probabilities, temperatures.get(task, 1.0))
        found[task] = selective.thresholds(labels, scaled)
    return found


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
