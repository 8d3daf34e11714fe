"""CelebA-HQ and CelebA: gender alone, by folder or from the attribute file."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from softbio_jax.data.builders.folder import Folder
from softbio_jax.data.prepare import tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.rows import Outcome, Row
from softbio_jax.errors import UserError


@BUILDERS.register("celeba_hq")
class CelebAHQ(Folder):
    """Reads `{train,val}/{male,female}/*.jpg`, the gender split that the thesis trained on.

    Args:
      **kwargs: see FaceBuilder.

    Source: the split of StarGAN v2 (28,000 + 2,000). A copy of it numbers the classes the other
    way round, so only the names of the folders count.
    """

    name = "celeba_hq"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(task="gender", **kwargs)


@BUILDERS.register("celeba_mask_hq")
class CelebAMaskHQ(FaceBuilder):
    """Reads `CelebA-HQ-img/<n>.jpg` with `CelebAMask-HQ-attribute-anno.txt`, as one split.

    Args:
      **kwargs: see FaceBuilder.
    """

    name = "celeba_mask_hq"
    TASKS = ("gender",)

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.source / "CelebA-HQ-img", what="no pictures")
        return ("train",)

    def rows(self, split: str) -> Iterator[Outcome]:
        table = self.source / "CelebAMask-HQ-attribute-anno.txt"
        for where, name, label in _male_attribute(table):
            folder = self.source / "CelebA-HQ-img"
            image = tables.inside(folder, name, where=where)
            yield Row(id=name, image=image, labels={"gender": label}, where=where)


@BUILDERS.register("celeba")
class CelebA(FaceBuilder):
    """Reads `img_align_celeba/`, `list_attr_celeba.txt` and `list_eval_partition.txt`.

    Args:
      **kwargs: see FaceBuilder.
    """

    name = "celeba"
    TASKS = ("gender",)

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.source / "img_align_celeba", what="no pictures")
        return ("train", "val", "test")

    def rows(self, split: str) -> Iterator[Outcome]:
        number = str(self.splits().index(split))
        partition = {
            name: part
            for _, (name, part) in tables.read_words(self.source / "list_eval_partition.txt", count=2)
        }
        for where, name, label in _male_attribute(self.source / "list_attr_celeba.txt"):
            if name not in partition:
                raise UserError(
                    "a picture without a partition",
                    where=where,
                    expected=f"{name} in list_eval_partition.txt",
                    fix="fetch list_eval_partition.txt again",
                )
            if partition[name] == number:
                image = tables.inside(self.source / "img_align_celeba", name, where=where)
                yield Row(id=name, image=image, labels={"gender": label}, where=where)


def _male_attribute(path: pathlib.Path) -> Iterator[tuple[str, str, int]]:
    """Reads an attribute file: a count, a line of names, then a picture's name and +1 or -1s.

    Yields:
      (file and line, picture, gender label).
    """
    lines = tables.read_words(path)
    next(lines, None)
    _, names = next(lines, (0, []))
    if "Male" not in names:
        raise UserError(
            "no attribute Male",
            where=f"{path} line 2",
            expected="the names of the attributes",
            fix="fetch the list of attributes again",
        )
    male = names.index("Male")
    for number, (name, *values) in lines:
        where = f"{path} line {number}"
        if len(values) != len(names) or values[male] not in ("1", "-1"):
            raise UserError(
                "not a row of attributes",
                where=where,
                expected=f"a name and {len(names)} values of 1 or -1",
                found=f"{len(values)} values",
                fix="fetch the list of attributes again",
            )
        yield where, name, 0 if values[male] == "1" else 1
