"""A run's scalars, from each step's outputs to JSON lines and TensorBoard events."""

import contextlib
import importlib.util
import json
import math
import pathlib
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
from etils import epath

from softbio_jax import files
from softbio_jax.console import interpreter
from softbio_jax.files import LineFile
from softbio_jax.models.flops import matmul_flops
from softbio_jax.runs.chips import chip_of
from softbio_jax.runs.config import TrainConfig
from softbio_jax.runs.step import Metrics
from softbio_jax.train.progress import IdleClock, Progress, SkippedUpdates
from softbio_jax.train.trackers import ScalarWriter


class MetricsLog:
    """Records every step's metrics, once and in order; the newest step stays unread.

    At most two steps are in flight, and the device never waits for the host to read metrics.
    """

    def __init__(
        self, writer: "MetricWriter", progress: Progress, skips: SkippedUpdates, config: TrainConfig
    ):
        self._writer, self._progress, self._skips = writer, progress, skips
        self._config = config
        self._idle = IdleClock()
        self._unread: tuple[int, Metrics] | None = None
        self._utilisation = 0.0  # share of the chips' peak per image and second

    def set_step(self, jaxpr: Any) -> None:
        """Counts the matrix operations of the compiled step, to log the share of the chips' peak."""
        chip = chip_of(jax.devices()[0].device_kind)
        if chip is not None:
            per_image = matmul_flops(jaxpr) / self._config.batch_size
            self._utilisation = per_image / (jax.device_count() * chip.flops)

    def take(self, step: int, metrics: Metrics) -> None:
        """Adds the outputs of a step just dispatched and reads those of the step before.

        Raises:
          UserError: too many updates in a row were not finite.
        """
        self._idle.dispatched(metrics["skipped"])
        before, self._unread = self._unread, (step, metrics)
        if before is not None:
            self._read(*before)

    def flush(self) -> None:
        """Waits for the unread step, reads it and flushes the files.

        Stops the clocks until `resume`.

        Raises:
          UserError: see `take`.
        """
        last, self._unread = self._unread, None
        if last is not None:
            self._read(*last)
        self._progress.pause()
        self._writer.flush()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars that are not a step's outputs, such as a validation."""
        self._writer.write(step, scalars)

    def resume(self) -> None:
        """Starts the clocks again after work that is not a step."""
        self._progress.resume()
        self._idle.pause()

    def close(self) -> None:
        """Closes the files."""
        self._idle.close()
        self._writer.close()

    def _read(self, step: int, metrics: Metrics) -> None:
        skipped = int(metrics["skipped"])
        if due(step, self._config.log_every, self._config.steps):
            scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
            self._writer.write(step, {f"train/{name}": value for name, value in scalars.items()})
            self._progress.update(step, _shown(scalars))
            rate = self._progress.images_per_second
            performance = {
                "performance/images_per_second": rate,
                "performance/device_idle_share": self._idle.take(),
            } | _memory()
            if self._utilisation:
                performance["performance/mfu"] = rate * self._utilisation
            self._writer.write_performance(step, performance)
        self._skips.update(step, skipped)


def _shown(scalars: Mapping[str, float]) -> str:
    """Returns the end of the progress line: the loss and, in float16, its scale and the overflows so far."""
    text = f"loss {scalars['loss/total']:.3f}"
    if "loss_scale" not in scalars:
        return text
    return f"{text}  scale {scalars['loss_scale']:,.0f}, {scalars['overflows']:.0f} overflows"


def due(step: int, every: int, last: int) -> bool:
    """Returns whether something that happens every `every` steps (0: never) and after the last is due."""
    return step == last or (every > 0 and step % every == 0)


def _memory() -> dict[str, float]:
    """Returns the peak memory of the first device, where its backend reports it."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" not in stats:
        return {}
    return {"performance/peak_memory_gib": stats["peak_bytes_in_use"] / 2**30}


class MetricWriter:
    """Writes scalars under a run directory; does nothing unless active.

    metrics.jsonl holds what the configuration determines, so that an interrupted and resumed run
    has the file of an uninterrupted one; performance.jsonl holds what depends on the machine.
    tensorboard/ has both.

    Args:
      workdir: the run directory, local or gs://.
      resume_step: the step the run resumes from. Later lines are dropped, and so is the validation
        of this step, which follows its checkpoint and is repeated.
      active: whether this process writes.
      trackers: what gets every scalar too.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        resume_step: int,
        active: bool,
        trackers: Sequence[ScalarWriter] = (),
    ):
        self._active, self._trackers = active, trackers
        if not active:
            return
        folder = epath.Path(workdir)
        self._metrics = _open(folder / "metrics.jsonl", resume_step)
        self._performance = _open(folder / "performance.jsonl", resume_step)
        self._events = _event_writer(folder / "tensorboard", first=resume_step + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes {name: value} of one step to metrics.jsonl."""
        if self._active:
            self._write(self._metrics, step, scalars)

    def write_performance(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes {name: value} of one step to performance.jsonl."""
        if self._active:
            self._write(self._performance, step, scalars)

    def flush(self) -> None:
        """Makes the lines so far outlive the process."""
        if self._active:
            self._metrics.flush()
            self._performance.flush()
            for tracker in self._trackers:
                tracker.flush()

    def close(self) -> None:
        """Flushes and closes all files."""
        if self._active:
            self._metrics.close()
            self._performance.close()
            self._events.close()
            for tracker in self._trackers:
                tracker.close()

    def _write(self, file: LineFile, step: int, scalars: Mapping[str, float]) -> None:
        # JSON has no NaN and no infinity.
        values = {name: float(v) if math.isfinite(v) else None for name, v in scalars.items()}
        file.write(json.dumps({"step": step} | values))
        for name, value in scalars.items():
            self._events.add_scalar(name, float(value), step)
        for tracker in self._trackers:
            tracker.write_scalars(step, {name: float(value) for name, value in scalars.items()})


def _open(path: epath.Path, resume_step: int) -> LineFile:
    """Opens a file for appending, without the lines that the resumed run writes again."""
    kept = []
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    for line in text.split("\n"):
        try:
            values = json.loads(line)
            step = int(values["step"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # truncated by a kill, or damaged
        again = step == resume_step and any(name.startswith("val/") for name in values)
        if step <= resume_step and not again:
            kept.append(line)
    return LineFile(path, kept)


def tensorboard_command(folder: epath.Path) -> str:
    """Returns the command that shows the event files of a folder, for the shell that started this process.

    The environment of this process need not be active there, nor contain TensorBoard.
    """
    if shutil.which("tensorboard") == str(pathlib.Path(sys.executable).with_name("tensorboard")):
        return f"tensorboard --logdir {shlex.quote(str(folder))}"
    run = f"{interpreter()} -m"
    missing = importlib.util.find_spec("tensorboard") is None
    install = f"{run} pip install tensorboard && " if missing else ""
    return f"{install}{run} tensorboard.main --logdir {shlex.quote(str(folder))}"


_SCHEME = "softbio"


def _event_writer(folder: epath.Path, *, first: int) -> Any:
    """Returns a TensorBoard writer that voids earlier events from step `first` on.

    Events only repeat metrics.jsonl, so a failure to write them is ignored.
    """
    import tensorboardX
    from tensorboardX import record_writer

    # tensorboardX's own writers need a client library per object store, and report a full disk as
    # tracebacks from a thread.
    record_writer.register_writer_factory(_SCHEME, _Factory())
    return tensorboardX.SummaryWriter(f"{_SCHEME}:{folder}", purge_step=first, write_to_disk=True)


class _Sink(Protocol):
    def write(self, record: bytes) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class _Factory:
    """Opens event files on a disk or in an object store, for tensorboardX."""

    def open(self, path: str) -> _Sink:
        where = epath.Path(path.removeprefix(f"{_SCHEME}:"))
        return _File(where) if files.is_local(where) else _Object(where)

    def directory_check(self, path: str) -> None:
        where = epath.Path(path.removeprefix(f"{_SCHEME}:"))
        if files.is_local(where):  # object stores have no folders
            with contextlib.suppress(OSError):
                where.mkdir(parents=True, exist_ok=True)


class _File:
    """A local event file; every record is written at once and no file stays open."""

    def __init__(self, path: epath.Path):
        self._path = path

    def write(self, record: bytes) -> None:
        with contextlib.suppress(OSError), open(self._path, "ab") as file:
            file.write(record)

    def flush(self) -> None: ...

    def close(self) -> None: ...


class _Object:
    """An event file kept in memory and rewritten to an object store every minute."""

    def __init__(self, path: epath.Path):
        self._path, self._content = path, bytearray()
        self._written = time.monotonic()

    def write(self, record: bytes) -> None:
        self._content += record

    def flush(self) -> None:
        if time.monotonic() - self._written >= files.EVERY:
            self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._path.write_bytes(bytes(self._content))
        self._written = time.monotonic()
