"""Each step's outputs on their way to files and terminal, read while the next step runs."""

from collections.abc import Mapping

import jax

from softbio_jax.train.chips import chip_of
from softbio_jax.train.config import TrainConfig
from softbio_jax.train.idle import IdleClock
from softbio_jax.train.progress import Progress
from softbio_jax.train.step import Metrics
from softbio_jax.train.watch import SkippedUpdates
from softbio_jax.train.writer import MetricWriter


class Recorder:
    """Takes every step's metrics, in order, each once; one step stays unread.

    So at most two steps are under way, and the device never waits for the reading.
    """

    def __init__(
        self, writer: MetricWriter, progress: Progress, skips: SkippedUpdates, config: TrainConfig
    ):
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
