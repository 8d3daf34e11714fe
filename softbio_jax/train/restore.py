"""A trained run, back on the devices."""

import dataclasses
from typing import Any

import jax
from etils import epath

from softbio_jax.checkpoints import files
from softbio_jax.checkpoints.manager import CheckpointManager
from softbio_jax.errors import UserError
from softbio_jax.train import build, record, speed
from softbio_jax.train.data import open_all
from softbio_jax.train.evaluate import evaluate
from softbio_jax.train.session import Session


def restore_run(workdir: epath.PathLike, *, data_root: str | None = None) -> Session:
    """Returns the session of a run directory at the checkpoint its config evaluates.

    Raises:
      UserError: no run, no checkpoint, or one that does not fit.
    """
    workdir = files.directory(workdir)
    config = record.read_config(workdir)
    if data_root:
        data = dataclasses.replace(config.data, root=data_root)
        config = dataclasses.replace(config, data=data)
    session = Session(build.parts(config))
    manager = CheckpointManager(workdir, keep=config.train.keep, base=session.base)
    best = record.read_best(workdir) if config.train.evaluate == "best" else None
    restored = (
        manager.restore_newest(session.state)
        if best is None
        else manager.restore(best, session.state)
    )
    if restored is None:
        raise UserError("no checkpoint", where=str(workdir), expected="a trained run",
                        found="none that was finished",
                        fix="run scripts/train.py first")  # fmt: skip
    session.state = restored.state
    return session


def evaluate_run(
    workdir: epath.PathLike,
    *,
    out: epath.PathLike,
    data_root: str | None = None,
    timed: bool = False,
) -> dict[str, Any]:
    """Evaluates a run directory on its test sets and writes out/eval.

    Args:
      workdir: the run.
      out: where eval/ is written.
      data_root: where the prepared sets are, if not where the run found them.
      timed: also measures how fast it predicts and adds `inference` to the run's run.json.

    Returns:
      The contents of metrics.json.
    """
    session = restore_run(workdir, data_root=data_root)
    data = open_all(session.run.config.data)
    summary = evaluate(session, data.test, out, val=data.val)
    if timed:
        found = speed.measure(session)
        if jax.process_index() == 0:
            record.update(workdir, {"inference": found})
            print(speed.text(found), flush=True)
    return summary
