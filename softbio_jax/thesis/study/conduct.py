"""Conducts a study: several trials at a time, resumable at any point."""

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import signal
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from softbio_jax.console import QUIET, Console
from softbio_jax.errors import UserError
from softbio_jax.runs.config import config_from
from softbio_jax.runs.directory import check_same
from softbio_jax.safety import locks
from softbio_jax.thesis import protocol
from softbio_jax.thesis.study import results, worker
from softbio_jax.thesis.study.study import Study, Trial
from softbio_jax.train.preemption import Preempted

_OF_CELLS = ("cells", "more_seeds", "factor_of")  # fields of a study by cell


class Stopped(Exception):
    """SIGTERM has stopped a study, whose runs have saved their state."""


def conduct(
    study: Study,
    workdir: pathlib.Path,
    *,
    jobs: int,
    records: pathlib.Path | None = None,
    console: Console = QUIET,
) -> dict[str, Any]:
    """Runs every unfinished trial of a study and collects the results after each.

    Args:
      study: the study.
      workdir: its folder: encoder, runs, compiled programs, features and the collected results.
      jobs: number of trials at a time, each with its share of the cores.
      records: a folder with a small file per finished trial, which is written and, on any machine, read
        instead of training again.
      console: prints a line per finished trial.

    Returns:
      The collected results.

    Raises:
      UserError: the folder is another study's or in use, data are missing, a trial fails, or a record
        is of another configuration.
      Stopped: by SIGTERM.
    """
    if not 1 <= jobs <= (os.cpu_count() or 1):
        expected, fix = f"1 to {os.cpu_count()}, the number of cores", "set it in this range"
        raise UserError("bad number of jobs", where="--jobs", expected=expected, found=str(jobs), fix=fix)
    with locks.hold(workdir, console=console):
        _check_workdir(study, workdir)
        encoder, about = _encoder(study, workdir, console)
        done = results.read_all(study, workdir)
        if records is not None:
            done |= results.read_records(study, records, encoder=encoder)

        def collect() -> dict[str, Any]:
            collected = results.collect(study, done, encoder=about, jobs=jobs)
            results.write(workdir / f"{study.name}.json", collected)
            return collected

        console.say(f"{len(done)} of {study.size()} runs are done")
        collected, begun, before = collect(), time.perf_counter(), len(done)
        with _passing_sigterm_on() as stop, _pool(jobs) as pool:
            running: dict[Future[dict[str, Any]], Trial] = {}
            while True:
                if stop.is_set():
                    raise Stopped(f"stopped by SIGTERM: {len(done)} of {study.size()} runs are done")
                for trial in study.ready(done):
                    if len(running) == jobs:
                        break
                    if trial in running.values() or _shares_features(study, trial, running.values()):
                        continue
                    running[pool.submit(worker.train, study, trial, workdir, encoder)] = trial
                if not running:
                    return collected
                finished = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in finished.done:
                    trial = running.pop(future)
                    try:
                        done[trial] = _result(future)
                    except (Preempted, UserError):
                        if stop.is_set():
                            continue  # it is not done, and the next turn raises Stopped
                        raise
                    if records is not None:
                        results.write(results.record_of(records, trial), done[trial])
                    collected = collect()
                    pace = (time.perf_counter() - begun) / (len(done) - before)
                    console.say(
                        f"[{len(done)}/{study.size()}] {trial.name}: {_summary(done[trial])}; about "
                        f"{pace * (study.size() - len(done)) / 60:.0f} min left"
                    )


@contextlib.contextmanager
def _passing_sigterm_on() -> Iterator[threading.Event]:
    """Sends SIGTERM on to the workers, which save their runs; the event says whether it came."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only there are handlers set
        yield came
        return

    def pass_on(*_: Any) -> None:
        came.set()
        for child in multiprocessing.active_children():
            child.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def _shares_features(study: Study, trial: Trial, others: Iterable[Trial]) -> bool:
    """Returns whether another may be computing the cached features that a trial reads."""

    def cached(one: Trial) -> bool:
        return config_from(study.cells[one.cell]).train.cache_features

    return cached(trial) and any(cached(other) and other.seed == trial.seed for other in others)


def _encoder(study: Study, workdir: pathlib.Path, console: Console) -> tuple[str, dict[str, Any]]:
    """Returns the encoder's file and the facts about its pretraining, which runs if necessary."""
    if study.pretrain is None:
        return study.pretrained, {}
    path, facts = workdir / "tower.safetensors", workdir / "tower.json"
    about = results.read(facts)
    if about is None or not path.exists():
        part = f"{study.pretrain.fraction:g} of {study.pretrain.data}"
        console.say(f"pretraining {study.pretrain.variant} on {part}")
        with _pool(1) as pool:
            about = _result(pool.submit(worker.pretrain, study, path))
        results.write(facts, about)
    return str(path), about


def _pool(jobs: int) -> ProcessPoolExecutor:
    # Spawned, since JAX's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    arguments = (context.Value("i", 0), jobs, os.getpid())
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=worker.begin, initargs=arguments)


def _result(future: Future[dict[str, Any]]) -> dict[str, Any]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        expected, fix = "memory for --jobs runs at a time", "start the same command again; it resumes"
        raise UserError("a worker process was ended", expected=expected, fix=fix) from error


def _summary(result: Mapping[str, Any]) -> str:
    if "failed" in result:
        return f"diverged ({result['failed']})"
    averages = "  ".join(f"{task} {100 * v:.1f} %" for task, v in result["averages"].items())
    return f"validation {result['validation_loss']:.4f}  {averages}  {result['train_seconds']:.0f} s"


def _check_workdir(study: Study, workdir: pathlib.Path) -> None:
    """Compares with study.json, and adds to it; the place of the data and the choice of cells may differ."""
    values = dataclasses.asdict(dataclasses.replace(study, data_root=""))
    path, now = workdir / "study.json", _resolved(json.loads(json.dumps(values)))
    before = results.read(path)
    if before is not None:
        before = _resolved(before)
        common = before["cells"].keys() & now["cells"].keys()
        check_same(_only(before, common), _only(now, common), of="study", where=str(workdir))
        now |= {name: before.get(name, {}) | now[name] for name in _OF_CELLS}
        now["untrained"] = list(dict.fromkeys([*before.get("untrained", ()), *now["untrained"]]))
    results.write(path, now)


def _resolved(study: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a study whose cells have every field, so that one of an older version compares."""
    cells = study.get("cells", {}).items()
    resolved = {name: dataclasses.asdict(config_from(protocol.upgrade(cell))) for name, cell in cells}
    return json.loads(json.dumps({**study, "cells": resolved}))


def _only(study: Mapping[str, Any], cells: Collection[str]) -> dict[str, Any]:
    """Returns a study's fields with the given cells alone."""
    kept = {name: {c: v for c, v in study.get(name, {}).items() if c in cells} for name in _OF_CELLS}
    return {**study, **kept, "untrained": [c for c in study.get("untrained", ()) if c in cells]}
