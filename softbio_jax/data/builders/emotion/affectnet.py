"""AffectNet: emotion; contempt, none, uncertain and no-face have no class here."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterator

import numpy as np

from softbio_jax.data.labels import class_of
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.rows import Outcome, Rejection, Row, Skip

_EXPRESSIONS = (
    *("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger"),
    *("contempt", "none", "uncertain", "no-face"),
)
_LABELS = {3: 0, 4: 1, 5: 2, 1: 3, 2: 4, 6: 5, 0: 6}
_BOX = ("face_x", "face_y", "face_width", "face_height")
_COLUMNS = ("subDirectory_filePath", *_BOX, "expression")
_TABLES = {"train": "training.csv", "val": "validation.csv"}
_FOLDERS = {"train": "train_set", "val": "val_set"}


@BUILDERS.register("affectnet")
class AffectNet(FaceBuilder):
    """Reads the manually annotated release with its tables, or the release of eight classes.

    The first has `{training,validation}.csv` and `Manually_Annotated_Images/`, whose faces are
    cut out by the boxes; the second has `{train_set,val_set}/{images,annotations}/`. Copies with a
    folder per class have `{train,val,test}/{0..7}/`, where 0 is neutral, or `{neutral,...}/`.
    """

    name = "affectnet"
    TASKS = ("emotion",)

    def splits(self) -> tuple[str, ...]:
        if folders := self._class_folders():
            return tuple(folders)
        return tables.existing_splits(
            {split: self._path(split) for split in _TABLES},
            source=self.source,
            what="not an AffectNet folder",
            expected="training.csv and validation.csv, train_set/ and val_set/, or train/ with 0/ to 7/",
        )

    def rows(self, split: str) -> Iterator[Outcome]:
        if folders := self._class_folders():
            return self._class_rows(folders[split])
        path = self._path(split)
        return self._table_rows(path) if path.is_file() else self._folder_rows(path)

    def _class_folders(self) -> dict[str, pathlib.Path]:
        """Returns the folders of the splits, if those hold a folder for each class."""
        if any(self._path(split).exists() for split in _TABLES) or not self.source.is_dir():
            return {}
        folders = locate.split_folders(self.source)
        names = [{inner.name for inner in locate.subfolders(path)} for path in folders.values()]
        # Numbers mean AffectNet's classes only where all seven of them are there.
        numbers = {str(number) for number in _LABELS}
        known = any(numbers <= found or any(map(_number_of, found - numbers)) for found in names)
        return folders if known else {}

    def _class_rows(self, folder: pathlib.Path) -> Iterator[Outcome]:
        for inner in locate.subfolders(folder):
            label = _label(_number_of(inner.name) or inner.name, str(inner))
            for image in locate.images_in(inner):
                row_id = image.relative_to(self.source).as_posix()
                if isinstance(label, Skip):
                    yield label
                else:
                    yield Row(id=row_id, image=image, labels={"emotion": label})

    def _path(self, split: str) -> pathlib.Path:
        table = self.source / _TABLES[split]
        return table if table.is_file() else self.source / _FOLDERS[split]

    def _table_rows(self, table: pathlib.Path) -> Iterator[Outcome]:
        root = self.source / "Manually_Annotated_Images"
        for where, row in tables.read_csv(table, columns=_COLUMNS):
            label = _label(row["expression"], where)
            if isinstance(label, Skip):
                yield label
                continue
            x, y, width, height = tables.parse_box(row, _BOX, where=where)
            name = row["subDirectory_filePath"]
            yield Row(
                id=name,
                image=tables.inside(root, name, where=where),
                labels={"emotion": label},
                box=(x, y, x + width, y + height),
                where=where,
            )

    def _folder_rows(self, folder: pathlib.Path) -> Iterator[Outcome]:
        tables.require_folder(folder / "images")
        for image in locate.images_in(folder / "images"):
            note = folder / "annotations" / f"{image.stem}_exp.npy"
            name = f"{folder.name}/images/{image.name}"
            if not note.is_file():
                yield Rejection(name, "no annotation file")
                continue
            # One value, a number or text by the release; never a pickle.
            value = np.load(io.BytesIO(note.read_bytes()), allow_pickle=False)
            label = _label(str(value.reshape(-1)[0]), str(note))
            if isinstance(label, Skip):
                yield label
            else:
                yield Row(id=name, image=image, labels={"emotion": label})


def _number_of(name: str) -> str:
    """Returns the number of an expression by its name; empty for another word."""
    label = class_of("emotion", name)
    numbers = [number for number, known in _LABELS.items() if known == label]
    numbers += [number for number, word in enumerate(_EXPRESSIONS) if word == name.lower()]
    return str(numbers[0]) if numbers else ""


def _label(value: str, where: str) -> int | Skip:
    if not value.isdigit() or int(value) >= len(_EXPRESSIONS):
        expected = f"0 to {len(_EXPRESSIONS) - 1}"
        raise tables.bad_value("unknown expression", value, where=where, expected=expected)
    number = int(value)
    return _LABELS[number] if number in _LABELS else Skip(f"expression {_EXPRESSIONS[number]}")
