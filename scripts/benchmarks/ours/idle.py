"""How long the device waits for its input while this package trains."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.comparison.input_work import InputWork
from benchmarks.comparison.workload import Workload
from benchmarks.ours.input import dataset
from benchmarks.ours.step import parts
from softbio_jax.data import pipeline
from softbio_jax.runs.session import Session
from softbio_jax.train.progress import IdleClock

_WARM, _STEPS = 5, 40


def prepare(values: Mapping[str, Any], form: str) -> tuple[Callable[[], None], dict[str, Any]]:
    """Trains on the images of an `IdleWork`; `form` is "jit".

    Returns:
      Nothing to repeat, and idle_percent, the share of the time in which no step ran.
    """
    if form != "jit":
        raise ValueError(f"no form {form!r} on this side")
    workload = Workload.from_json(values["workload"])
    run = parts(workload)
    stream = pipeline.train_batches(
        [dataset(InputWork.from_json(values["images"]))],
        image_size=run.image_size,
        batch_size=workload.batch,
        tasks=workload.tasks,
    )
    session, clock = Session(run), IdleClock()
    session.compile()
    for step in range(_WARM + _STEPS):
        if step == _WARM:
            clock.pause()
        clock.dispatched(session.train(next(stream)))
    clock.close()  # the last step has ended
    idle = clock.take()
    stream.close()
    return lambda: None, {"idle_percent": 100 * idle}
