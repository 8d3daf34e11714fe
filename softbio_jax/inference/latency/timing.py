"""Measures models of any format, each in a process of its own, one after the other."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from softbio_jax.console import QUIET, Console, markdown
from softbio_jax.errors import UserError

_ENDINGS = {".onnx": "onnx", ".tflite": "litert", ".stablehlo": "stablehlo"}
_CONFIG = "config.json"
_WORKER = "softbio_jax.inference.latency.worker"
_MISTAKE = "UserError: "
_PACKAGES = {"onnx": "onnx", "litert": "litert"}  # format -> the extra that has its runtime


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What one model took with one number of threads.

    Args:
      model: name of its folder or file.
      format: jax, stablehlo, onnx or litert.
      precision: float32 or int8.
      threads: cores that the process may use, and threads of the runtime.
      batch: images per call.
      size: side of the images in pixels.
      median_ms, p95_ms: median and 95th percentile of a call, in milliseconds.
      calls: number of calls that were timed.
      load_s: seconds until the model was ready.
      peak_mb: largest resident memory of the process, with its libraries.
      file_mb: size of the weights and program.
      parameters, gflops: of one image; None where the file does not say.
      runtime: library and version.
      pinned: whether the cores were limited; without that JAX takes all.
    """

    model: str
    format: str
    precision: str
    threads: int
    batch: int
    size: int
    median_ms: float
    p95_ms: float
    calls: int
    load_s: float
    peak_mb: float
    file_mb: float
    parameters: int | None = None
    gflops: float | None = None
    runtime: str
    pinned: bool = True


def measure(
    models: Sequence[str],
    *,
    threads: Sequence[int] = (1, 2),
    seconds: float = 5.0,
    calls: int = 50,
    console: Console = QUIET,
) -> list[Row]:
    """Times every model with every number of threads.

    Args:
      models: runs, saved models, hub ids, exported folders (all their files), .onnx and .tflite files.
      threads: numbers of cores.
      seconds, calls: at least as long, and as many calls, are timed.

    Raises:
      UserError: no such model, more threads than cores, or a runtime that is not installed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if max(threads) > cores:
        raise UserError(
            "more threads than cores",
            where="--threads",
            expected=f"at most {cores}",
            found=str(max(threads)),
            fix=f"use --threads={cores}",
        )
    found = [item for model in models for item in _candidates(model)]
    meter, rows = console.meter("measuring", len(found) * len(threads), unit="models"), []
    for item in found:
        for count in threads:
            rows.append(_measured(item, threads=count, seconds=seconds, calls=calls))
            meter.add()
    return rows


def machine() -> dict[str, Any]:
    """Returns what the figures depend on: processor, cores, system, and how busy it is."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith(("model name", "Model"))
            ]
    except OSError:
        names = []
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # runnable processes, of a minute
    }


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table."""
    header = ["model", "format", "precision", "pixels", "images per call", "threads", "median ms", "95 % ms"]
    header += ["peak MB", "file MB", "M parameters", "GFLOPs"]
    lines = []
    for row in rows:
        cells = [row.model, row.format, row.precision, str(row.size), str(row.batch), str(row.threads)]
        cells += [f"{row.median_ms:.2f}", f"{row.p95_ms:.2f}", f"{row.peak_mb:.0f}", f"{row.file_mb:.2f}"]
        cells.append("-" if row.parameters is None else f"{row.parameters / 1e6:.2f}")
        cells.append("-" if row.gflops is None else f"{row.gflops:.2f}")
        lines.append(cells)
    return f"{markdown(header, lines)}\n"


def _candidates(model: str) -> Iterator[dict[str, Any]]:
    """Yields a description of every file of a model, without loading it."""
    path = pathlib.Path(model).expanduser()
    if path.is_file():
        if path.suffix not in _ENDINGS:
            raise _not_a_model(model, f"a file that ends with {path.suffix or 'nothing'}")
        yield _file(path, _config(path.parent))
        return
    config = _config(path)
    files = [path / name for name in config.get("files", [config.get("file", "")]) if name]
    files = [file for file in files if file.suffix in _ENDINGS]
    if files:
        yield from (_file(file, config) for file in files)
        return
    if not path.is_dir() and ((path.parent.is_dir() and len(path.parts) > 1) or "/" not in model):
        raise _not_a_model(model, "nothing")
    given = str(path) if path.is_dir() else model
    yield {"model": path.name or str(path), "format": "jax", "precision": "float32", "path": given}


def _file(path: pathlib.Path, config: Mapping[str, Any]) -> dict[str, Any]:
    parts = path.parent.glob(f"{path.name}*")  # large weights are beside the program
    item = {
        "model": path.parent.resolve().name,
        "format": _ENDINGS[path.suffix],
        "precision": "int8" if ".int8." in path.name else "float32",
        "path": str(path),
        "file_mb": sum(part.stat().st_size for part in parts) / 1e6,
    }
    if "input" in config:
        item["size"] = config["input"]["shape"][1]
    return item | config.get("cost", {})


def _config(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the config.json of an exported folder, or nothing."""
    try:
        found = json.loads((folder / _CONFIG).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("format") in _ENDINGS.values() else {}


def _measured(item: Mapping[str, Any], *, threads: int, seconds: float, calls: int) -> Row:
    spec = {"threads": threads, "seconds": seconds, "calls": calls, **item}
    done = subprocess.run(
        [sys.executable, "-m", _WORKER, json.dumps(spec)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        if lines and _MISTAKE in lines[-1]:  # of loading the model
            raise UserError(lines[-1].partition(_MISTAKE)[2])
        extra = _PACKAGES.get(item["format"])
        missing = extra is not None and "ModuleNotFoundError" in done.stderr
        raise UserError(
            "the model cannot be measured",
            where=item["path"],
            expected=f"a model of {item['format']}",
            found=lines[-1] if lines else f"exit code {done.returncode}",
            fix=f"pip install 'softbio-jax[{extra}]'" if missing else "export it again, or correct the path",
        )
    facts = {name: value for name, value in item.items() if name != "path"}
    return Row(**facts | json.loads(done.stdout.splitlines()[-1]), threads=threads)


def _not_a_model(where: str, found: str) -> UserError:
    return UserError(
        "no such model",
        where=where,
        expected="a run, a saved model, a hub id, an exported folder, or a .onnx or .tflite file",
        found=found,
        fix="correct the path",
    )
