"""A study from its first run to its last: several at a time, resumable at any point."""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import math
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.runs.directory import check_same
from softbio_jax.thesis.study import results, worker
from softbio_jax.thesis.study.study import Run, Study

Results = Mapping[Run, Mapping[str, Any]]


def search_runs(study: Study, cell: str) -> list[Run]:
    """Returns the runs among which a cell's factor is chosen."""
    return [Run(cell=cell, factor=factor, seed=study.seeds[0]) for factor in study.factors]


def chosen_factor(study: Study, cell: str, done: Results) -> float | None:
    """Returns the factor of the lowest validation loss, None while its search is not done.

    Tests play no part. Between equal losses the lower factor wins.

    Raises:
      UserError: no run of the cell has a finite loss.
    """
    runs = search_runs(study, cell)
    if any(run not in done for run in runs):
        return None
    losses = {run.factor: _loss(done[run]) for run in runs}
    best = min(sorted(losses), key=losses.__getitem__)
    if math.isinf(losses[best]):
        raise UserError(
            "every learning rate of a cell diverged",
            where=f"cell {cell!r}",
            found=f"factors {', '.join(f'{f:g}' for f in losses)}",
            fix="lower its rates, in another --workdir",
        )
    return best


def chosen_runs(study: Study, cell: str, done: Results) -> list[Run]:
    """Returns a cell's runs at its chosen factor, one a seed; none while the search is not done."""
    factor = chosen_factor(study, cell, done)
    if factor is None:
        return []
    return [Run(cell=cell, factor=factor, seed=seed) for seed in study.seeds]


def ready(study: Study, done: Results) -> list[Run]:
    """Returns the runs that are not done and wait for no other, cell by cell."""
    waiting = []
    for cell in study.cells:
        runs = [*search_runs(study, cell), *chosen_runs(study, cell, done)]
        waiting += [run for run in dict.fromkeys(runs) if run not in done]
    return waiting


def _loss(result: Mapping[str, Any]) -> float:
    loss = result["validation_loss"]
    return math.inf if loss is None or not math.isfinite(loss) else float(loss)


COLLECTED = "small_reproduction.json"
Say = Callable[[str], None]


def conduct(study: Study, workdir: pathlib.Path, *, jobs: int, say: Say = print) -> dict[str, Any]:
    """Does every run of a study that is not done yet; its figures are collected after each.

    Args:
      study: what is to be done.
      workdir: the study's folder: tower, runs, programs, features, and the collected figures.
      jobs: how many runs at a time, each with its share of the cores.
      say: takes lines of progress.

    Returns:
      The collected figures.

    Raises:
      UserError: the folder is another study's or in use, data are missing, or a run fails.
    """
    if not 1 <= jobs <= (os.cpu_count() or 1):
        raise UserError(
            "bad number of jobs",
            where="--jobs",
            found=str(jobs),
            expected=f"1 to {os.cpu_count()}, the cores",
            fix="correct it",
        )
    with _only_one(workdir):
        _check_workdir(study, workdir)
        path, about = _tower(study, workdir, say)
        done = results.read_all(study, workdir)
        say(f"{len(done)} of {study.size()} runs are done")
        collected = _keep(study, workdir, done, about, jobs)
        with _pool(jobs) as pool:
            running: dict[Future[dict[str, Any]], Run] = {}
            begun, before = time.perf_counter(), len(done)
            while True:
                waiting = [run for run in ready(study, done) if run not in running.values()]
                for run in waiting[: jobs - len(running)]:
                    running[pool.submit(worker.train, study, run, workdir, path)] = run
                if not running:
                    break
                for future in _finished(running):
                    run = running.pop(future)
                    done[run] = _result(future)
                    collected = _keep(study, workdir, done, about, jobs)
                    pace = (time.perf_counter() - begun) / (len(done) - before)
                    say(
                        f"[{len(done)}/{study.size()}] {run.name}: {_told(done[run])}; about "
                        f"{pace * (study.size() - len(done)) / 60:.0f} min left"
                    )
        return collected


def _keep(
    study: Study, workdir: pathlib.Path, done: dict[Run, dict[str, Any]], tower: dict[str, Any], jobs: int
) -> dict[str, Any]:
    collected = results.collect(study, done, tower=tower, jobs=jobs)
    results.write(workdir / COLLECTED, collected)
    return collected


def _tower(study: Study, workdir: pathlib.Path, say: Say) -> tuple[str, dict[str, Any]]:
    """Returns the tower's file and what is known of it; makes it where the study has none."""
    if study.pretrain is None:
        return study.pretrained, {}
    path, told = workdir / "tower.safetensors", workdir / "tower.json"
    about = results.read(told)
    if about is None or not path.exists():
        say(f"pretraining {study.pretrain.variant} on {study.pretrain.fraction:g} of {study.pretrain.data}")
        with _pool(1) as pool:
            about = _result(pool.submit(worker.pretrain, study, path))
        results.write(told, about)
    return str(path), about


def _pool(jobs: int) -> ProcessPoolExecutor:
    # Spawned, since JAX's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        jobs,
        mp_context=context,
        initializer=worker.begin,
        initargs=(context.Value("i", 0), jobs, os.getpid()),
    )


def _finished(running: dict[Future[dict[str, Any]], Run]) -> list[Future[dict[str, Any]]]:
    first = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
    return list(first.done)


def _result(future: Future[dict[str, Any]]) -> dict[str, Any]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was ended",
            where="the study",
            expected="memory for as many runs as --jobs",
            found="no answer",
            fix="start the same command again; it goes on where it was",
        ) from error


def _told(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"diverged ({result['failed']})"
    averages = "  ".join(f"{task} {100 * v:.1f} %" for task, v in result["averages"].items())
    return f"validation {result['validation_loss']:.4f}  {averages}  {result['train_seconds']:.0f} s"


def _check_workdir(study: Study, workdir: pathlib.Path) -> None:
    """Writes study.json, or compares with what is there; where the data lie is free."""
    values = dataclasses.asdict(dataclasses.replace(study, data_root=""))
    now = json.loads(json.dumps(values))
    before = results.read(workdir / "study.json")
    if before is None:
        results.write(workdir / "study.json", now)
    else:
        check_same(before, now, of="study", where=str(workdir))


@contextlib.contextmanager
def _only_one(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the folder's lock, which the system takes back however the process ends."""
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                "workdir is in use",
                where=str(workdir),
                found="a study under way",
                fix="wait for it, or take another --workdir",
            ) from error
        yield
