"""A profiler trace of some steps, on demand."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import jax
from etils import epath

from softbio_jax.checkpoints import files
from softbio_jax.errors import UserError


class Profile:
    """Traces the steps first to last, both included, into a folder that TensorBoard reads.

    Args:
      steps: (first, last), or empty: no trace.
      folder: where the trace goes, local or gs://.

    Raises:
      UserError: steps that are not a range.
    """

    def __init__(self, steps: Sequence[int], folder: epath.PathLike):
        if steps and (len(steps) != 2 or not 0 < steps[0] <= steps[1]):
            raise UserError("not a range of steps", where="train.profile_steps",
                            expected="(first, last)", found=repr(tuple(steps)),
                            fix="write for instance (10, 15)")  # fmt: skip
        self._steps, self._folder = tuple(steps), epath.Path(folder)
        # The profiler writes to disks alone.
        self._written = (
            pathlib.Path(folder)
            if not steps or files.is_local(folder)
            else pathlib.Path(tempfile.mkdtemp(prefix="profile_"))
        )
        self._tracing = False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Surrounds one step."""
        if not self._steps:
            yield
            return
        if step == self._steps[0]:
            jax.profiler.start_trace(str(self._written))
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        if step >= self._steps[1]:
            self.close()

    def close(self) -> None:
        """Ends a trace that is still open, once the device has done what it was given."""
        if self._tracing:
            jax.effects_barrier()
            jax.profiler.stop_trace()
            self._tracing = False
            if not files.is_local(self._folder):
                files.upload(self._written, self._folder)
