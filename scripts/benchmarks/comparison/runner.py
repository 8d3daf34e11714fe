"""Runs cases: contenders take turns, one repetition each, on the same machine."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from benchmarks.comparison.case import Case, Entry
from benchmarks.comparison.machine import Watch
from benchmarks.comparison.results import compare
from softbio_jax.errors import UserError

_SCRIPTS = pathlib.Path(__file__).resolve().parents[2]
_DESCRIPTION = ("name", "title", "measure", "fact", "images", "least_rate")
_TORCH_SIDES = "twins."  # the modules of this folder import torch


class Worker(Protocol):
    """Where one side runs."""

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]: ...

    def close(self) -> None: ...


class Process:
    """A worker process of one side, stopped while nothing is asked of it, so that none of its threads spins.

    See `benchmarks.comparison.worker`.

    Args:
      side: the module that prepares.
      python: the interpreter.
      platform: "cpu", which hides accelerators from both sides, or "gpu".
    """

    def __init__(self, side: str, *, python: str = sys.executable, platform: str = "cpu"):
        self._side = side
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.comparison.worker", f"--side={side}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(platform),
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps({"do": do} | arguments) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: no answer comes
        line = self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)
        if not line:
            raise RuntimeError(f"the process of {self._side} ended while asked to {do}")
        answer: dict[str, Any] = json.loads(line)
        if "mistake" in answer:
            raise UserError(answer["mistake"])
        if "error" in answer:
            raise RuntimeError(f"{self._side}, asked to {do}: {answer['error']}")
        return answer

    def close(self) -> None:
        assert self._process.stdin
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.close()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


class Workers:
    """Starts a side's process when it is first asked for; closes all at the end."""

    def __init__(self, start: Callable[[str], Worker]):
        self._start = start
        self._running: dict[str, Worker] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._running.values():
            worker.close()

    def of(self, side: str) -> Worker:
        if side not in self._running:
            self._running[side] = self._start(side)
        return self._running[side]


def starter(*, torch_python: str, platform: str) -> Callable[[str], Worker]:
    """Returns what starts the process of a side."""

    def start(side: str) -> Worker:
        python = torch_python if side.startswith(_TORCH_SIDES) else sys.executable
        return Process(side, python=python, platform=platform)

    return start


def describe(start: Callable[[str], Worker], platform: str) -> dict[str, dict[str, Any]]:
    """Returns the device and versions that each side reports.

    Raises:
      UserError: a side does not see the platform.
    """
    found: dict[str, dict[str, Any]] = {}
    with Workers(start) as workers:
        for side in ("ours.step", "twins.step"):
            found[side] = workers.of(side).ask("describe")
            if found[side]["platform"] != platform:
                raise UserError(
                    "no such device",
                    where=f"--suite={platform}",
                    expected="a GPU",
                    found=found[side]["platform"],
                    fix="run --suite=cpu, or try the code with --tiny",
                )
    return found


def run(case: Case, start: Callable[[str], Worker], *, repeats: int = 0) -> dict[str, Any]:
    """Measures a case.

    Args:
      case: what to measure.
      start: starts the process of a side.
      repeats: number of repetitions that are kept; 0: the case's own number.

    Returns:
      What `results.compare` found, with what the case says of itself and the facts of each entry.
    """
    repeats, begun = repeats or case.repeats, time.perf_counter()
    measure = {"time": _times, "memory": _memory, "fact": _facts}[case.measure]
    samples, facts = measure(case, start, repeats)
    found = compare(samples, case.target)
    ours = case.entries[0].label
    median = found["entries"][ours]["median"]
    if case.images and case.images / median < case.least_rate:
        found["reached"] = False
    if "best" in found and case.measure == "time":
        units = {entry.label: entry.units for entry in case.entries}
        own, best = (facts[x]["cpu_seconds"] / units[x] for x in (ours, found["best"]))
        found["cpu_ratio"] = own / best if best else None
    if "peak_flops" in facts[ours]:
        found["share_of_peak"] = facts[ours]["flops"] / median / facts[ours]["peak_flops"]
    described = {name: getattr(case, name) for name in _DESCRIPTION}
    took = time.perf_counter() - begun
    return described | found | {"facts": facts, "took_seconds": took}


Found = tuple[dict[str, list[float]], dict[str, dict[str, Any]]]


def run_all(
    cases: Sequence[Case],
    run_one: Callable[[Case], dict[str, Any]],
    keep: Callable[[list[dict[str, Any]], dict[str, str]], None],
    *,
    seconds: float,
) -> dict[str, str]:
    """Measures cases until the time is up; what is measured is kept after each.

    Args:
      cases: in their order.
      run_one: measures one, see `run`.
      keep: takes the results so far, and why each of the other cases has none.
      seconds: no case is started that would end later, if it took as long as the longest so far; 0: no limit.

    Returns:
      The cases that ended in an error, which the later ones survive, and the error.
    """
    begun, longest = time.monotonic(), 0.0
    results: list[dict[str, Any]] = []
    left = {case.name: "not reached" for case in cases}
    failed: dict[str, str] = {}
    for case in cases:
        start = time.monotonic()
        if seconds and start - begun + longest > seconds:
            break
        try:
            results.append(run_one(case))
            del left[case.name]
        except RuntimeError as error:
            failed[case.name] = left[case.name] = " ".join(str(error).split())[:300]
        longest = max(longest, time.monotonic() - start)
        keep(results, left)
    return failed


def _times(case: Case, start: Callable[[str], Worker], repeats: int) -> Found:
    samples: dict[str, list[float]] = {entry.label: [] for entry in case.entries}
    with Workers(start) as workers:
        facts = {entry.label: _prepare(workers.of(entry.side), entry) for entry in case.entries}
        _check_same_size(case, facts)
        watch = {entry.label: Watch() for entry in case.entries}
        for turn in range(case.warm_ups + repeats):
            for entry in case.entries:
                with watch[entry.label].repetition() as measured:
                    measured |= workers.of(entry.side).ask("run", name=entry.label)
                if turn >= case.warm_ups:
                    samples[entry.label].append(measured["seconds"] / entry.units)
        for entry in case.entries:
            facts[entry.label] |= workers.of(entry.side).ask("device_bytes")
    for entry in case.entries:
        facts[entry.label] |= watch[entry.label].facts()
    return samples, facts


def _memory(case: Case, start: Callable[[str], Worker], repeats: int) -> Found:
    samples, facts = {}, {}
    for entry in case.entries:
        with Workers(start) as workers:
            worker = workers.of(entry.side)
            facts[entry.label] = _prepare(worker, entry)
            found = worker.ask("memory", name=entry.label, repetitions=repeats)
            samples[entry.label] = [found.pop("peak_mib") / entry.units]
            facts[entry.label] |= found
    _check_same_size(case, facts)
    return samples, facts


def _facts(case: Case, start: Callable[[str], Worker], repeats: int) -> Found:
    samples: dict[str, list[float]] = {entry.label: [] for entry in case.entries}
    facts: dict[str, dict[str, Any]] = {}
    for turn in range(case.warm_ups + repeats):
        for entry in case.entries:
            with Workers(start) as workers:
                facts[entry.label] = _prepare(workers.of(entry.side), entry)
            if turn >= case.warm_ups:
                samples[entry.label].append(facts[entry.label][case.fact])
    return samples, facts


def _prepare(worker: Worker, entry: Entry) -> dict[str, Any]:
    return worker.ask("prepare", name=entry.label, work=entry.work.to_json(), form=entry.form)


def _check_same_size(case: Case, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises unless all who are asked for the same work train as many parameters."""
    by_work: dict[str, dict[str, int]] = {}
    for entry in case.entries:
        if "trainable" in facts[entry.label]:
            key = json.dumps(entry.work.to_json(), sort_keys=True)
            by_work.setdefault(key, {})[entry.label] = facts[entry.label]["trainable"]
    for counts in by_work.values():
        if len(set(counts.values())) > 1:
            raise RuntimeError(f"{case.name}: the sides train different models: {counts}")


def _environment(platform: str) -> dict[str, str]:
    folders = [str(_SCRIPTS), str(_SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
    if platform == "cpu":
        return environment | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    # Both sides live on the one device.
    return environment | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
