"""A run's scalars: JSON lines always, TensorBoard events beside them."""

import json
import math
from collections.abc import Mapping

from etils import epath

from softbio_jax.checkpoints.files import LineFile


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
        from softbio_jax.train.events import summary_writer

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
