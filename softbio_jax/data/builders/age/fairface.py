"""FairFace (Karkkainen and Joo, WACV 2021): age and gender, with race for audits."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from softbio_jax.data.labels import date_like, known_words, require_class
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.locate import Layout, either, with_columns
from softbio_jax.data.prepare.rows import Outcome, Row

_COLUMNS = ("file", "age", "gender", "race")
_MARGIN = re.compile(r"margin(\d{3})\b")
_TABLES = ("fairface_label_{}.csv", "{}_labels.csv", "fairface_{}.csv")
_EXCEL_AGES = dict.fromkeys(("3-sep", "03-sep", "sep-03", "sep-3", "9-mar", "09-mar", "mar-09"), "3-9")
_EXCEL_AGES |= dict.fromkeys(("oct-19", "19-oct"), "10-19")


@BUILDERS.register("fairface")
class FairFace(FaceBuilder):
    """Reads `fairface_label_{train,val}.csv` and the folders train/ and val/.

    The images may be beside the tables or in one folder there, such as that of their archive
    (fairface-img-margin025-trainval or -margin125-).

    Args:
      fix_excel_ages: reads ages that a spreadsheet turned into dates (03-Sep, Oct-19) as the
        classes they were (3-9, 10-19) instead of stopping.
      **kwargs: see FaceBuilder.

    Source: the layout of the official release.
    """

    name = "fairface"
    TITLE = "FairFace"
    LAYOUTS = (
        Layout(
            "tables",
            "fairface_label_{train,val}.csv and train/, val/",
            either(*(with_columns(name.format("*"), *_COLUMNS) for name in _TABLES)),
        ),
    )
    TASKS = ("age", "gender")
    COLUMNS = ("race", "service_test")

    def __init__(self, *, fix_excel_ages: bool = False, **kwargs: Any) -> None:
        self.fix_excel_ages = fix_excel_ages
        super().__init__(**kwargs)

    def splits(self) -> tuple[str, ...]:
        found = tuple(split for split in ("train", "val") if self._table(split).is_file())
        for split in found:
            self._images(split)
        return found

    def protocol(self) -> dict[str, str]:
        return {"fix_excel_ages": str(self.fix_excel_ages).lower()}

    def margin(self) -> float | None:
        """Returns the margin in the name of the archive's folder: margin025 is 0.25, margin125 is 1.25."""
        folders = (folder for split in self.splits() for folder in self._images(split).resolve().parts)
        found = {name[1] for folder in folders if (name := _MARGIN.search(folder))}
        return int(found.pop()) / 100 if len(found) == 1 else None

    def rows(self, split: str) -> Iterator[Outcome]:
        images = locate.Images(self._images(split))
        for where, row in tables.read_csv(self._table(split), columns=_COLUMNS):
            labels = {
                "age": self._age(row["age"], where),
                "gender": require_class("gender", row["gender"], where=where),
            }
            image = images.path(row["file"], where=where)
            columns = {name: row.get(name, "") for name in self.COLUMNS}
            yield Row(id=row["file"], image=image, labels=labels, columns=columns, where=where)

    def _table(self, split: str) -> pathlib.Path:
        return self.place.path(*(name.format(split) for name in _TABLES))

    def _images(self, split: str) -> pathlib.Path:
        images = self.place.path(split, f"*/{split}")
        if not images.is_dir():
            what, expected = "no images for the label file", f"a folder {split}/ beside it"
            fix = "unpack the image archive there"
            raise tables.MissingSource(what, where=str(self._table(split)), expected=expected, fix=fix)
        return images.parent

    def _age(self, word: str, where: str) -> int:
        if not date_like(word):
            return require_class("age", word, where=where)
        fixed = _EXCEL_AGES.get(word.lower())
        if fixed is None or not self.fix_excel_ages:
            what, expected = "a spreadsheet turned an age into a date", fixed or known_words("age")
            fix = "use the original file" + (" or pass --fix_excel_ages" if fixed else "")
            raise tables.bad_value(what, word, where=where, expected=expected, fix=fix)
        return require_class("age", fixed, where=where)
