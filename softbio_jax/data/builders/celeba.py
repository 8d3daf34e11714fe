"""CelebA-HQ and CelebA: only gender, by folder or from the attribute file."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator

from softbio_jax.data.builders.class_folders import ClassFolders, Vocabulary
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.locate import Layout, either, has, with_columns
from softbio_jax.data.prepare.rows import Outcome, Row
from softbio_jax.errors import UserError

_MALE = {"1": 0, "-1": 1}  # the attribute -> the label
_AROUND = ("", "*/")
_ATTRIBUTES, _PARTITION = "list_attr_celeba", "list_eval_partition"
_IMAGES = tuple(
    f"{around}{inner}"
    for around in _AROUND
    for name in ("img_align_celeba", "img_align_celeba_png")
    for inner in (f"{name}/{name}", name)
)
_HQ_IMAGES, _HQ_ATTRIBUTES = "CelebA-HQ-img", "CelebAMask-HQ-attribute-anno.txt"


@BUILDERS.register("celeba_hq")
class CelebAHQ(ClassFolders):
    """Reads `{train,val}/{male,female}/*.jpg`.

    Source: the split of StarGAN v2 (28,000 + 2,000). A copy of it numbers the classes in the
    opposite order, so only the names of the folders count.
    """

    name = "celeba_hq"
    TITLE = "CelebA-HQ"
    TASKS = ("gender",)
    VOCABULARY = Vocabulary("gender")
    LAYOUTS = VOCABULARY.layouts("{male,female}")


@BUILDERS.register("celeba_mask_hq")
class CelebAMaskHQ(FaceBuilder):
    """Reads `CelebA-HQ-img/<n>.jpg` with `CelebAMask-HQ-attribute-anno.txt`, as one split."""

    name = "celeba_mask_hq"
    TITLE = "CelebAMask-HQ"
    TASKS = ("gender",)
    LAYOUTS = (Layout("list", f"{_HQ_IMAGES}/ and {_HQ_ATTRIBUTES}", has(_HQ_IMAGES, _HQ_ATTRIBUTES)),)

    def splits(self) -> tuple[str, ...]:
        return ("train",)

    def rows(self, split: str) -> Iterator[Outcome]:
        place = self.place
        return _rows(place.path(_HQ_IMAGES), _listed_genders(place.path(_HQ_ATTRIBUTES)))


@BUILDERS.register("celeba")
class CelebA(FaceBuilder):
    """Reads `img_align_celeba/`, `list_attr_celeba.txt` and `list_eval_partition.txt`, or the lists as CSV.

    Each may be in one more folder (Img/, Anno/ and Eval/ in the release).

    Source: the release's readme; the CSVs have its columns after `image_id`.
    """

    name = "celeba"
    TITLE = "CelebA"
    TASKS = ("gender",)
    LAYOUTS = (
        Layout(
            "lists",
            f"img_align_celeba/, {_ATTRIBUTES}.txt and {_PARTITION}.txt",
            either(*(has(f"{around}{_ATTRIBUTES}.txt") for around in _AROUND)),
        ),
        Layout(
            "tables",
            f"img_align_celeba/, {_ATTRIBUTES}.csv and {_PARTITION}.csv",
            either(*(with_columns(f"{around}{_ATTRIBUTES}.csv", "image_id") for around in _AROUND)),
        ),
    )

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.place.path(*_IMAGES), what="no images")
        return ("train", "val", "test")

    def rows(self, split: str) -> Iterator[Outcome]:
        number = str(self.splits().index(split))
        table, attributes = self._file(_PARTITION), self._file(_ATTRIBUTES)
        if self.place.layout.name == "lists":
            partition = dict(words for _, words in tables.read_words(table, count=2))
            labels = _listed_genders(attributes)
        else:
            rows = tables.read_csv(table, columns=("image_id", "partition"))
            partition = {row["image_id"]: row["partition"] for _, row in rows}
            labels = _tabled_genders(attributes)

        def in_split(where: str, name: str) -> bool:
            if name not in partition:
                what, expected = "an image without a partition", f"{name} in {table.name}"
                raise UserError(what, where=where, expected=expected, fix=f"download {table.name} again")
            return partition[name] == number

        yield from _rows(self.place.path(*_IMAGES), (row for row in labels if in_split(*row[:2])))

    def _file(self, name: str) -> pathlib.Path:
        suffix = "txt" if self.place.layout.name == "lists" else "csv"
        return self.place.path(*(f"{around}{name}.{suffix}" for around in _AROUND))


def _rows(folder: pathlib.Path, labels: Iterable[tuple[str, str, int]]) -> Iterator[Row]:
    images = locate.Images(folder)
    for where, name, label in labels:
        yield Row(id=name, image=images.path(name, where=where), labels={"gender": label}, where=where)


def _tabled_genders(path: pathlib.Path) -> Iterator[tuple[str, str, int]]:
    """Yields (file and row, image, gender label) of a table of attributes."""
    for where, row in tables.read_csv(path, columns=("image_id", "Male")):
        label = tables.look_up(_MALE, row["Male"], what="not an attribute", where=where, expected="1 or -1")
        yield where, row["image_id"], label


def _listed_genders(path: pathlib.Path) -> Iterator[tuple[str, str, int]]:
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
        if len(values) != len(names) or values[male] not in _MALE:
            expected, found = f"a name and {len(names)} values of 1 or -1", f"{len(values)} values"
            raise UserError("not a row of attributes", where=where, expected=expected, found=found, fix=fix)
        yield where, name, _MALE[values[male]]
