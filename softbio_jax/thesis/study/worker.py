"""What a worker process does: takes its share of the cores, then one run after another."""

import contextlib
import logging
import os
import pathlib
import threading
import time
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from softbio_jax.thesis.study import results
from softbio_jax.thesis.study.pretext import make_tower, open_run
from softbio_jax.thesis.study.study import Run, Study


def begin(counter: "Synchronized[int]", jobs: int, parent: int) -> None:
    """Pins this process to its share of the cores, and ends it when its parent is gone.

    It has to come before JAX starts its threads, one a core that it sees.

    Args:
      counter: how many processes have begun.
      jobs: how many share the cores.
      parent: the process that started this one.
    """
    with counter.get_lock():
        turn = counter.value
        counter.value += 1
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if own := cores[turn % jobs :: jobs]:
            os.sched_setaffinity(0, own)
    for name in ("jax", "orbax", "absl", "etils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def pretrain(study: Study, path: pathlib.Path) -> dict[str, Any]:
    """Makes the study's own tower; returns what is known of it."""
    if study.pretrain is None:
        raise ValueError("a study with weights has nothing to pretrain")
    return make_tower(study.pretrain, study.data_root, path, say=lambda line: print(line, flush=True))


def train(study: Study, run: Run, workdir: pathlib.Path, tower: str) -> dict[str, Any]:
    """Does one run, from its last checkpoint where it has one, and keeps its figures.

    Returns:
      The figures.

    Raises:
      UserError: of the run; a run that diverges is a result.
    """
    from softbio_jax.runs import build
    from softbio_jax.train import loop
    from softbio_jax.train.early_stopping import DivergedError

    config = study.config(run, tower=tower, workdir=workdir)
    folder = results.folder_of(workdir, run)
    parts, data = build.build(config), open_run(config.data, study.pretrain)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
        try:
            metrics = loop.train_and_evaluate(parts, data, folder)
            result = results.of_run(run, config, folder, metrics)
        except DivergedError as error:
            result = results.of_failed(run, config, str(error))
    results.write(folder / "result.json", result)
    return result


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
