"""The training loop: start or resume, step, validate, save, evaluate."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from softbio_jax.checkpoints.manager import CheckpointManager
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.train import predict, record
from softbio_jax.train.build import Parts, describe
from softbio_jax.train.config import TrainConfig
from softbio_jax.train.data import RunData, train_stream
from softbio_jax.train.evaluate import evaluate
from softbio_jax.train.progress import Progress
from softbio_jax.train.session import Session
from softbio_jax.train.step import Metrics
from softbio_jax.train.writer import MetricWriter


@dataclasses.dataclass
class Watch:
    """The course of the validation loss: when to lower the rate, when to stop."""

    best: float = math.inf
    since_best: int = 0
    since_drop: int = 0

    def update(self, loss: float) -> bool:
        """Takes a validation loss in; returns whether it is the best so far."""
        improved = loss < self.best
        self.best = min(self.best, loss)
        self.since_best = 0 if improved else self.since_best + 1
        self.since_drop = 0 if improved else self.since_drop + 1
        return improved


def train_and_evaluate(run: Parts, data: RunData, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains a run to its end, from its newest checkpoint if it has one, and evaluates it.

    Args:
      run: the parts of the run.
      data: its data sets.
      workdir: where checkpoints, metrics and the evaluation go.

    Returns:
      The contents of eval/metrics.json.

    Raises:
      UserError: the workdir is another run's, the batch does not fit the devices, or updates
        were not finite `train.max_skipped` times in a row.
    """
    config, chief = run.config.train, jax.process_index() == 0
    record.check_workdir(run.config, workdir)
    if chief:
        print(describe(run), flush=True)
    session = Session(run)
    manager = CheckpointManager(workdir, keep=config.keep)
    stream, watch = train_stream(run, data), Watch()

    first = manager.latest_step() or 0
    if first:
        restored = manager.restore(first, session.state)
        session.state, watch = restored.state, Watch(**restored.host["watch"])
        stream.set_state(restored.host["stream"])
        _say(f"resumed from step {first}")
    if chief:
        record.write_start(run, data, workdir)
    writer = MetricWriter(workdir, resume_step=first, active=chief)
    started = time.perf_counter()
    if first < config.steps:
        session.compile()
        _say(f"compiled in {time.perf_counter() - started:.1f} s; TensorBoard: "
             f"tensorboard --logdir {workdir / 'tensorboard'}")  # fmt: skip
    progress = Progress(
        first=first, steps=config.steps, batch_size=config.batch_size, active=chief
    )

    pending: tuple[int, Metrics] | None = None
    step, saved = first, first
    for step in range(first + 1, config.steps + 1):
        metrics = session.train(next(stream))
        # The previous step's scalars are read while this one runs on the device.
        if pending is not None:
            _log(*pending, writer, progress, config)
        pending = (step, metrics) if _due(step, config.log_every, config.steps) else None

        validates = bool(data.val) and _due(step, config.eval_every, config.steps)
        if not (validates or _due(step, config.checkpoint_every, config.steps)):
            continue
        if pending is not None:
            _log(*pending, writer, progress, config)
            pending = None
        progress.pause()
        val_loss, stop = None, False
        if validates:
            val_loss = _validate(session, data.val, writer, step)
            watch.update(val_loss)
            stop = bool(config.patience) and watch.since_best >= config.patience
            _lower_rate(session, watch, config, run.config.optimizer.schedule)
        host = {"stream": stream.get_state(), "watch": dataclasses.asdict(watch)}
        manager.save(step, session.state, host, val_loss=val_loss)
        saved = step
        progress.resume(step)
        if stop:
            _say(f"stopped at step {step}: {watch.since_best} validations without improvement")
            break
    if saved < step:  # pragma: no cover - the last step is always due
        raise AssertionError("the last step was not saved")

    stream.close()
    manager.close()
    writer.close()
    if config.evaluate == "best":
        manager = CheckpointManager(workdir, keep=config.keep, read_only=True)
        session.state = manager.restore(manager.best_step() or step, session.state).state
        manager.close()
    if chief:
        record.write_end(run, workdir, seconds=time.perf_counter() - started,
                         images_per_second=progress.images_per_second)  # fmt: skip
    return evaluate(session, data.test, workdir)


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _log(
    step: int, metrics: Metrics, writer: MetricWriter, progress: Progress, config: TrainConfig
) -> None:
    scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if scalars["skipped"] >= config.max_skipped:
        raise UserError(
            "loss or gradient is not finite", where=f"step {step}",
            found=f"{int(scalars['skipped'])} updates in a row skipped",
            fix="lower the rates; the last checkpoint is good",
        )  # fmt: skip
    writer.write(step, {f"train/{name}": value for name, value in scalars.items()})
    progress.update(step, f"loss {scalars['loss/total']:.3f}")


def _validate(
    session: Session, sets: Sequence[PreparedDataset], writer: MetricWriter, step: int
) -> float:
    """Returns the unweighted sum of the tasks' mean losses over all validation rows."""
    outputs = [session.predict(dataset) for dataset in sets]
    tasks = session.run.config.tasks
    whole = predict.Outputs(
        logits={task: np.concatenate([o.logits[task] for o in outputs]) for task in tasks},
        labels={task: np.concatenate([o.labels[task] for o in outputs]) for task in tasks},
    )
    scalars = predict.losses(whole)
    loss = sum(value for name, value in scalars.items() if name.endswith("/loss"))
    writer.write(step, {"val/loss": loss} | {f"val/{k}": v for k, v in scalars.items()})
    accuracies = "  ".join(
        f"{task} {100 * scalars[f'{task}/accuracy']:.1f} %"
        for task in tasks
        if f"{task}/accuracy" in scalars
    )
    _say(f"validation at step {step}: loss {loss:.4f}  {accuracies}")
    return loss


def _lower_rate(session: Session, watch: Watch, config: TrainConfig, schedule: str) -> None:
    if schedule != "plateau" or watch.since_drop < config.plateau_patience:
        return
    scale = session.state.rate_scale * config.plateau_factor
    session.state = dataclasses.replace(session.state, rate_scale=scale)
    watch.since_drop = 0
    _say(f"validation stalls: learning rates x {config.plateau_factor}")


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
