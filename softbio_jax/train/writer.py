"""A run's scalars: JSON lines always, TensorBoard events beside them."""

import json
import math
import os
import pathlib
from collections.abc import Mapping


class MetricWriter:
    """Writes scalars under DIR; does nothing unless active.

    metrics.jsonl holds what the run's configuration determines, so a run that was interrupted and
    resumed has the file of an unbroken one; performance.jsonl holds what the machine has a part
    in. tensorboard/ has both.

    Args:
      workdir: DIR.
      resume_step: the step the run goes on from. Later lines are dropped, and its own validation,
        which comes after its checkpoint and is done again.
      active: whether this process writes.
    """

    def __init__(self, workdir: pathlib.Path, *, resume_step: int, active: bool):
        self._active = active
        if not active:
            return
        import tensorboardX

        self._metrics = _open(workdir / "metrics.jsonl", resume_step)
        self._performance = _open(workdir / "performance.jsonl", resume_step)
        self._events = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=resume_step + 1, write_to_disk=True
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes {name: value} of one step to metrics.jsonl."""
        if self._active:
            self._write(self._metrics, step, scalars)

    def write_performance(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes {name: value} of one step to performance.jsonl."""
        if self._active:
            self._write(self._performance, step, scalars)

    def close(self) -> None:
        """Flushes and closes all."""
        if self._active:
            self._metrics.close()
            self._performance.close()
            self._events.close()

    def _write(self, file, step: int, scalars: Mapping[str, float]) -> None:  # type: ignore[no-untyped-def]
        # JSON knows no NaN and no infinity.
        values = {name: float(v) if math.isfinite(v) else None for name, v in scalars.items()}
        file.write(json.dumps({"step": step} | values) + "\n")
        file.flush()
        for name, value in scalars.items():
            self._events.add_scalar(name, float(value), step)


def _open(path: pathlib.Path, resume_step: int):  # type: ignore[no-untyped-def]
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
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(f"{line}\n" for line in kept))
    os.replace(temporary, path)
    return path.open("a")
