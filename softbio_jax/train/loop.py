"""The training loop: start or resume, step, save, validate, evaluate."""

from typing import Any

from etils import epath

from softbio_jax.checkpoints import files
from softbio_jax.train import record, sanity
from softbio_jax.train.build import Parts
from softbio_jax.train.data import RunData
from softbio_jax.train.preemption import Preemption
from softbio_jax.train.recorder import due
from softbio_jax.train.training import Training


def train_and_evaluate(
    run: Parts, data: RunData, workdir: epath.PathLike, *, preemption: Preemption | None = None
) -> dict[str, Any]:
    """Trains a run to its end, from its newest whole checkpoint if it has one, and evaluates it.

    Every validation follows a checkpoint of the same step, so whatever ends the process, what is
    resumed is a state right after a step.

    Args:
      run: the parts of the run.
      data: its data sets.
      workdir: where checkpoints, metrics and the evaluation go, local or gs://.
      preemption: who notes a SIGTERM; None: nobody does.

    Returns:
      The contents of eval/metrics.json.

    Raises:
      UserError: the workdir is another run's, the batch does not fit the devices, checkpoints are
        damaged or cannot be written, or updates were not finite too many times in a row.
      Preempted: stopped by SIGTERM, everything done so far saved.
    """
    config, workdir = run.config.train, files.directory(workdir)
    record.check_workdir(run.config, workdir)
    sanity.check(data, tasks=run.config.tasks, batch_size=config.batch_size)
    with Training(run, data, workdir, preemption or Preemption()) as training:
        if training.first < config.steps:
            training.compile()

        step = training.first
        # From the step that is there: its checkpoint comes before its validation, which a run that
        # is resumed in between does again.
        for step in range(training.first, config.steps + 1):
            validates = bool(data.val) and step > 0 and due(step, config.eval_every, config.steps)
            if step > training.first:
                told_to_leave = training.step(step)
                saves = validates or due(step, config.checkpoint_every, config.steps)
                if saves or told_to_leave:
                    training.save(step)
                if told_to_leave:
                    training.leave(step)
            if validates and training.validate(step):
                break
        return training.evaluate(step)
