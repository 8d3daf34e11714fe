"""Adience: gender, and age where an age range lies inside one class."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from softbio_jax.data.labels import OLDEST, age_class
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.locate import Layout, either, has
from softbio_jax.data.prepare.rows import Outcome, Row, Skip

_COLUMNS = ("user_id", "original_image", "face_id", "age", "gender")
_GENDERS = {"m": 0, "f": 1}
_UNKNOWN_AGES = ("", "None")
_IMAGES = {"aligned": "landmark_aligned_face", "faces": "coarse_tilt_aligned_face"}  # folder -> names
_FOLDS = tuple(f"{folder}fold_{kind}{{}}_data.txt" for kind in ("", "frontal_") for folder in ("", "folds/"))


@BUILDERS.register("adience")
class Adience(FaceBuilder):
    """Reads `fold_{0..4}_data.txt` and `aligned/<user>/` or `faces/<user>/`, each fold as a split.

    Without these lists, those of the frontal faces are read: `fold_frontal_{0..4}_data.txt`.

    Only the ranges (0, 2) and (4, 6) lie inside a class; the other six straddle two and are
    masked, as is a gender of "u".

    Source: the release's five-fold protocol; the folds are the splits fold_0 to fold_4.
    """

    name = "adience"
    TITLE = "Adience"
    LAYOUTS = (
        Layout(
            "folds",
            "fold_{0..4}_data.txt with aligned/ or faces/",
            either(*(has(name.format("?")) for name in _FOLDS)),
        ),
    )
    TASKS = ("age", "gender")
    COLUMNS = ("user", "age_text")

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.place.path(*_IMAGES), what="no images")
        return tuple(f"fold_{number}" for number in range(5))

    def rows(self, split: str) -> Iterator[Outcome]:
        path, folder = self._fold(split), self.place.path(*_IMAGES)
        images, prefix = locate.Images(folder), _IMAGES.get(folder.name.lower(), "")
        for where, row in tables.read_csv(path, columns=_COLUMNS, delimiter="\t"):
            labels, masked = {}, {}
            age = _age(row["age"], where)
            if isinstance(age, int):
                labels["age"] = age
            elif age:
                masked["age"] = age
            if row["gender"] in _GENDERS:
                labels["gender"] = _GENDERS[row["gender"]]
            elif row["gender"] == "u":
                masked["gender"] = "gender unsure"
            if not labels and not masked:
                yield Skip("no label")
                continue
            name = f"{row['user_id']}/{prefix}.{row['face_id']}.{row['original_image']}"
            yield Row(
                id=name,
                image=images.path(name, where=where),
                labels=labels,
                columns={"user": row["user_id"], "age_text": row["age"]},
                masked=masked,
                where=where,
            )

    def _fold(self, split: str) -> pathlib.Path:
        return self.place.path(*(name.format(split.removeprefix("fold_")) for name in _FOLDS))


def _age(text: str, where: str) -> int | str:
    """Returns the class, or why there is none: empty where the source does not know the age."""
    if text in _UNKNOWN_AGES:
        return ""
    ends = text.strip("()").split(",")
    years = [int(end) for end in ends if end.strip().isdigit()]
    if len(ends) > 2 or len(years) < len(ends) or years != sorted(years) or years[-1] > OLDEST:
        expected = f"a range such as (25, 32), years up to {OLDEST} or None"
        raise tables.bad_value("not an age", text, where=where, expected=expected)
    classes = {age_class(number) for number in years}
    return classes.pop() if len(classes) == 1 else "an age range over two classes"
