"""Restores a trained run to the devices."""

import dataclasses

from etils import epath

from softbio_jax import coverage, files
from softbio_jax.checkpoints.manager import CheckpointManager, Restored
from softbio_jax.console import Console
from softbio_jax.errors import UserError
from softbio_jax.models.attention.choice import on_this_machine
from softbio_jax.runs import build, directory
from softbio_jax.runs.config import RunConfig
from softbio_jax.runs.session import Session
from softbio_jax.runs.state import TrainState, as_saved


def restore_run(
    workdir: epath.PathLike, *, data_root: str | None = None, console: Console | None = None
) -> Session:
    """Returns the session of a run directory at the checkpoint its config evaluates.

    A damaged checkpoint that is skipped for an older one is always reported, by default on standard
    output.

    Raises:
      UserError: no run, no checkpoint, or one that does not fit.
    """
    workdir = files.directory(workdir)
    config = directory.read_config(workdir)
    config = dataclasses.replace(config, compute=on_this_machine(config.compute))
    if data_root:
        data = dataclasses.replace(config.data, root=data_root)
        config = dataclasses.replace(config, data=data)
    session = Session(build.build(config))
    manager = CheckpointManager(
        workdir,
        keep=config.train.keep,
        base=session.base,
        run=directory.identity(config),
        older=as_saved,
        console=console or Console(),
    )
    restored = evaluated(manager, session.state, config, workdir)
    session.state = restored.state
    session.training_images = coverage.from_json(restored.host.get(coverage.KEY))
    return session


def evaluated(
    manager: CheckpointManager, like: TrainState, config: RunConfig, workdir: epath.Path
) -> Restored:
    """Returns the checkpoint of a run directory that its config evaluates.

    Raises:
      UserError: none was finished, or it does not fit.
    """
    best = directory.read_best(workdir) if config.train.evaluate == "best" else None
    restored = manager.restore_newest(like) if best is None else manager.restore(best, like)
    if restored is None:
        raise UserError(
            "no checkpoint",
            where=str(workdir),
            expected="a trained run",
            found="none that was finished",
            fix="run scripts/train.py first",
        )
    return restored
