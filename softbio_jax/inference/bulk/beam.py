"""Predictions inside of an Apache Beam pipeline (the extra `beam`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.inference import predictor
from softbio_jax.inference.predictor import Prediction


def do_fn(model: str, *, faces: bool = False, margin: float | None = None, max_batch: int = 64) -> Any:
    """Returns a `beam.DoFn` from (key, encoded image) to (key, predictions of its faces).

    Every worker holds one predictor, loaded in `setup`. Images of a bundle are computed in batches and
    come out in their order; one that cannot be read goes to the output "unreadable" as (key, reason).

    Args:
      model: a run, a saved folder or a hub id, which every worker can read.
      faces: detect the faces of photographs; otherwise each image is the crop of one face.
      margin: see `Predictor.predict_faces`.
      max_batch: see `Predictor`.

    Raises:
      UserError: apache-beam is not installed.
    """
    try:
        import apache_beam as beam
        from apache_beam.utils.windowed_value import WindowedValue
    except ImportError as error:
        what, fix = "apache-beam is not installed", 'pip install "softbio-jax[beam]"'
        raise UserError(what, where="inference.bulk.beam", fix=fix) from error

    class Predict(beam.DoFn):  # type: ignore[misc, unused-ignore]
        def setup(self) -> None:
            self._model = predictor.load(model, max_batch=max_batch)

        def start_bundle(self) -> None:
            self._waiting: list[tuple[Any, bytes]] = []

        # Results of earlier elements come out with their own time and windows.
        def process(
            self, element: Any, time: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
        ) -> Iterator[Any]:
            key, image = element
            self._waiting.append(((key, time, window), image))
            if len(self._waiting) >= max_batch * len(self._model.devices):
                yield from self._flush()

        def finish_bundle(self) -> Iterator[Any]:
            yield from self._flush()

        def _flush(self) -> Iterator[Any]:
            waiting, self._waiting = self._waiting, []
            for (key, time, window), found in _predicted(self._model, waiting, faces=faces, margin=margin):
                out = WindowedValue((key, found), time, (window,))
                yield beam.pvalue.TaggedOutput("unreadable", out) if isinstance(found, str) else out

    return Predict()


def _predicted(
    model: predictor.Predictor, waiting: list[tuple[Any, bytes]], *, faces: bool, margin: float | None
) -> Iterator[tuple[Any, list[Prediction] | str]]:
    """Yields (key, predictions), or (key, reason) of an image that cannot be read."""
    try:
        images = [image for _, image in waiting]
        if faces:
            found = model.predict_faces(images, margin=margin)
        else:
            found = [[prediction] for prediction in model.predict(images)] if images else []
        yield from zip((key for key, _ in waiting), found, strict=True)
    except UserError as error:
        if len(waiting) == 1:
            yield waiting[0][0], str(error)
            return
        for one in waiting:  # find the one
            yield from _predicted(model, [one], faces=faces, margin=margin)
