"""CelebA-HQ and CelebA: only gender, by folder or from the attribute file."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from softbio_jax.data.builders.folder import Folder
from softbio_jax.data.prepare import tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.rows import Outcome, Row
from softbio_jax.errors import UserError


@BUILDERS.register("celeba_hq")
class CelebAHQ(Folder):
    """Reads `{train,val}/{male,female}/*.jpg`.

    Source: the split of StarGAN v2 (28,000 + 2,000). A copy of it numbers the classes in the
    opposite order, so only the names of the folders count.
    """

    name = "celeba_hq"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(task="gender", **kwargs)


@BUILDERS.register("celeba_mask_hq")
class CelebAMaskHQ(FaceBuilder):
    """Reads `CelebA-HQ-img/<n>.jpg` with `CelebAMask-HQ-attribute-anno.txt`, as one split."""

    name = "celeba_mask_hq"
    TASKS = ("gender",)

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.source / "CelebA-HQ-img", what="no images")
        return ("train",)

    def rows(self, split: str) -> Iterator[Outcome]:
        table = self.source / "CelebAMask-HQ-attribute-anno.txt"
        return _rows(self.source / "CelebA-HQ-img", _male_attribute(table))


@BUILDERS.register("celeba")
class CelebA(FaceBuilder):
    """Reads `img_align_celeba/`, `list_attr_celeba.txt` and `list_eval_partition.txt`."""

    name = "celeba"
    TASKS = ("gender",)

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.source / "img_align_celeba", what="no images")
        return ("train", "val", "test")

    def rows(self, split: str) -> Iterator[Outcome]:
        number = str(self.splits().index(split))
        table = self.source / "list_eval_partition.txt"
        partition = dict(words for _, words in tables.read_words(table, count=2))
        fix = f"download {table.name} again"

        def in_split(where: str, name: str) -> bool:
            if name not in partition:
                expected = f"{name} in {table.name}"
                raise UserError("an image without a partition", where=where, expected=expected, fix=fix)
            return partition[name] == number

        labels = _male_attribute(self.source / "list_attr_celeba.txt")
        yield from _rows(self.source / "img_align_celeba", (row for row in labels if in_split(*row[:2])))


def _rows(folder: pathlib.Path, labels: Iterable[tuple[str, str, int]]) -> Iterator[Row]:
    for where, name, label in labels:
        image = tables.inside(folder, name, where=where)
        yield Row(id=name, image=image, labels={"gender": label}, where=where)


def _male_attribute(path: pathlib.Path) -> Iterator[tuple[str, str, int]]:
    """Yields (file and line, image, gender label) of an attribute file.

    The file holds a count, a line of names, then per line an image's name and 1s or -1s.
    """
    fix = "download the list of attributes again"
    lines = tables.read_words(path)
    next(lines, None)
    _, names = next(lines, ("", []))
    if "Male" not in names:
        expected = "the names of the attributes"
        raise UserError("no attribute Male", where=f"{path} line 2", expected=expected, fix=fix)
    male = names.index("Male")
    for where, (name, *values) in lines:
        if len(values) != len(names) or values[male] not in ("1", "-1"):
            expected, found = f"a name and {len(names)} values of 1 or -1", f"{len(values)} values"
            raise UserError("not a row of attributes", where=where, expected=expected, found=found, fix=fix)
        yield where, name, 0 if values[male] == "1" else 1
