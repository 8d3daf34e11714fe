"""What a trained run becomes for use: merged weights, and all that a prediction depends on."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Literal, cast

import jax
import numpy as np

from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules
from softbio_jax.adapters.merge import merge
from softbio_jax.data.augment import normalize
from softbio_jax.interop import stacking
from softbio_jax.models.config import ComputeConfig, VisionConfig
from softbio_jax.models.heads import HeadConfig
from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.params.paths import Tree, flatten, unflatten
from softbio_jax.tasks import TaskSpec

Images = jax.Array | np.ndarray
_TRUNK = "encoder/trunk/"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A model ready for use.

    Args:
      name: what tables and cards call it.
      method: how it was adapted; a note, the weights are merged.
      tower: shape of the vision tower.
      image_size: side S of the pictures in pixels.
      tasks: the heads' tasks, in their order.
      head: shape of the heads.
      feature: which feature the heads read.
      compute: types and precision of the forward pass.
      adapters: what could not be folded into a kernel (MTLoRA's per-task part), else no rules.
      tail: k, how many of the last blocks are kept apart; 0 without such adapters.
      temperatures: task -> T > 0 fitted on validation rows; tasks without one are left as they are.
      variables: {"params": encoder, pool, proj, heads, "batch_stats": heads}, float32.
    """

    name: str
    method: str
    tower: VisionConfig
    image_size: int
    tasks: tuple[TaskSpec, ...]
    head: HeadConfig
    feature: Literal["pooled", "projected"]
    compute: ComputeConfig
    adapters: AdapterRules
    tail: int
    temperatures: Mapping[str, float]
    variables: Tree

    @functools.cached_property
    def model(self) -> MultitaskModel:
        """The module that `variables` belong to."""
        return MultitaskModel(
            self.tower,
            compute=self.compute,
            adapters=self.adapters,
            tail=self.tail,
            tasks=self.tasks,
            head=self.head,
            feature=self.feature,
        )

    def forward(self, variables: Tree, images: Images) -> dict[str, jax.Array]:
        """Maps uint8 images to logits, purely: what is jitted, exported and differentiated.

        Args:
          variables: of the structure of `self.variables`.
          images: (B, S, S, 3) uint8, RGB.

        Returns:
          {task: (B, C)} float32, before any temperature.
        """
        with jax.default_matmul_precision(self.compute.matmul_precision):
            logits = self.model.apply(variables, normalize(jax.numpy.asarray(images)))
        return cast(dict[str, jax.Array], logits)


def from_run(workdir: str | pathlib.Path) -> Bundle:
    """Returns the bundle of a run directory, at the checkpoint that its evaluation took.

    The temperatures are those that the run's last evaluation fitted on its validation rows.

    Raises:
      UserError: no run, no checkpoint, or one that does not fit.
    """
    from softbio_jax.train.restore import restore_run

    workdir = pathlib.Path(workdir)
    session = restore_run(workdir)
    model = session.run.model
    # In float32: what the adapters add must not be rounded to the frozen kernels' type.
    flat = {path: np.asarray(leaf, np.float32) for path, leaf in flatten(session.params()).items()}
    params = unflatten({p: leaf for p, leaf in flat.items() if not p.startswith("balance/")})
    stats = {k: v for k, v in session.state.batch_stats.items() if k != "balance"}
    params, adapters, tail = folded(params, model.adapters, tail=model.tail)
    names = {task.name for task in model.tasks}
    return Bundle(
        name=_name(workdir.resolve()),
        method=session.run.method.name,
        tower=model.config,
        image_size=session.run.image_size,
        tasks=model.tasks,
        head=model.head,
        feature=model.feature,
        compute=dataclasses.replace(model.compute, remat="none"),
        adapters=adapters,
        tail=tail,
        temperatures={t: v for t, v in _fitted(workdir).items() if t in names},
        variables={"params": params, "batch_stats": jax.device_get(stats)},
    )


def folded(params: Tree, rules: AdapterRules, *, tail: int) -> tuple[Tree, AdapterRules, int]:
    """Folds every adapter that folds into one tower.

    Without per-task adapters that is all of them, and the last blocks join the others. MTLoRA's
    trunk folds; its last block and pooling are each task's own and stay adapted.

    Args:
      params: nested dict of arrays, adapted.
      rules: the rules it was built with.
      tail: k, how many of the last blocks are kept apart in it.

    Returns:
      The parameters, the rules that are left, and how many blocks are still kept apart.
    """
    if rules.per_task is None:
        plain = stacking.unstack(flatten(merge(params, rules)))
        return unflatten(stacking.stack(plain)), NO_ADAPTERS, 0
    flat = flatten(params)
    trunk = {path: leaf for path, leaf in flat.items() if path.startswith(_TRUNK)}
    rest = {path: leaf for path, leaf in flat.items() if path not in trunk}
    layers = {path.rpartition("/")[0] for path in trunk}
    done = [rule for rule in rules.rules if any(re.fullmatch(rule[0], x) for x in layers)]
    left = tuple(rule for rule in rules.rules if rule not in done)
    merged = flatten(merge(unflatten(trunk), AdapterRules(rules=tuple(done))))
    return unflatten(merged | rest), dataclasses.replace(rules, rules=left), tail


def _name(workdir: pathlib.Path) -> str:
    # scripts/demo.py puts its run into a folder called run.
    return workdir.parent.name if workdir.name == "run" else workdir.name


def _fitted(workdir: pathlib.Path) -> dict[str, float]:
    path = workdir / "eval" / "metrics.json"
    return dict(json.loads(path.read_text())["temperatures"]) if path.exists() else {}
