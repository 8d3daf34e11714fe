"""A study from its first run to its last: several at a time, resumable at any point."""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.reproduction import results, worker
from softbio_jax.reproduction.schedule import ready
from softbio_jax.reproduction.study import Run, Study
from softbio_jax.train.differing import check_same

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
        raise UserError("bad number of jobs", where="--jobs", found=str(jobs),
                        expected=f"1 to {os.cpu_count()}, the cores",
                        fix="correct it")  # fmt: skip
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
                    say(f"[{len(done)}/{study.size()}] {run.name}: {_told(done[run])}; about "
                        f"{pace * (study.size() - len(done)) / 60:.0f} min left")  # fmt: skip
        return collected


def _keep(
    study: Study, workdir: pathlib.Path, done: dict[Run, dict[str, Any]], tower: dict[str, Any],
    jobs: int,
) -> dict[str, Any]:  # fmt: skip
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
        say(f"pretraining {study.pretrain.variant} on {study.pretrain.fraction:g} of "
            f"{study.pretrain.data}")  # fmt: skip
        with _pool(1) as pool:
            about = _result(pool.submit(worker.pretrain, study, path))
        results.write(told, about)
    return str(path), about


def _pool(jobs: int) -> ProcessPoolExecutor:
    # Spawned, since JAX's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        jobs, mp_context=context, initializer=worker.begin,
        initargs=(context.Value("i", 0), jobs, os.getpid()),
    )  # fmt: skip


def _finished(running: dict[Future[dict[str, Any]], Run]) -> list[Future[dict[str, Any]]]:
    first = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
    return list(first.done)


def _result(future: Future[dict[str, Any]]) -> dict[str, Any]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError("a worker process was ended", where="the study",
                        expected="memory for as many runs as --jobs", found="no answer",
                        fix="start the same command again; it goes on where it "
                        "was") from error  # fmt: skip


def _told(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"diverged ({result['failed']})"
    averages = "  ".join(f"{task} {100 * v:.1f} %" for task, v in result["averages"].items())
    return (f"validation {result['validation_loss']:.4f}  {averages}  "
            f"{result['train_seconds']:.0f} s")  # fmt: skip


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
            raise UserError("workdir is in use", where=str(workdir), found="a study under way",
                            fix="wait for it, or take another --workdir") from error  # fmt: skip
        yield
