"""A run's scalars: JSON lines always, TensorBoard events beside them."""

import json
import os
import pathlib
from collections.abc import Mapping


class MetricWriter:
    """Writes scalars to DIR/metrics.jsonl and DIR/tensorboard; a no-op unless active.

    Lines at or after `resume_step` are dropped first, so that a resumed run's file is that of an
    unbroken one.
    """

    def __init__(self, workdir: pathlib.Path, *, resume_step: int, active: bool):
        self._file = self._events = None
        if not active:
            return
        import tensorboardX

        path = workdir / "metrics.jsonl"
        _drop_after(path, resume_step)
        self._file = path.open("a")
        self._events = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=resume_step + 1, write_to_disk=True
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes {name: value} of one step."""
        if self._file is None or self._events is None:
            return
        self._file.write(json.dumps({"step": step} | {k: float(v) for k, v in scalars.items()}))
        self._file.write("\n")
        self._file.flush()
        for name, value in scalars.items():
            self._events.add_scalar(name, float(value), step)

    def close(self) -> None:
        """Flushes and closes both."""
        if self._file is not None and self._events is not None:
            self._file.close()
            self._events.close()


def _drop_after(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue  # the line a kill cut short
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(f"{line}\n" for line in kept))
    os.replace(temporary, path)
