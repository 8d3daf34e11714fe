"""FER+: ten annotators' votes on the images of FER2013."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence

from softbio_jax.data.labels import class_of
from softbio_jax.data.partial.votes import column
from softbio_jax.data.prepare import tables
from softbio_jax.data.prepare.rows import Skip
from softbio_jax.tasks import EMOTION

COLUMN = column(EMOTION.name)
NAMES = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"),
    *("contempt", "unknown", "NF"),
)


def read(path: pathlib.Path) -> Iterator[tuple[str, Mapping[str, str], int | Skip, dict[str, str]]]:
    """Yields (file and row, the row, its label or why it has none, `columns`) of `fer2013new.csv`."""
    for where, row in tables.read_csv(path, columns=("Usage", "Image name", *NAMES)):
        words = [row[name] for name in NAMES]
        yield where, row, majority(words, where=where), columns(words)


def columns(words: Sequence[str]) -> dict[str, str]:
    """Returns the audit column of an image: the votes for the seven emotions, in their order.

    Votes for contempt, unknown and NF are no class and not kept.
    """
    counts = {class_of("emotion", name): word or "0" for name, word in zip(NAMES, words, strict=True)}
    return {COLUMN: " ".join(counts[label] for label in range(EMOTION.num_classes))}


def majority(words: Sequence[str], *, where: str) -> int | Skip:
    """Returns the emotion with more votes than anything else, or why there is none.

    Args:
      words: the numbers of votes in the order of `NAMES`; an empty one is 0.
      where: the file and row, for errors.

    Raises:
      UserError: a word is not a number.
    """
    for name, word in zip(NAMES, words, strict=True):
        if not (word or "0").isdecimal():
            raise tables.bad_value(
                f"not a number of votes in {name!r}", word, where=where, expected="0 to 10"
            )
    counts = [int(word or 0) for word in words]
    winners = [name for name, count in zip(NAMES, counts, strict=True) if count == max(counts)]
    if len(winners) > 1:
        return Skip("votes without a winner")
    label = class_of("emotion", winners[0])
    return Skip(f"most votes for {winners[0]}") if label is None else label
