"""A trained run, back on the devices."""

import dataclasses
import pathlib
from typing import Any

from softbio_jax.checkpoints.manager import CheckpointManager
from softbio_jax.errors import UserError
from softbio_jax.train import build, record
from softbio_jax.train.data import open_all
from softbio_jax.train.evaluate import evaluate
from softbio_jax.train.session import Session


def restore_run(workdir: pathlib.Path, *, data_root: str | None = None) -> Session:
    """Returns the session of a run directory at the checkpoint its config evaluates.

    Raises:
      UserError: no run, no checkpoint, or one that does not fit.
    """
    config = record.read_config(workdir)
    if data_root:
        data = dataclasses.replace(config.data, root=data_root)
        config = dataclasses.replace(config, data=data)
    manager = CheckpointManager(workdir, keep=config.train.keep, read_only=True)
    best = config.train.evaluate == "best"
    step = manager.best_step() if best else manager.latest_step()
    if step is None:
        raise UserError("no checkpoints", where=str(workdir), expected="a trained run",
                        found="none saved yet", fix="run scripts/train.py first")  # fmt: skip
    session = Session(build.parts(config))
    session.state = manager.restore(step, session.state).state
    manager.close()
    return session


def evaluate_run(
    workdir: pathlib.Path, *, out: pathlib.Path, data_root: str | None = None
) -> dict[str, Any]:
    """Evaluates a run directory on its test sets and writes out/eval."""
    session = restore_run(workdir, data_root=data_root)
    return evaluate(session, open_all(session.run.config.data).test, out)
