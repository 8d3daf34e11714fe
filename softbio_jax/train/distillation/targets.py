"""A teacher's outputs, computed once for every view of every training image."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.console import QUIET, Console
from softbio_jax.data import sampling
from softbio_jax.data.augment import set_number
from softbio_jax.data.sampling import Stream
from softbio_jax.errors import UserError
from softbio_jax.models.forward import normalize, per_layer
from softbio_jax.params import Tree
from softbio_jax.runs import config as config_lib
from softbio_jax.runs import parallel
from softbio_jax.runs.build import Run
from softbio_jax.runs.data import RunData
from softbio_jax.runs.session import Session
from softbio_jax.runs.step import Metrics
from softbio_jax.runs.teacher import Teacher
from softbio_jax.train.probing.features import ViewExtractor


class TargetSession(Session):
    """A session whose batches get the teacher's cached outputs, see `runs.teacher.with_cached_teacher`.

    The views 0 to V - 1 of the images, V = train.cache_views, are taken in turn: position p of the stream,
    the p'-th of epoch e, has view (e + p') mod V. Each is what `ViewExtractor` stored.

    Args:
      run: what is trained, with its teacher.
      devices: the devices to use; None: all.

    Raises:
      UserError: more than one process.
    """

    caches = True

    def __init__(self, run: Run, *, devices: Sequence[jax.Device] | None = None):
        if jax.process_count() > 1:
            raise UserError(
                "targets cannot be cached",
                where="distill.targets",
                expected="one process, with any number of devices",
                found=f"{jax.process_count()} processes",
                fix="set distill.targets=live",
            )
        super().__init__(run, devices=devices)
        self._teacher = cast(Teacher, run.teacher)
        widths = self._teacher.widths
        ends = np.cumsum(list(widths.values()))
        self._parts = {
            f"teacher/{n}": slice(e - w, e) for (n, w), e in zip(widths.items(), ends, strict=True)
        }
        self._stream: Stream | None = None
        self._sets, self._rows = np.zeros(0, np.uint32), np.zeros(0, np.int32)
        self._values = np.zeros((1, 0, 0), np.float32)

    def cache(self, data: RunData, root: pathlib.Path, *, console: Console = QUIET) -> None:
        """Computes, or reads, the teacher's outputs for the training rows.

        Args:
          data: the run's data sets.
          root: folder of the stores.
          console: shows progress; checked before every batch.
        """
        config = self.run.config
        dtype = config_lib.frozen_dtype(config, jax.default_backend())
        variables = per_layer(self._teacher.model, self._teacher.narrowed(dtype))
        extract = ViewExtractor(
            self.run,
            self._outputs,
            parallel.shard_weights(variables, self.mesh),
            image_size=self.run.view_size,
            identity={
                "teacher": self._teacher.digest,
                "outputs": list(self._parts),
                "attention": self._teacher.model.compute.attention,
            },
            mesh=self.mesh,
            root=root,
            what="targets",
        )
        views, sizes = config.train.cache_views, [len(dataset) for dataset in data.train]
        self._values = np.concatenate(
            [
                extract(item, views=views, name=f"train/{item.name}/{item.split}", console=console).values
                for item in data.train
            ],
            axis=1,
        )
        numbers = np.array([set_number(dataset.fingerprint) for dataset in data.train], np.uint32)
        self._sets = np.repeat(numbers, sizes)
        self._rows = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
        self._stream = Stream(sampling.make(**config.data.sampler)(data.train, config.seed))

    def train(self, batch: Mapping[str, np.ndarray]) -> Metrics:
        """Runs one optimizer step on this process' rows and their targets."""
        return super().train(dict(batch) | self.targets(batch["index"]))

    def targets(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the outputs for positions (B,) of the stream, and which views they are of."""
        assert self._stream is not None, "cache() comes first"
        examples = self._stream[positions]
        epochs, places = np.divmod(positions, self._stream.sampler.epoch_size)
        views = ((epochs + places) % len(self._values)).astype(np.int32)
        values = self._values[views, examples]
        return {name: values[:, part] for name, part in self._parts.items()} | {
            "teacher/view": views,
            "teacher/set": self._sets[examples],
            "teacher/row": self._rows[examples],
        }

    def _outputs(self, variables: Tree, images: jax.Array) -> jax.Array:
        images = normalize(images) if images.dtype == jnp.uint8 else images
        found = self._teacher.answers(variables, images)
        return jnp.concatenate([found[name.removeprefix("teacher/")] for name in self._parts], axis=1)
