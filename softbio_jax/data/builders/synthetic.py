"""Rendered faces as a prepared data set, through the same door as the photographs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from softbio_jax.data import synthetic
from softbio_jax.data.builders.base import FaceBuilder
from softbio_jax.data.rows import Outcome, Row
from softbio_jax.data.survey import SplitSurvey
from softbio_jax.errors import UserError
from softbio_jax.tasks import TASKS

_SETS = {"train": synthetic.SOURCES, "test": synthetic.TEST_SETS}


class Synthetic(FaceBuilder):
    """Renders a source or test set of `softbio_jax.data.synthetic`.

    Args:
      source: the set's name (not a folder); its split is "train" if it is a training source,
        "test" if it is a test set, and both if it is both.
      size: side of the pictures in pixels.
      seed: which faces; the same seed gives the same bytes.
      count: rows of the training split; None keeps as many as the thesis' data set has.
      test_count: rows of the test split, likewise.
      **kwargs: see FaceBuilder.
    """

    name = "synthetic"

    def __init__(
        self,
        *,
        source: str,
        size: int = 64,
        seed: int = 0,
        count: int | None = None,
        test_count: int | None = None,
        **kwargs: Any,
    ):
        self.sets = {split: sets[source] for split, sets in _SETS.items() if source in sets}
        if not self.sets:
            known = dict.fromkeys(name for sets in _SETS.values() for name in sets)
            raise UserError(
                "unknown synthetic set",
                where="--source",
                expected=", ".join(known),
                found=repr(source),
                fix="take one of them",
            )
        self.set_name, self.size, self.seed = source, size, seed
        self.counts = {"train": count, "test": test_count}
        labelled = {task for face_set in self.sets.values() for task in face_set.tasks}
        self.TASKS = tuple(task for task in TASKS if task in labelled)
        super().__init__(source=source, **kwargs)

    def splits(self) -> tuple[str, ...]:
        return tuple(self.sets)

    def survey(self, split: str, *, files: bool = False) -> SplitSurvey:
        count = self.counts[split]  # drawing the rows only to count them would double the time
        return SplitSurvey(rows=self.sets[split].size if count is None else count)

    def protocol(self) -> dict[str, str]:
        return {"set": self.set_name, "size": str(self.size), "seed": str(self.seed)}

    def rows(self, split: str) -> Iterator[Outcome]:
        count = self.counts[split]
        for row_id, image, labels in synthetic.rows(
            self.set_name, split, size=self.size, seed=self.seed, count=count
        ):
            yield Row(id=row_id, image=image, labels=labels)
