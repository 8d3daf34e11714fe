"""A run on its devices: sharded state, compiled functions, passes over data."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from softbio_jax import coverage
from softbio_jax.adapters.methods import FROZEN
from softbio_jax.checkpoints import leaves
from softbio_jax.console import QUIET, Console
from softbio_jax.data.loading import PADDING
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.models.forward import forward, per_layer, stacked
from softbio_jax.params import Tree, combine, unflatten
from softbio_jax.runs import build, parallel
from softbio_jax.runs import config as config_lib
from softbio_jax.runs.build import Run
from softbio_jax.runs.config import RunConfig
from softbio_jax.runs.data import RunData, eval_batches, train_batches
from softbio_jax.runs.optimizer import check_has_steps, effective_rates, evaluated
from softbio_jax.runs.state import TrainState
from softbio_jax.runs.step import Batch, Metrics, StepConfig, TrainStep, abstract_batch, make_train_step
from softbio_jax.tasks import MISSING

if TYPE_CHECKING:
    from softbio_jax.losses.distillation import Distillation
    from softbio_jax.runs.teacher import Teacher

# {example (B,), feature (B, D), logits/{task} (B, C), labels/{task} (B,)}, and expected_years (B,)
Packed = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs:
    """Logits of N examples in the data set's order, and features of some of them."""

    logits: dict[str, np.ndarray]  # {task: (N, C)} float32
    labels: dict[str, np.ndarray]  # {task: (N,)} int32, MISSING where unknown
    features: np.ndarray | None = None  # (M, D) float32, of the requested rows
    expected_years: np.ndarray | None = None  # (N,) float32, of a head of years

    @classmethod
    def concatenate(cls, outputs: Sequence["Outputs"]) -> Self:
        """Returns the examples of several data sets, one set after the other, without features."""
        tasks = outputs[0].labels
        return cls(
            logits={task: np.concatenate([o.logits[task] for o in outputs]) for task in tasks},
            labels={task: np.concatenate([o.labels[task] for o in outputs]) for task in tasks},
        )

    def tasks(self) -> list[str]:
        """Returns the tasks with at least one label."""
        return [task for task, labels in self.labels.items() if (labels != MISSING).any()]

    def losses(self) -> dict[str, float]:
        """Returns {task}/loss, the mean cross-entropy, and {task}/accuracy over labelled examples."""
        result = {}
        for task in self.tasks():
            known = self.labels[task] != MISSING
            logits, target = self.logits[task][known], self.labels[task][known]
            top = logits.max(axis=1)
            log_total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
            result[f"{task}/loss"] = float(np.mean(log_total - logits[np.arange(len(target)), target]))
            result[f"{task}/accuracy"] = float(np.mean(logits.argmax(axis=1) == target))
        return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledStep:
    """A compiled train step, which the sessions of the same run on the same devices may use.

    Args:
      config: of the run, with the types that "auto" means on the devices.
      devices: in the order of the mesh.
      jaxpr: what was traced.
      call: the executable.
    """

    config: RunConfig
    devices: tuple[Any, ...]
    jaxpr: Any
    call: Any

    def serves(self, run: Run, mesh: Mesh) -> bool:
        """Returns whether this is the step of a run on a mesh: nothing of its configuration differs."""
        devices = tuple(mesh.devices.flat)
        return devices == self.devices and self.config == config_lib.resolve_types(run.config, devices)


class Session:
    """Holds a run's state on a mesh, and the two compiled functions that read it.

    `caches` is whether it needs `cache` before the first step. `base` is the digest of the frozen tree in
    float32. `training_images` are the counts of `coverage`, set by who trains or restores the run.

    Args:
      run: what is trained or evaluated.
      devices: the devices to use; None: all.
    """

    caches = False

    def __init__(self, run: Run, *, devices: Sequence[jax.Device] | None = None):
        config = run.config
        self.run = run
        self.training_images = coverage.UNKNOWN
        self.mesh = parallel.make_mesh(fsdp=config.mesh.fsdp, devices=devices)
        parallel.check_batch(
            config.train.batch_size,
            self.mesh,
            microbatches=config.train.microbatches,
            where="train.batch_size",
        )
        parallel.check_batch(config.train.eval_batch_size, self.mesh, where="train.eval_batch_size")
        self.state: TrainState
        self.state, frozen = build.start(run, self.mesh)
        self.base = leaves.of_tree(frozen)
        frozen = per_layer(run.model, build.narrow(frozen, config))
        self._frozen = parallel.shard_weights(frozen, self.mesh)
        self._given = self._frozen if not is_taught_live(run) else self._with_teacher()
        # Made by jit, so that it is on every device of every process.
        self._key = jax.jit(
            lambda: jax.random.key(config.seed + 1), out_shardings=parallel.replicated(self.mesh)
        )()
        self._compiled: Any = None
        # Replicated, so that every process has every row.
        self._forward = jax.jit(self._predict_batch, out_shardings=parallel.replicated(self.mesh))

    def params(self) -> Tree:
        """Returns every parameter that evaluation uses on the host; all processes must call it."""
        return unflatten(leaves.host_leaves(combine(evaluated(self.state), stacked(self._frozen))))

    def compile(self, compiled: CompiledStep | None = None) -> Any:
        """Compiles the train step, once, ahead of its first batch; returns its jaxpr.

        Args:
          compiled: used in place of compiling, if it is this run's on these devices.
        """
        if compiled is not None and compiled.serves(self.run, self.mesh):
            self._compiled = compiled.call
            return compiled.jaxpr
        traced = trace_train_step(self.run, self.mesh, self.state, self._given)
        self._compiled = traced.lower().compile()
        return traced.jaxpr

    def batches(self, data: RunData) -> Any:
        """Returns the endless stream of training batches, which resumes, see `pipeline.TrainBatches`."""
        return train_batches(self.run.config, data, image_size=self.run.view_size)

    def cache(self, data: RunData, root: pathlib.Path, *, console: Console = QUIET) -> None:
        """Computes what every step reads again, or reads it from `root`; this session has nothing such."""

    def train(self, batch: Mapping[str, np.ndarray]) -> Metrics:
        """Runs one optimizer step on this process' rows; returns without waiting for it."""
        placed = parallel.to_global(batch, self.mesh)
        self.state, metrics = self._compiled(self.state, self._given, placed, self._key)
        return metrics

    def push(self, batch: Mapping[str, np.ndarray]) -> list[Metrics]:
        """Queues one step and returns the metrics of the steps that ran, in order."""
        return [self.train(batch)]

    def drain(self) -> list[Metrics]:
        """Runs the queued steps and returns their metrics; this session never queues any."""
        return []

    def forward(self, batch: Batch) -> Packed:
        """Returns logits, labels, example and feature of a global batch, replicated, see `packed`.

        With task-specific features, the feature is the first task's.
        """
        precision = self.run.config.compute.matmul_precision
        with jax.set_mesh(self.mesh), jax.default_matmul_precision(precision):
            out: Packed = self._forward(self.state, self._frozen, batch)
        return out

    def predict(
        self, dataset: PreparedDataset, *, feature_rows: np.ndarray | None = None, console: Console = QUIET
    ) -> Outputs:
        """Returns the logits of every example, on every process; see `collect`."""
        config = self.run.config
        return collect(
            self.forward,
            eval_batches(
                dataset,
                image_size=self.run.image_size,
                batch_size=config.train.eval_batch_size,
                tasks=config.tasks,
            ),
            size=len(dataset),
            tasks=config.tasks,
            mesh=self.mesh,
            feature_rows=feature_rows,
            console=console,
        )

    def _with_teacher(self) -> Tree:
        """Returns the frozen tree of `with_teacher`."""
        teacher = cast("Teacher", self.run.teacher)
        dtype = config_lib.frozen_dtype(self.run.config, jax.default_backend())
        variables = per_layer(teacher.model, teacher.narrowed(dtype))
        return {"own": self._frozen, "teacher": parallel.shard_weights(variables, self.mesh)}

    def _predict_batch(self, state: TrainState, frozen: Tree, batch: Batch) -> Packed:
        variables = {"params": combine(evaluated(state), frozen), "batch_stats": state.batch_stats}
        features, logits, years = forward(self.run.model, variables, batch["image"])
        out = packed(batch, logits, features[self.run.config.tasks[0]].astype(jnp.float32))
        return out if years is None else out | {"expected_years": years}


def is_taught_live(run: Run) -> bool:
    """Returns whether a run's teacher is part of its train step."""
    return run.teacher is not None and run.config.distill.targets == "live"


def train_step(run: Run, *, optimizer: optax.GradientTransformationExtraArgs | None = None) -> TrainStep:
    """Returns a run's train step, to be jitted; see `make_train_step`, and `with_teacher` of one that has it.

    Args:
      run: what is trained.
      optimizer: replaces the run's own, whose rates are then not among the metrics.

    Raises:
      UserError: the run's optimizer is lbfgs, which has no step.
    """
    config = run.config
    check_has_steps(config.optimizer)
    settings = StepConfig(
        augment=config.augment,
        balancing=config.balancing,
        microbatches=config.train.microbatches,
        smoothing=config.data.labels.smoothing,
        distillation=_distillation(run),
    )
    if optimizer is not None:
        return make_train_step(run.model, optimizer, settings)
    groups = set(run.groups.values()) - {FROZEN}
    rates = effective_rates(config.optimizer, groups, steps=config.train.steps)
    step = make_train_step(run.model, run.optimizer, settings, rates=rates)
    if run.teacher is None:
        return step
    from softbio_jax.runs.teacher import with_cached_teacher, with_teacher

    mean = run.model.config.mean
    if is_taught_live(run):
        return with_teacher(step, run.teacher, settings, image_size=run.image_size, mean=mean)
    return with_cached_teacher(step, settings, seed=config.seed, image_size=run.image_size, mean=mean)


def _distillation(run: Run) -> "Distillation | None":
    if not run.config.distill.teacher:
        return None
    from softbio_jax.runs.teacher import distillation

    return distillation(run.config.distill, run.teacher)


def trace_train_step(run: Run, mesh: Mesh, state: TrainState, frozen: Tree) -> jax.stages.Traced:
    """Traces the jitted train step for arrays, or shapes with shardings.

    The state is donated and keeps its shardings. The frozen tree is as `per_layer` returns it.
    """
    config, everywhere = run.config, parallel.replicated(mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere)
    with jax.set_mesh(mesh), jax.default_matmul_precision(config.compute.matmul_precision):
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        jitted = jax.jit(train_step(run), donate_argnums=0, out_shardings=(shardings, everywhere))
        return jitted.trace(state, frozen, abstract_batch(run, mesh), key)


def packed(batch: Mapping[str, jax.Array], logits: Mapping[str, jax.Array], feature: jax.Array) -> Packed:
    """Returns the outputs of one forward pass in the form that `collect` reads.

    Args:
      batch: with example (B,) and labels/{task} (B,).
      logits: {task: (B, C)}.
      feature: (B, D). Always returned, so that one compiled program serves every pass.
    """
    out = {f"logits/{task}": values for task, values in logits.items()}
    out |= {f"labels/{task}": batch[f"labels/{task}"] for task in logits}
    return out | {"example": batch["example"], "feature": feature}


def collect(
    forward: Callable[[Mapping[str, jax.Array]], Packed],
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    size: int,
    tasks: Sequence[str],
    mesh: Mesh,
    feature_rows: np.ndarray | None = None,
    console: Console = QUIET,
) -> Outputs:
    """Runs `forward` over every batch and stores each row at its example's place.

    Args:
      forward: global batch -> `packed` outputs, replicated.
      batches: of this process; padding rows have the example `PADDING`.
      size: N.
      tasks: names of the tasks.
      mesh: devices over which batches are sharded.
      feature_rows: (M,) ascending examples whose features are kept. None keeps none, and features
        never leave the device.
      console: checked before every batch, which may end the pass.
    """
    logits: dict[str, np.ndarray] = {}
    labels = {task: np.full(size, MISSING, np.int32) for task in tasks}
    features: np.ndarray | None = None
    years: np.ndarray | None = None
    for batch in batches:
        console.check()
        on_device = forward(parallel.to_global(batch, mesh))
        if feature_rows is None:
            on_device = {key: value for key, value in on_device.items() if key != "feature"}
        out = jax.device_get(on_device)
        rows = out["example"] != PADDING
        examples = out["example"][rows]
        for task in tasks:
            values = out[f"logits/{task}"][rows]
            store = logits.setdefault(task, np.zeros((size, values.shape[1]), np.float32))
            store[examples] = values
            labels[task][examples] = out[f"labels/{task}"][rows]
        if "expected_years" in out:
            years = np.zeros(size, np.float32) if years is None else years
            years[examples] = out["expected_years"][rows]
        if feature_rows is not None:
            values = out["feature"]
            if features is None:
                features = np.zeros((len(feature_rows), values.shape[1]), np.float32)
            wanted = np.isin(out["example"], feature_rows)
            features[np.searchsorted(feature_rows, out["example"][wanted])] = values[wanted]
    return Outputs(logits=logits, labels=labels, features=features, expected_years=years)
