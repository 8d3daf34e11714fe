"""Rendered faces as a prepared data set, through the same door as the photographs."""

from __future__ import annotations

from collections.abc import Iterator

from softbio_jax.data import synthetic
from softbio_jax.data.builders.base import FaceBuilder
from softbio_jax.data.builders.rows import Rejection, Row
from softbio_jax.errors import UserError
from softbio_jax.tasks import TASKS


class Synthetic(FaceBuilder):
    """Renders one of the sources or test sets of `softbio_jax.data.synthetic`.

    Args:
      source: the set's name (not a folder); a training source becomes split "train", a test set
        split "test".
      size: side of the pictures in pixels.
      seed: which faces; the same seed gives the same bytes.
      count: how many faces; None keeps the set's own number.
      **kwargs: see FaceBuilder.
    """

    name = "synthetic"
    TASKS = tuple(TASKS)

    def __init__(
        self, *, source: str, size: int = 64, seed: int = 0, count: int | None = None, **kwargs
    ):
        self.set_name, self.size, self.seed, self.count = source, size, seed, count
        super().__init__(source=source, **kwargs)

    def splits(self) -> tuple[str, ...]:
        names = {"train": tuple(synthetic.SOURCES), "test": tuple(synthetic.TEST_SETS)}
        found = tuple(split for split, sets in names.items() if self.set_name in sets)
        if not found:
            raise UserError(
                "unknown synthetic set",
                where="--source",
                expected=", ".join(names["train"] + names["test"]),
                found=repr(self.set_name),
            )
        return found

    def survey(self, split: str) -> int:
        return self.count or 0  # rendering twice only to count would double the time

    def protocol(self) -> dict[str, str]:
        count = "default" if self.count is None else str(self.count)
        return {"set": self.set_name, "size": str(self.size), "seed": str(self.seed)} | {
            "count": count
        }

    def rows(self, split: str) -> Iterator[Row | Rejection]:
        for row_id, image, labels in synthetic.rows(
            self.set_name, split, size=self.size, seed=self.seed, count=self.count
        ):
            yield Row(id=row_id, image=image, labels=labels)
