"""Heads of a linear probe as the minimum of their regularised loss, found by L-BFGS on cached features."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from softbio_jax.console import QUIET, Console
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.losses.masked import cross_entropy, masked_mean
from softbio_jax.models.multitask import BatchNorm
from softbio_jax.runs import parallel
from softbio_jax.runs.data import RunData
from softbio_jax.runs.session import CompiledStep
from softbio_jax.runs.step import Metrics
from softbio_jax.tasks import MISSING
from softbio_jax.train.probing import table as tables
from softbio_jax.train.probing.cached import CachedSession
from softbio_jax.train.probing.features import Features

Layer = dict[str, jax.Array]  # kernel (D, C), bias (C,)
Parts = Sequence[tuple[PreparedDataset, Features]]
TOLERANCE = 1e-6  # of the largest entry of the gradient
_MEMORY = 20  # pairs of L-BFGS
_STALLED = 20  # iterations that lower neither the loss nor the gradient


class Rows(NamedTuple):
    """A task's labelled rows in its basis, sharded over the devices."""

    features: jax.Array  # (N, D) float32
    labels: jax.Array  # (N,) int32, MISSING in the padding


class Fit(NamedTuple):
    """A minimum, and how well it was reached."""

    layer: Layer  # in the task's basis
    loss: jax.Array  # (), the mean cross-entropy without the penalty
    gradient: jax.Array  # (), the largest entry of the gradient in the search's coordinates
    iterations: jax.Array  # ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Basis:
    """The principal components of a task's features, in which its loss is well conditioned.

    Rows are ((x - mean) / deviation) @ directions. An orthogonal basis changes neither the minimum nor the
    penalty.
    """

    mean: np.ndarray  # (D,) float32
    var: np.ndarray  # (D,) float32, divided by N
    deviation: np.ndarray  # (D,) float32; ones where the head has no batch norm
    directions: np.ndarray  # (D, D) float32, one per column
    variances: np.ndarray  # (D,) float32, along them

    @classmethod
    def of(cls, values: np.ndarray, *, normed: bool) -> "Basis":
        """Returns the basis of features (N, D), standardised first if `normed`."""
        mean = values.mean(axis=0, dtype=np.float64)
        var = np.square(values - mean).mean(axis=0, dtype=np.float64)
        deviation = np.sqrt(var + BatchNorm.epsilon) if normed else np.ones_like(var)
        scaled = ((values - mean) / deviation).astype(np.float32)
        covariance = (scaled.T @ scaled).astype(np.float64) / max(len(values), 1)
        variances, directions = np.linalg.eigh(covariance)
        arrays = {"mean": mean, "var": var, "deviation": deviation, "directions": directions}
        arrays["variances"] = np.maximum(variances, 0)
        return cls(**{name: array.astype(np.float32) for name, array in arrays.items()})

    def place(self, values: np.ndarray, labels: np.ndarray, mesh: Mesh) -> Rows:
        """Returns features (N, D) with their labels (N,) as rows, padded to a multiple of the devices."""
        devices, sharding = mesh.devices.size, parallel.batch_sharding(mesh)
        size = max(-(-len(values) // devices), 1) * devices
        padded = np.zeros((size, len(self.mean)), np.float32)
        padded[: len(values)] = (values - self.mean) / self.deviation
        answers = np.full(size, MISSING, np.int32)
        answers[: len(labels)] = labels
        features = jnp.matmul(jax.device_put(padded, sharding), self.directions)
        return Rows(features, jax.device_put(answers, sharding))

    def head(self, layer: Layer, *, normed: bool) -> dict[str, np.ndarray]:
        """Returns a layer as the head has it, which reads standardised features if `normed`."""
        kernel, bias = self.directions @ np.asarray(layer["kernel"]), np.asarray(layer["bias"])
        return {"kernel": kernel, "bias": bias if normed else bias - self.mean @ kernel}


class LogisticSession(CachedSession):
    """A session whose only step solves the heads; see `OptimizerConfig` of lbfgs.

    For each task it minimises, over the kernel W (D, C) and bias b (C,) of its linear head,

        sum_i -log softmax(W^T x_i + b)[y_i] + l2 / 2 |W|^2

    over the task's labelled training rows i and all their views, with the features x standardised by
    these rows where the head has a batch norm. Strengths are solved from the largest to the smallest,
    each from the solution before it, and every task keeps the one of its lowest validation loss. The
    solution does not depend on the run's seed, batch size or number of devices, beyond rounding.

    Args:
      run: what is trained.
      devices: the devices to use; None: all.

    Raises:
      UserError: the method trains parameters below the heads.
    """

    _parts: tuple[Parts, Parts] = ((), ())
    _console: Console = QUIET

    def cache(self, data: RunData, root: Any, *, console: Console = QUIET) -> None:
        """See `CachedSession.cache`; the console shows the search too.

        Raises:
          UserError: strengths to choose from, and no validation rows of a task.
        """
        for task in self.run.config.tasks:
            columns = [dataset.labels[task] for dataset in data.val if task in dataset.labels]
            self._check_held(task, any((column != MISSING).any() for column in columns))
        self._console = console
        super().cache(data, root, console=console)

    def _check_held(self, task: str, found: bool) -> None:
        optimizer = self.run.config.optimizer
        if not found and (len(optimizer.l2 or ()) > 1 or optimizer.refit):
            raise UserError(
                f"no validation rows of {task} to choose the strength by",
                where="data.val_fraction",
                expected="labelled validation rows, of classes that are trained",
                found="none",
                fix="set a larger fraction, or one strength such as optimizer.l2=(100.0,) without refit",
            )

    def hold(self, train: Parts, val: Parts = ()) -> None:
        """See `CachedSession.hold`; training features stay on the host until their task is solved."""
        self._parts = (train, val)
        self.hold_validation(val)

    def compile(self, compiled: CompiledStep | None = None) -> Any:
        """Returns an empty jaxpr: each task's program is compiled when it is solved."""
        del compiled
        return jax.make_jaxpr(lambda: ())()

    def push(self, batch: Mapping[str, np.ndarray]) -> list[Metrics]:
        """Solves the heads of every task, whatever the batch.

        Returns:
          loss/total, gradient_norm, skipped, and per task loss, count, l2 and iterations.

        Raises:
          UserError: features that are not finite.
        """
        del batch
        state = self.state
        metrics: dict[str, Any] = {}
        heads, stats = dict(state.trainable["heads"]), dict(state.batch_stats.get("heads", {}))
        for task in self.run.config.tasks:
            layer, basis, found = self._solve(task)
            heads[task] = heads[task] | {"dense_out": layer}
            if "norm" in heads[task]:
                stats[task] = {"norm": {"mean": basis.mean, "var": basis.var}}
            metrics |= {f"{name}/{task}": np.float32(value) for name, value in found.items()}
        new = dataclasses.replace(
            state,
            step=state.step + 1,
            trainable=state.trainable | {"heads": heads},
            batch_stats=state.batch_stats | ({"heads": stats} if stats else {}),
        )
        self.state = jax.tree.map(lambda leaf, old: jax.device_put(leaf, old.sharding), new, state)
        tasks = self.run.config.tasks
        metrics["loss/total"] = np.sum([metrics[f"loss/{task}"] for task in tasks])
        metrics["gradient_norm"] = np.max([metrics[f"gradient_norm/{task}"] for task in tasks])
        return [metrics | {"skipped": np.int32(0)}]

    def _solve(self, task: str) -> tuple[dict[str, np.ndarray], Basis, dict[str, float]]:
        """Returns a task's layer as its head has it, the basis of its rows, and what is logged."""
        config, (train, val) = self.run.config, self._parts
        optimizer, normed = config.optimizer, config.model.head.batch_norm
        values, labels = labelled(train, task)
        if not np.isfinite(values).all():
            raise UserError(
                "features that are not finite",
                where=f"training rows of {task}",
                expected="finite numbers",
                found="NaN or infinity",
                fix="check the weights of model.pretrained, or set compute.dtype=float32",
            )
        held_values, held_labels = labelled(val, task) if val else (values[:0], labels[:0])
        # A class without a training row has no probability at any strength.
        judged = np.isin(held_labels, labels)
        self._check_held(task, bool(judged.any()))
        classes = self.state.trainable["heads"][task]["dense_out"]["bias"].shape[0]
        zero: Layer = {"kernel": jnp.zeros((values.shape[1], classes)), "bias": jnp.zeros(classes)}
        layer, fits = zero, list[tuple[float, float, Fit]]()  # validation loss, strength
        with jax.default_matmul_precision("highest"):
            basis = Basis.of(values, normed=normed)
            rows = basis.place(values, labels, self.mesh)
            held = basis.place(held_values[judged], held_labels[judged], self.mesh)
            solve = functools.partial(minimise, iterations=optimizer.iterations or 1)
            for l2 in sorted(optimizer.l2 or (), reverse=True):
                self._console.check()
                fit = solve(rows, basis.variances, layer, jnp.float32(l2))
                layer, loss = fit.layer, float(cost(fit.layer, held))  # 0 without rows
                self._say(task, l2, fit, loss if judged.any() else None)
                fits.append((loss, l2, fit))
            _, l2, fit = min(fits, key=lambda found: found[0])
            self._warn_at_end(task, l2)
            if optimizer.refit:
                values, labels = np.concatenate([values, held_values]), np.concatenate([labels, held_labels])
                basis = Basis.of(values, normed=normed)
                rows = basis.place(values, labels, self.mesh)
                fit = solve(rows, basis.variances, zero, jnp.float32(l2))
                self._say(f"{task}, training and validation rows", l2, fit, None)
        about = {"loss": float(fit.loss), "gradient_norm": float(fit.gradient), "count": len(labels)}
        about |= {"l2": l2, "iterations": int(fit.iterations)}
        return basis.head(fit.layer, normed=normed), basis, about

    def _say(self, name: str, l2: float, fit: Fit, validation: float | None) -> None:
        end = "" if validation is None else f"  validation loss {validation:.4f}"
        self._console.say(
            f"{name}: l2 {l2:<8.3g} {int(fit.iterations):4d} iterations  loss {float(fit.loss):.4f}{end}"
        )
        if not float(fit.gradient) <= 100 * TOLERANCE:
            self._console.say(
                f"warning: {name}: l2 {l2:.3g} is not solved, gradient {float(fit.gradient):.1e}; raise "
                "optimizer.iterations, or drop this strength from optimizer.l2"
            )

    def _warn_at_end(self, task: str, chosen: float) -> None:
        strengths = self.run.config.optimizer.l2 or ()
        if len(strengths) > 1 and chosen in (min(strengths), max(strengths)):
            self._console.say(
                f"warning: {task}: the lowest validation loss is at the end of optimizer.l2, {chosen:.3g}; "
                "extend it there"
            )


def labelled(parts: Parts, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features (N, D) float32 and labels (N,) of a task's labelled rows, view after view."""
    values, labels = [], []
    for dataset, features in parts:
        column = tables.labels_of(dataset, features, task)
        known = column != MISSING
        for view in features.values:
            values.append(view[known].astype(np.float32))
            labels.append(column[known])
    return np.concatenate(values), np.concatenate(labels)


@jax.jit
def cost(layer: Layer, rows: Rows) -> jax.Array:
    """Returns the mean cross-entropy () of a layer over labelled rows."""
    logits, mask = rows.features @ layer["kernel"] + layer["bias"], rows.labels != MISSING
    return masked_mean(cross_entropy(logits, rows.labels, mask), mask).value


@functools.partial(jax.jit, static_argnames="iterations")
def minimise(rows: Rows, variances: jax.Array, start: Layer, l2: jax.Array, *, iterations: int) -> Fit:
    """Minimises cost + l2 / (2 N) |kernel|^2 over N labelled rows by L-BFGS.

    It ends where no entry of the gradient exceeds `TOLERANCE`, or after iterations in a row that lower
    neither the loss nor the gradient: near the minimum float32 resolves the gradient better than the loss.

    The search is over each weight times the root of its curvature at zero weights, variance / C + l2 / N.

    Source: Liu and Nocedal 1989, doi:10.1007/BF01589116, with optax's zoom line search.

    Args:
      rows: the task's rows.
      variances: (D,), of their features.
      start: the layer to start from.
      l2: (), the strength.
      iterations: at most.
    """
    count = jnp.maximum(jnp.sum(rows.labels != MISSING), 1)

    classes = len(start["bias"])
    curvature = jnp.append(variances / classes + l2 / count, 1 / classes)[:, None]  # the bias' is last

    def layer_of(weights: jax.Array) -> Layer:
        scaled = weights * jax.lax.rsqrt(curvature)
        return {"kernel": scaled[:-1], "bias": scaled[-1]}

    def objective(weights: jax.Array) -> jax.Array:
        layer = layer_of(weights)
        return cost(layer, rows) + l2 / (2 * count) * jnp.sum(jnp.square(layer["kernel"]))

    solver = optax.lbfgs(memory_size=_MEMORY)
    value_and_gradient = optax.value_and_grad_from_state(objective)

    def size(state: Any) -> jax.Array:
        return optax.tree.norm(optax.tree.get(state, "grad"), ord=jnp.inf)

    def unfinished(carry: tuple[Any, ...]) -> jax.Array:
        _, state, _, _, stalled, i = carry
        return (i == 0) | ((i < iterations) & (size(state) > TOLERANCE) & (stalled < _STALLED))

    def iterate(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        weights, state, low, least, stalled, i = carry
        value, gradient = value_and_gradient(weights, state=state)
        known = {"value": value, "grad": gradient, "value_fn": objective}
        updates, state = solver.update(gradient, state, weights, **known)
        value, norm = optax.tree.get(state, "value"), size(state)
        lower = (value < low - 1e-6 * jnp.abs(low)) | (norm < least)
        stalled = jnp.where(lower, 0, stalled + 1)
        low, least = jnp.minimum(low, value), jnp.minimum(least, norm)
        return optax.apply_updates(weights, updates), state, low, least, stalled, i + 1

    top, zero = jnp.float32(jnp.finfo(jnp.float32).max), jnp.int32(0)
    # One array, of which every operation of the search is compiled once.
    both = jnp.concatenate([start["kernel"], start["bias"][None]]) * jnp.sqrt(curvature)
    first = (both, solver.init(both), top, top, zero, zero)
    weights, state, _, _, _, done = jax.lax.while_loop(unfinished, iterate, first)
    layer = layer_of(weights)
    return Fit(layer=layer, loss=cost(layer, rows), gradient=size(state), iterations=done)
