"""Experiment trackers that repeat a run's scalars: Weights & Biases, MLflow, or a writer of the caller's.

A writer has the methods of `clu.metric_writers.MetricWriter` that scalars need. The interface is written
out here, since importing clu's imports TensorFlow.
"""

import importlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from etils import epath

from softbio_jax import files
from softbio_jax.console import Console
from softbio_jax.errors import UserError
from softbio_jax.params import flatten
from softbio_jax.safety import damage

_RECORD = "trackers.json"  # tracker -> the id of the run there


class ScalarWriter(Protocol):
    """What a writer of scalars must have, as `clu.metric_writers.MetricWriter` does."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records {name: value} of a step."""

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Records the configuration, once at the start."""

    def flush(self) -> None:
        """Makes what was written outlive the process."""

    def close(self) -> None:
        """Flushes and releases everything."""


class Guarded:
    """A writer whose failures end its own work and not the run; reports the first in one line.

    Args:
      name: in the report.
      writer: what is guarded.
      console: where it is reported.
    """

    def __init__(self, name: str, writer: ScalarWriter, console: Console):
        self._name, self._writer, self._console = name, writer, console
        self._failed = False

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `ScalarWriter`."""
        self._call("write_scalars", step, scalars)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """See `ScalarWriter`."""
        self._call("write_hparams", hparams)

    def flush(self) -> None:
        """See `ScalarWriter`."""
        self._call("flush")

    def close(self) -> None:
        """See `ScalarWriter`."""
        self._call("close")

    def _call(self, method: str, *arguments: Any) -> None:
        if self._failed:
            return
        try:
            getattr(self._writer, method)(*arguments)
        except Exception as error:  # of any library, from a network or a disk
            self._failed = True
            self._console.say(
                f"warning: {self._name} fails and gets nothing more of this run: {damage.reason(error)}; "
                "metrics.jsonl is complete"
            )


def check(names: Sequence[str]) -> None:
    """Raises UserError unless the packages of trackers are installed."""
    for name in names:
        try:
            importlib.import_module(name)  # the module, and the extra, have its name
        except ImportError as error:
            raise UserError(
                "a tracker that is not installed",
                where="train.trackers",
                expected=name,
                found=str(error),
                fix=f'pip install "softbio-jax[{name}]", or leave it out',
            ) from error


def open_all(
    names: Sequence[str],
    workdir: epath.Path,
    *,
    resume_step: int,
    hparams: Mapping[str, Any],
    console: Console,
    others: Sequence[ScalarWriter] = (),
) -> list[ScalarWriter]:
    """Returns the guarded writers of a run.

    Projects, servers and keys are those of the tracker's own environment variables (WANDB_PROJECT,
    WANDB_MODE, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME). A resumed run continues the tracker's run,
    whose id is in trackers.json, and sends no step twice.

    Args:
      names: of trackers.
      workdir: the run directory.
      resume_step: the step that the run resumes from, 0 at its start.
      hparams: the configuration as nested mappings.
      console: reports failures.
      others: writers of the caller's.
    """
    record = workdir / _RECORD
    ids = _read(record) if resume_step else {}
    opened: list[ScalarWriter] = []
    for name in names:
        try:
            writer = _KINDS[name](str(workdir), ids.get(name))
        except Exception as error:  # a server that does not answer
            reason = damage.reason(error)
            console.say(f"warning: {name} cannot be used for this run: {reason}; metrics.jsonl is complete")
            continue
        ids[name] = writer.id
        opened.append(Guarded(name, writer, console))
    if ids:
        files.write_text(record, json.dumps(ids, indent=2) + "\n")
    opened += [Guarded(type(writer).__name__, writer, console) for writer in others]
    if not resume_step:
        flat = {path.replace("/", "."): value for path, value in flatten(dict(hparams)).items()}
        for writer in opened:
            writer.write_hparams(flat)
    return opened


def _read(record: epath.Path) -> dict[str, str]:
    try:
        values = json.loads(record.read_text())
        return {str(name): str(value) for name, value in values.items()}
    except (OSError, ValueError, AttributeError):
        return {}


class _Wandb:
    def __init__(self, workdir: str, run_id: str | None):
        import wandb

        self._run = wandb.init(
            id=run_id,
            resume="allow",
            dir=workdir if files.is_local(epath.Path(workdir)) else None,
            name=os.path.basename(workdir.rstrip("/")),
        )
        self.id: str = self._run.id
        self._first = self._run.starting_step if self._run.resumed else 0

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        if step >= self._first:  # the service has the steps before
            self._run.log(dict(scalars), step=step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        self._run.config.update(dict(hparams), allow_val_change=True)

    def flush(self) -> None: ...

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    _LONGEST = 500  # characters of a parameter

    def __init__(self, workdir: str, run_id: str | None):
        import mlflow

        self._client = mlflow.MlflowClient()
        self._last: dict[str, int] = {}  # metric -> the last step that the server has
        if run_id is None:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "softbio_jax")
            known = self._client.get_experiment_by_name(experiment)
            place = known.experiment_id if known else self._client.create_experiment(experiment)
            run = self._client.create_run(place, run_name=os.path.basename(workdir.rstrip("/")))
        else:
            run = self._client.get_run(run_id)
            for name in run.data.metrics:
                history = self._client.get_metric_history(run_id, name)
                self._last[name] = max(point.step for point in history)
        self.id: str = run.info.run_id
        self._make = mlflow.entities.Metric

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        new = {name: value for name, value in scalars.items() if step > self._last.get(name, -1)}
        now = int(1000 * time.time())  # ms
        metrics = [self._make(name, float(value), now, step) for name, value in new.items()]
        if metrics:
            self._client.log_batch(self.id, metrics=metrics)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        for name, value in hparams.items():
            self._client.log_param(self.id, name, str(value)[: self._LONGEST])

    def flush(self) -> None: ...

    def close(self) -> None:
        self._client.set_terminated(self.id)


_KINDS: dict[str, Callable[[str, str | None], Any]] = {"wandb": _Wandb, "mlflow": _Mlflow}
