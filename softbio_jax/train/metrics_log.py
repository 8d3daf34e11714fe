"""Each step's outputs on their way to files and terminal, read while the next step runs."""

import contextlib
import json
import math
import time
from collections.abc import Mapping
from typing import Protocol

import jax
import tensorboardX
from etils import epath
from tensorboardX import record_writer

from softbio_jax import files
from softbio_jax.files import LineFile
from softbio_jax.runs.chips import chip_of
from softbio_jax.runs.config import TrainConfig
from softbio_jax.runs.step import Metrics
from softbio_jax.train.early_stopping import SkippedUpdates
from softbio_jax.train.progress import IdleClock, Progress


class MetricWriter:
    """Writes scalars under DIR; does nothing unless active.

    metrics.jsonl holds what the run's configuration determines, so a run that was interrupted and
    resumed has the file of an unbroken one; performance.jsonl holds what the machine has a part
    in. tensorboard/ has both.

    Args:
      workdir: DIR, local or gs://.
      resume_step: the step the run goes on from. Later lines are dropped, and its own validation,
        which comes after its checkpoint and is done again.
      active: whether this process writes.
    """

    def __init__(self, workdir: epath.PathLike, *, resume_step: int, active: bool):
        self._active = active
        if not active:
            return

        folder = epath.Path(workdir)
        self._metrics = _open(folder / "metrics.jsonl", resume_step)
        self._performance = _open(folder / "performance.jsonl", resume_step)
        self._events = summary_writer(folder / "tensorboard", first=resume_step + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes {name: value} of one step to metrics.jsonl."""
        if self._active:
            self._write(self._metrics, step, scalars)

    def write_performance(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes {name: value} of one step to performance.jsonl."""
        if self._active:
            self._write(self._performance, step, scalars)

    def flush(self) -> None:
        """Makes sure that the lines so far outlive the process."""
        if self._active:
            self._metrics.flush()
            self._performance.flush()

    def close(self) -> None:
        """Flushes and closes all."""
        if self._active:
            self._metrics.close()
            self._performance.close()
            self._events.close()

    def _write(self, file: LineFile, step: int, scalars: Mapping[str, float]) -> None:
        # JSON knows no NaN and no infinity.
        values = {name: float(v) if math.isfinite(v) else None for name, v in scalars.items()}
        file.write(json.dumps({"step": step} | values))
        for name, value in scalars.items():
            self._events.add_scalar(name, float(value), step)


def _open(path: epath.Path, resume_step: int) -> LineFile:
    """Opens for appending, without the lines that the resumed run will write again."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            values = json.loads(line)
            step = values["step"]
        except (json.JSONDecodeError, KeyError):
            continue  # the line a kill cut short
        again = step == resume_step and any(name.startswith("val/") for name in values)
        if step <= resume_step and not again:
            kept.append(line)
    return LineFile(path, kept)


_SCHEME = "softbio"


def summary_writer(folder: epath.Path, *, first: int) -> tensorboardX.SummaryWriter:
    """Returns a writer of scalars into a folder, which voids earlier ones from step `first` on.

    Events are a view of what metrics.jsonl holds: where they cannot be written, nothing is said
    and nothing stops. Whether the run goes on is for the files of record to tell.
    """
    # In place of tensorboardX's own, which need a client library of each store, and whose thread
    # and exit handlers tell of a full disk in tracebacks.
    record_writer.register_writer_factory(_SCHEME, _Factory())
    return tensorboardX.SummaryWriter(f"{_SCHEME}:{folder}", purge_step=first, write_to_disk=True)


class _Sink(Protocol):
    def write(self, record: bytes) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class _Factory:
    """What tensorboardX asks for a kind of path."""

    def open(self, path: str) -> _Sink:
        where = epath.Path(path.removeprefix(f"{_SCHEME}:"))
        return _File(where) if files.is_local(where) else _Object(where)

    def directory_check(self, path: str) -> None:
        where = epath.Path(path.removeprefix(f"{_SCHEME}:"))
        if files.is_local(where):  # object stores have no folders
            with contextlib.suppress(OSError):
                where.mkdir(parents=True, exist_ok=True)


class _File:
    """A local event file, written through."""

    def __init__(self, path: epath.Path):
        self._path = path

    def write(self, record: bytes) -> None:
        with contextlib.suppress(OSError), open(self._path, "ab") as file:
            file.write(record)

    def flush(self) -> None:
        """Every record is written at once."""

    def close(self) -> None:
        """No file stays open."""


class _Object:
    """An event file that is kept whole in memory and written anew every minute."""

    def __init__(self, path: epath.Path):
        self._path, self._content = path, bytearray()
        self._written = time.monotonic()

    def write(self, record: bytes) -> None:
        self._content += record

    def flush(self) -> None:
        if time.monotonic() - self._written >= files.EVERY:
            self._put()

    def close(self) -> None:
        self._put()

    def _put(self) -> None:
        with contextlib.suppress(OSError):
            self._path.write_bytes(bytes(self._content))
        self._written = time.monotonic()


class Recorder:
    """Takes every step's metrics, in order, each once; one step stays unread.

    So at most two steps are under way, and the device never waits for the reading.
    """

    def __init__(self, writer: MetricWriter, progress: Progress, skips: SkippedUpdates, config: TrainConfig):
        self._writer, self._progress, self._skips = writer, progress, skips
        self._config = config
        self._idle = IdleClock()
        self._unread: tuple[int, Metrics] | None = None
        self._utilisation = 0.0

    def set_step_flops(self, flops: int) -> None:
        """Takes in the matrix operations of a step, to log the share of the chips' peak in use."""
        chip = chip_of(jax.devices()[0].device_kind)
        if chip is not None:
            per_image = flops / self._config.batch_size
            self._utilisation = per_image / (jax.device_count() * chip.flops)

    def take(self, step: int, metrics: Metrics) -> None:
        """Takes the outputs of a step just dispatched and reads those of the one before.

        Raises:
          UserError: too many updates in a row were not finite.
        """
        self._idle.dispatched(metrics["skipped"])
        before, self._unread = self._unread, (step, metrics)
        if before is not None:
            self._read(*before)

    def flush(self) -> None:
        """Waits for the unread step, reads it, and keeps what was written from getting lost.

        The time from here to `resume` is no step's.

        Raises:
          UserError: see `take`.
        """
        last, self._unread = self._unread, None
        if last is not None:
            self._read(*last)
        self._progress.pause()
        self._writer.flush()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes what is not a step's own, such as a validation."""
        self._writer.write(step, scalars)

    def resume(self) -> None:
        """Starts the clocks again after something that was no step."""
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
            self._progress.update(step, f"loss {scalars['loss/total']:.3f}")
            rate = self._progress.images_per_second
            performance = {
                "performance/images_per_second": rate,
                "performance/device_idle_share": self._idle.take(),
            } | _memory()
            if self._utilisation:
                performance["performance/mfu"] = rate * self._utilisation
            self._writer.write_performance(step, performance)
        self._skips.update(step, skipped)


def due(step: int, every: int, last: int) -> bool:
    """Returns whether something that is done now and then is due after a step.

    Args:
      step: the step, from 1.
      every: how many steps lie between; 0: it is never due on the way.
      last: the run's last step, after which it always is.
    """
    return step == last or (every > 0 and step % every == 0)


def _memory() -> dict[str, float]:
    """Returns the peak memory of the first device, where its backend tells."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" not in stats:
        return {}
    return {"performance/peak_memory_gib": stats["peak_bytes_in_use"] / 2**30}
