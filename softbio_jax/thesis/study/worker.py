"""The work of a process: its share of the cores, then one trial after another."""

import contextlib
import logging
import os
import pathlib
import threading
import time
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from softbio_jax.console import Console
from softbio_jax.thesis.study import pretext, results
from softbio_jax.thesis.study.study import Study, Trial


def begin(counter: "Synchronized[int]", jobs: int, parent: int) -> None:
    """Pins this process to its share of the cores, and ends it once its parent is gone.

    Must run before JAX starts its threads, one per visible core. `counter` holds the number of
    processes that have begun, of `jobs`; `parent` is a process id.
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
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()


def pretrain(study: Study, path: pathlib.Path) -> dict[str, Any]:
    """Makes the study's encoder; see `pretext.make_encoder`."""
    if study.pretrain is None:
        raise ValueError("a study with weights has nothing to pretrain")
    return pretext.make_encoder(study.pretrain, study.data_root, path, console=Console())


def train(study: Study, trial: Trial, workdir: pathlib.Path, encoder: str) -> dict[str, Any]:
    """Runs a trial, from its last checkpoint if it has one, and writes and returns its result.

    Raises:
      UserError: of the run; a trial that diverges is a result.
      Preempted: stopped by SIGTERM after saving.
    """
    from softbio_jax.runs.build import build
    from softbio_jax.train import loop
    from softbio_jax.train.preemption import Preemption
    from softbio_jax.train.progress import DivergedError

    config = study.config(trial, encoder=encoder, workdir=workdir)
    folder = results.folder_of(workdir, trial)
    run, data = build(config), pretext.open_run(config.data, study.pretrain)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
        try:
            with Preemption() as preemption:
                metrics = loop.train_and_evaluate(run, data, folder, preemption=preemption)
            result = results.of_trial(trial, config, folder, metrics)
        except DivergedError as error:
            result = results.of_diverged(trial, config, str(error))
    results.write(folder / "result.json", result)
    return result


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
