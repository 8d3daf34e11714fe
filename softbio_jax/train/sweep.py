"""Rates and decays of a linear probe, tried all at once and judged by the validation loss."""

import csv
import dataclasses
import io
import itertools
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from softbio_jax import writing
from softbio_jax.errors import UserError
from softbio_jax.train import sanity, validate
from softbio_jax.train.build import Parts
from softbio_jax.train.data import RunData
from softbio_jax.train.features import Say
from softbio_jax.train.recorder import due
from softbio_jax.train.row_batches import RowBatches
from softbio_jax.train.sweep_session import SweepSession
from softbio_jax.train.watch import Watch


@dataclasses.dataclass
class Trial:
    """A pair of rate and decay, and the validation that speaks for it."""

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
    run: Parts,
    data: RunData,
    workdir: pathlib.Path,
    *,
    rates: Sequence[float],
    decays: Sequence[float],
    say: Say = print,
) -> list[Trial]:
    """Trains the heads once for every pair of a rate and a decay, in one go, on cached features.

    Each pair is what a run of its own would be, early stopping and plateaus included. Test sets
    are not looked at. Writes sweep.json and sweep.csv.

    Args:
      run: the parts of a run that trains heads alone, with its steps and validations.
      data: its data sets.
      workdir: where the results go, and features unless train.cache_dir says where.
      rates: peak learning rates of the heads.
      decays: weight decays.
      say: takes lines of progress.

    Returns:
      The trials, the lowest validation loss first.

    Raises:
      UserError: nothing to try, no validation rows, data that cannot train the tasks, or a method
        that trains the tower.
    """
    config = run.config.train
    _check(rates, decays, data)
    sanity.check(data, tasks=run.config.tasks, batch_size=config.batch_size)
    trials = [Trial(rate, decay) for rate, decay in itertools.product(rates, decays)]
    session = SweepSession(
        run, rates=[trial.rate for trial in trials], decays=[trial.decay for trial in trials]
    )
    session.cache(data, pathlib.Path(config.cache_dir or workdir / "features"), say=say)
    session.compile()
    stream, watches = RowBatches(run, data), [Watch() for _ in trials]
    begun, last = time.perf_counter(), 0
    for last in range(1, config.steps + 1):
        _count_skipped(trials, session.push(next(stream)))
        if not due(last, config.eval_every, config.steps):
            continue
        _count_skipped(trials, session.drain())
        _take_in(trials, watches, session.validate(), last, keep=config.evaluate)
        best, speed = min(trials, key=lambda t: t.loss), last / (time.perf_counter() - begun)
        say(f"step {last}/{config.steps}  {speed:,.1f} steps/s of all {len(trials)}  lowest loss "
            f"{best.loss:.4f} at rate {best.rate:g}, decay {best.decay:g}")  # fmt: skip
        _lower_or_stop(run, session, trials, watches)
        if all(trial.stopped for trial in trials):
            break
    trials.sort(key=lambda trial: trial.loss)
    _write(workdir, trials, seconds=time.perf_counter() - begun, steps=last)
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
    accuracies = "  ".join(validate.accuracies(best.scalars))
    lines.append(f"lowest validation loss {best.loss:.4f} (step {best.step}): {accuracies}")
    lines.append(f"train it with --config.optimizer.rates.heads={best.rate:g} "
                 f"--config.optimizer.weight_decay={best.decay:g}")  # fmt: skip
    return "\n".join(lines)


def _check(rates: Sequence[float], decays: Sequence[float], data: RunData) -> None:
    for name, values, low in (("rates", rates, "above"), ("decays", decays, "at least")):
        bad = [v for v in values if not np.isfinite(v) or v < 0 or (low == "above" and v == 0)]
        if not values or bad or len(set(values)) < len(values):
            raise UserError("nothing to sweep over", where=f"--{name}",
                            expected=f"different numbers, each {low} 0",
                            found=", ".join(f"{v:g}" for v in values) or "none",
                            fix=f"write for instance --{name}=1e-4,1e-3")  # fmt: skip
    if not data.val:
        raise UserError("nothing to choose by", where="data.val_fraction",
                        expected="validation rows", found="none",
                        fix="set a fraction above 0")  # fmt: skip


def _count_skipped(trials: Sequence[Trial], metrics: Sequence[Any]) -> None:
    for step in metrics:
        for trial, in_a_row in zip(trials, np.asarray(step["skipped"]), strict=True):
            trial.skipped += int(in_a_row > 0)


def _take_in(
    trials: Sequence[Trial], watches: Sequence[Watch], scalars: dict[str, np.ndarray], step: int,
    *, keep: str,
) -> None:  # fmt: skip
    """Takes a validation in: the one that a run of its own would have evaluated stays."""
    for i, (trial, watch) in enumerate(zip(trials, watches, strict=True)):
        if trial.stopped:
            continue
        watch.update(step, float(scalars["val/loss"][i]))
        if keep == "last" or watch.best_step == step or not trial.scalars:
            trial.step = step
            trial.scalars = {name: float(values[i]) for name, values in scalars.items()}


def _lower_or_stop(
    run: Parts, session: SweepSession, trials: Sequence[Trial], watches: Sequence[Watch]
) -> None:
    config, lowered = run.config.train, np.zeros(len(trials), bool)
    for i, (trial, watch) in enumerate(zip(trials, watches, strict=True)):
        if config.patience and watch.since_best >= config.patience:
            trial.stopped = True
        if run.config.optimizer.schedule == "plateau" and watch.since_drop >= (
            config.plateau_patience
        ):
            lowered[i], watch.since_drop = True, 0
    if lowered.any():
        session.lower_rates(lowered, config.plateau_factor)


def _write(workdir: pathlib.Path, trials: Sequence[Trial], *, seconds: float, steps: int) -> None:
    rows = [
        {"rate": t.rate, "decay": t.decay, "step": t.step, "skipped": t.skipped,
         "stopped_early": t.stopped} | t.scalars
        for t in trials
    ]  # fmt: skip
    about = {"selected_by": "val/loss", "steps": steps, "seconds": seconds}
    values = about | {"best": rows[0], "trials": rows}
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    writing.write_text(workdir / "sweep.json", json.dumps(values, indent=2) + "\n")
    writing.write_text(workdir / "sweep.csv", table.getvalue())
