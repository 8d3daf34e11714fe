"""Trains a linear probe at many rates and decays at once, and selects by validation loss."""

import csv
import dataclasses
import io
import itertools
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax import coverage, files
from softbio_jax.adapters.methods import FROZEN
from softbio_jax.console import QUIET, Console
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.losses.masked import masked_mean
from softbio_jax.models.forward import classify
from softbio_jax.params import Tree
from softbio_jax.runs import data as data_lib
from softbio_jax.runs import directory, optimizer, parallel
from softbio_jax.runs.build import Run
from softbio_jax.runs.data import RunData
from softbio_jax.runs.session import train_step
from softbio_jax.runs.state import TrainState
from softbio_jax.runs.step import Batch, Metrics, TrainStep, task_losses
from softbio_jax.tasks import MISSING
from softbio_jax.train import validation
from softbio_jax.train.metrics_log import due
from softbio_jax.train.probing import table
from softbio_jax.train.probing.cached import CachedSession
from softbio_jax.train.probing.features import Features
from softbio_jax.train.probing.table import RowBatches
from softbio_jax.train.validation import ValidationHistory

Sums = dict[str, dict[str, jax.Array]]  # {task: {loss, hits, count: (R,)}}


class SweepSession(CachedSession):
    """A cached session over the states of R runs that differ in learning rate and weight decay.

    All start from the same weights and see the batches, views and dropout masks of a standalone run.

    Args:
      run: what is trained; its own rate of the heads and its decay are replaced.
      rates: (R,) peak rates of the heads.
      decays: (R,) weight decays.
      devices: the devices to use; None: all.
    """

    def __init__(
        self,
        run: Run,
        *,
        rates: Sequence[float],
        decays: Sequence[float],
        devices: Sequence[jax.Device] | None = None,
    ):
        super().__init__(run, devices=devices)
        self._rates, self._decays = np.asarray(rates, np.float32), np.asarray(decays, np.float32)
        one, pairs = self.state, len(self._rates)
        stacked = jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), (pairs, *leaf.shape)), one)
        step = np.asarray(one.step)
        self.state = parallel.replicate(dataclasses.replace(stacked, step=step), self.mesh)
        self._measure: Any = jax.jit(self._sums, out_shardings=parallel.replicated(self.mesh))
        self._answers: list[dict[str, jax.Array]] = []

    def hold(
        self,
        train: Sequence[tuple[PreparedDataset, Features]],
        val: Sequence[tuple[PreparedDataset, Features]] = (),
    ) -> None:
        """See `CachedSession.hold`."""
        super().hold(train, val)
        size = self.run.config.train.eval_batch_size
        for dataset, _ in val:
            _, labels = self.held[dataset.fingerprint]
            blocks = {
                f"labels/{task}": table.blocks(column, size, fill=MISSING) for task, column in labels.items()
            }
            self._answers.append(parallel.replicate(blocks, self.mesh))

    def validate(self) -> dict[str, np.ndarray]:
        """Returns val/{task}/loss, val/{task}/accuracy and val/loss, (R,) each; see `validation.validate`."""
        totals: dict[str, dict[str, Any]] = {}
        for (values, _), answers in zip(self.held.values(), self._answers, strict=True):
            with jax.default_matmul_precision(self.run.config.compute.matmul_precision):
                sums = jax.device_get(self._measure(self.state, self._proj, values, answers))
            for task, found in sums.items():
                before = totals.setdefault(task, dict.fromkeys(found, 0.0))
                totals[task] = {name: before[name] + np.float64(found[name]) for name in found}
        scalars, known = {}, {t: sums for t, sums in totals.items() if (sums["count"] > 0).all()}
        for task, sums in known.items():
            scalars[f"val/{task}/loss"] = sums["loss"] / sums["count"]
            scalars[f"val/{task}/accuracy"] = sums["hits"] / sums["count"]
        loss = np.sum([scalars[f"val/{task}/loss"] for task in known], axis=0)
        return {"val/loss": loss} | scalars

    def lower_rates(self, which: np.ndarray, factor: float) -> None:
        """Multiplies the rates of the pairs `which` (R,) bool by a factor."""
        scale = self.state.rate_scale * jnp.where(which, jnp.float32(factor), jnp.float32(1))
        scale = jax.device_put(scale, parallel.replicated(self.mesh))
        self.state = dataclasses.replace(self.state, rate_scale=scale)

    def _make_step(self) -> TrainStep:
        config = self.run.config
        trainable = {path: group for path, group in self.run.groups.items() if group != FROZEN}

        def one(
            state: TrainState, rate: jax.Array, decay: jax.Array, frozen: Tree, batch: Batch, key: jax.Array
        ) -> tuple[TrainState, Metrics]:
            rates: dict[str, optimizer.Number] = {**config.optimizer.rates, "heads": rate}
            update = optimizer.make(
                config.optimizer, trainable, steps=config.train.steps, rates=rates, weight_decay=decay
            )
            return train_step(self.run, optimizer=update)(state, frozen, batch, key)

        def step(state: TrainState, frozen: Tree, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
            axes = _axes(state)
            mapped = jax.vmap(one, in_axes=(axes, 0, 0, None, None, None), out_axes=(axes, 0))
            done: tuple[TrainState, Metrics] = mapped(
                state, jnp.asarray(self._rates), jnp.asarray(self._decays), frozen, batch, key
            )
            return done

        return step

    def _sums(self, state: TrainState, proj: Tree, values: jax.Array, answers: dict[str, jax.Array]) -> Sums:
        """Sums losses and hits over blocks of features (M, b, D)."""
        tasks = self.run.config.tasks

        def one(state: TrainState, block: jax.Array, labels: dict[str, jax.Array]) -> Sums:
            variables = {"params": optimizer.evaluated(state) | proj, "batch_stats": state.batch_stats}
            features = dict.fromkeys(tasks, block)
            logits = classify(self.run.model, variables, features)
            masks = {f"mask/{task}": labels[f"labels/{task}"] != MISSING for task in tasks}
            losses, sums = task_losses(logits, labels | masks, tasks), {}
            for task in tasks:
                right = logits[task].argmax(-1) == labels[f"labels/{task}"]
                hits = masked_mean(right.astype(jnp.float32), masks[f"mask/{task}"])
                sums[task] = {"loss": losses[task].total, "hits": hits.total, "count": hits.count}
            return sums

        mapped = jax.vmap(one, in_axes=(_axes(state), None, None))
        parts = jax.lax.map(lambda block: mapped(state, *block), (values, answers))
        summed: Sums = jax.tree.map(lambda part: part.sum(axis=0), parts)
        return summed


def _axes(state: TrainState) -> TrainState:
    """Returns the axis of the pairs of every leaf of a state.

    The step has none: it seeds dropout, whose masks are shared by all pairs.
    """
    axes: TrainState = jax.tree.map(lambda _: 0, state)
    return dataclasses.replace(axes, step=cast(Any, None))


@dataclasses.dataclass
class Trial:
    """A pair of rate and decay, with the validation it is judged by."""

    rate: float
    decay: float
    step: int = 0  # of that validation
    scalars: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped: int = 0  # updates that were not finite
    stopped: bool = False  # early

    @property
    def loss(self) -> float:
        """The validation loss, infinite where it is not a number."""
        loss = self.scalars.get("val/loss", np.inf)
        return loss if np.isfinite(loss) else np.inf


def sweep(
    run: Run,
    data: RunData,
    workdir: pathlib.Path,
    *,
    rates: Sequence[float],
    decays: Sequence[float],
    console: Console = QUIET,
) -> list[Trial]:
    """Trains the heads for every pair of a rate and a decay at once, on cached features.

    Each pair equals a standalone run, including early stopping and plateaus. Test sets are not
    read. Writes sweep.json and sweep.csv.

    Args:
      run: a run that trains only heads, with its steps and validations.
      data: its data sets.
      workdir: where the results are written, and features unless train.cache_dir is set.
      rates: peak learning rates of the heads.
      decays: weight decays.
      console: prints a line after every validation.

    Returns:
      The trials, by increasing validation loss.

    Raises:
      UserError: nothing to try, no validation rows, data that cannot train the tasks, a method
        that trains the encoder, or another process works in the workdir.
    """
    config = run.config.train
    optimizer.check_has_steps(run.config.optimizer)
    _check(rates, decays, data)
    data_lib.check_run(run.config, data, batch_size=config.batch_size)
    trials = [Trial(rate, decay) for rate, decay in itertools.product(rates, decays)]
    with directory.hold(workdir, console=console) as check_lock:
        session = SweepSession(
            run, rates=[trial.rate for trial in trials], decays=[trial.decay for trial in trials]
        )
        session.training_images = images = data_lib.training_images(run.config, data)
        warnings = data_lib.coverage_warnings(dataclasses.replace(data, test=[]), images)
        for line in warnings:
            console.say(line)
        session.cache(data, pathlib.Path(config.cache_dir or workdir / "features"), console=console)
        session.compile()
        stream, histories = RowBatches(run.config, data), [ValidationHistory() for _ in trials]
        begun, last = time.perf_counter(), 0
        for last in range(1, config.steps + 1):
            _count_skipped(trials, session.push(next(stream)))
            if not due(last, config.eval_every, config.steps):
                continue
            _count_skipped(trials, session.drain())
            scalars = session.validate()
            _add_validation(trials, histories, scalars, last, keep=config.evaluate)
            best, speed = min(trials, key=lambda t: t.loss), last / (time.perf_counter() - begun)
            console.say(
                f"step {last}/{config.steps}  {speed:,.1f} steps/s of all {len(trials)}  lowest loss "
                f"{best.loss:.4f} at rate {best.rate:g}, decay {best.decay:g}"
            )
            _lower_or_stop(run, session, trials, histories)
            if all(trial.stopped for trial in trials):
                break
        trials.sort(key=lambda trial: trial.loss)
        facts = {coverage.KEY: images, "warnings": warnings}
        check_lock()
        _write(workdir, trials, facts, seconds=time.perf_counter() - begun, steps=last)
    return trials


def text(trials: Sequence[Trial]) -> str:
    """Returns the validation losses as a table, rates down and decays across, and the best pair."""
    found = {(trial.rate, trial.decay): trial for trial in trials}
    decays = sorted({trial.decay for trial in trials})
    lines = ["rate \\ decay" + "".join(f"{decay:>11g}" for decay in decays)]
    for rate in sorted({trial.rate for trial in trials}):
        losses = "".join(f"{found[rate, decay].loss:>11.4f}" for decay in decays)
        lines.append(f"{rate:<12g}{losses}")
    best = min(trials, key=lambda trial: trial.loss)
    accuracies = "  ".join(validation.accuracies(best.scalars))
    lines.append(f"lowest validation loss {best.loss:.4f} (step {best.step}): {accuracies}")
    lines.append(
        f"train it with --config.optimizer.rates.heads={best.rate:g} "
        f"--config.optimizer.weight_decay={best.decay:g}"
    )
    return "\n".join(lines)


def _check(rates: Sequence[float], decays: Sequence[float], data: RunData) -> None:
    for name, values, low in (("rates", rates, "above"), ("decays", decays, "at least")):
        bad = [v for v in values if not np.isfinite(v) or v < 0 or (low == "above" and v == 0)]
        if not values or bad or len(set(values)) < len(values):
            raise UserError(
                "nothing to sweep over",
                where=f"--{name}",
                expected=f"different numbers, each {low} 0",
                found=", ".join(f"{v:g}" for v in values) or "none",
                fix=f"write it as in --{name}=1e-4,1e-3",
            )
    if not data.val:
        raise UserError(
            "no validation rows to select by",
            where="data.val_fraction",
            expected="validation rows",
            found="none",
            fix="set a fraction above 0",
        )


def _count_skipped(trials: Sequence[Trial], metrics: Sequence[Any]) -> None:
    for step in metrics:
        for trial, in_a_row in zip(trials, np.asarray(step["skipped"]), strict=True):
            trial.skipped += int(in_a_row > 0)


def _add_validation(
    trials: Sequence[Trial],
    histories: Sequence[ValidationHistory],
    scalars: dict[str, np.ndarray],
    step: int,
    *,
    keep: str,
) -> None:
    """Records a validation, keeping the one that a standalone run would have evaluated."""
    for i, (trial, history) in enumerate(zip(trials, histories, strict=True)):
        if trial.stopped:
            continue
        history.update(step, float(scalars["val/loss"][i]))
        if keep == "last" or history.best_step == step or not trial.scalars:
            trial.step = step
            trial.scalars = {name: float(values[i]) for name, values in scalars.items()}


def _lower_or_stop(
    run: Run, session: SweepSession, trials: Sequence[Trial], histories: Sequence[ValidationHistory]
) -> None:
    config, lowered = run.config.train, np.zeros(len(trials), bool)
    for i, (trial, history) in enumerate(zip(trials, histories, strict=True)):
        if config.patience and history.since_best >= config.patience:
            trial.stopped = True
        if run.config.optimizer.schedule == "plateau" and history.since_drop >= (config.plateau_patience):
            lowered[i], history.since_drop = True, 0
    if lowered.any():
        session.lower_rates(lowered, config.plateau_factor)


def _write(
    workdir: pathlib.Path, trials: Sequence[Trial], facts: dict[str, Any], *, seconds: float, steps: int
) -> None:
    rows = [
        {"rate": t.rate, "decay": t.decay, "step": t.step, "skipped": t.skipped, "stopped_early": t.stopped}
        | t.scalars
        for t in trials
    ]
    about = {"selected_by": "val/loss", "steps": steps, "seconds": seconds}
    values = about | facts | {"best": rows[0], "trials": rows}
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(workdir / "sweep.json", json.dumps(values, indent=2) + "\n")
    files.write_text(workdir / "sweep.csv", table.getvalue())
