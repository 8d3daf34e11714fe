"""This package's input pipeline: prepared records, decoded ahead in threads, to the device."""

import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from benchmarks.comparison.input_work import InputWork, images_in
from softbio_jax.data import pipeline, sources
from softbio_jax.data.augment import normalize
from softbio_jax.data.prepare import prepare as preparation
from softbio_jax.runs import parallel


def dataset(work: InputWork) -> sources.PreparedDataset:
    """Returns the images as a prepared data set, their bytes as they are."""
    images = images_in(work)
    folder = pathlib.Path(work.folder) / f"prepared-{work.source_side}"
    if not folder.exists():
        preparation.prepare("folder", source=str(images), out=folder, task="gender")
    return sources.open_prepared(folder, "train")


def prepare(values: Mapping[str, Any], form: str) -> tuple[Callable[[], float], dict[str, Any]]:
    """Returns a repetition of the pipeline, which returns its seconds; `form` is "jit"."""
    if form != "jit":
        raise ValueError(f"no form {form!r} on this side")
    work = InputWork.from_json(values)
    mesh, to_floats = parallel.make_mesh(), jax.jit(normalize)
    stream = pipeline.train_batches(
        [dataset(work)], image_size=work.image_size, batch_size=work.batch, threads=work.workers
    )

    def take(batches: int) -> None:
        for _ in range(batches):
            placed = parallel.to_global(next(stream), mesh)
            jax.block_until_ready(to_floats(placed["image"]))

    def repetition() -> float:
        take(work.warm)
        start = time.perf_counter()
        take(work.batches)
        seconds = time.perf_counter() - start
        stream.close()  # nothing is read ahead while the other side is timed
        return seconds

    repetition()
    return repetition, {}
