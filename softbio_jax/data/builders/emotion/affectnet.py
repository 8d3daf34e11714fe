"""AffectNet: emotion; contempt, none, uncertain and no-face have no class here."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import numpy as np

from softbio_jax.data.builders.class_folders import ClassFolders, Vocabulary, emotions
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS
from softbio_jax.data.prepare.locate import Layout, either, has, with_columns
from softbio_jax.data.prepare.rows import Outcome, Rejection, Skip

_BOX = ("face_x", "face_y", "face_width", "face_height")
_COLUMNS = ("subDirectory_filePath", *_BOX, "expression")
_FOLDER = "Manually_Annotated"
_LISTS = {
    split: (f"{word}.csv", f"{_FOLDER}_file_lists/{word}.csv")
    for split, word in (("train", "training"), ("val", "validation"))
}
_PHOTOGRAPHS = (
    "Manually_Annotated_Images",
    "Manually_Annotated/Manually_Annotated_Images",
    "Manually_Annotated",
)
_YOLO = emotions("anger contempt disgust fear happy neutral sad surprise")


@BUILDERS.register("affectnet")
class AffectNet(ClassFolders):
    """Reads the manually annotated release with its tables, or the release of eight classes.

    The first has `{training,validation}.csv` and `Manually_Annotated_Images/`, whose faces are
    cut out by the boxes; the second has `{train_set,val_set}/{images,annotations}/`. Other copies
    have `labels.csv` (pth, label, relFCs), whose labels count where they differ from the folders;
    `{train,val,test}/{0..7}/`, where 0 is neutral, or `{neutral,...}/`; or YOLO's
    `{train,valid,test}/{images,labels}/`, where 0 is anger unless `data.yaml` names others.

    Source: the release's readme (0 neutral, 1 happy, 2 sad, 3 surprise, 4 fear, 5 disgust, 6 anger,
    7 contempt, 8 none, 9 uncertain, 10 no-face), the other copies' own lists of names.
    """

    name = "affectnet"
    TITLE = "AffectNet"
    TASKS = ("emotion",)
    VOCABULARY = emotions("neutral happy sad surprise fear disgust anger contempt none uncertain no-face")
    LAYOUTS = (
        Layout(
            name="tables",
            shown="{training,validation}.csv and Manually_Annotated_Images/",
            fits=either(*(with_columns(path, *_COLUMNS) for paths in _LISTS.values() for path in paths)),
        ),
        Layout(
            name="annotation files",
            shown="{train_set,val_set}/{images,annotations}/",
            fits=has("*_set/annotations", "*_set/images"),
        ),
        Layout(
            name="labels.csv",
            shown="labels.csv (pth, label)",
            fits=with_columns("labels.csv", "pth", "label"),
        ),
        Layout(
            name="YOLO",
            shown="{train,valid,test}/{images,labels}/",
            fits=locate.in_splits(lambda names: {"images", "labels"} <= set(names)),
        ),
        *VOCABULARY.layouts("{0..7}"),
    )

    def splits(self) -> tuple[str, ...]:
        place = self.place
        if place.layout.name == "tables":
            return tuple(split for split, names in _LISTS.items() if place.path(*names).is_file())
        if place.layout.name == "labels.csv":
            return tuple(locate.split_folders(place.root)) or ("train",)
        return super().splits()

    def rows(self, split: str) -> Iterator[Outcome]:
        readers = {
            "tables": self._table_rows,
            "annotation files": self._note_rows,
            "labels.csv": self._path_rows,
            "YOLO": self._box_rows,
        }
        return readers.get(self.place.layout.name, super().rows)(split)

    def _table_rows(self, split: str) -> Iterator[Outcome]:
        images = locate.Images(self.place.path(*_PHOTOGRAPHS))
        for where, row in tables.read_csv(self.place.path(*_LISTS[split]), columns=_COLUMNS):
            label = self.VOCABULARY.label(row["expression"], where=where)
            if isinstance(label, Skip):  # some of them have no box
                yield label
                continue
            x, y, width, height = tables.parse_box(row, _BOX, where=where)
            name = row["subDirectory_filePath"]
            image, box = images.path(name, where=where), (x, y, x + width, y + height)
            yield self.VOCABULARY.row(name, image, label, box=box, where=where)

    def _note_rows(self, split: str) -> Iterator[Outcome]:
        folder = self.split_folders()[split]
        images, notes = (locate.entry(folder, name) or folder / name for name in ("images", "annotations"))
        tables.require_folder(images, what="no images")
        for image in tables.images_in(images):
            name, note = f"{folder.name}/images/{image.name}", notes / f"{image.stem}_exp.npy"
            if not note.is_file():
                yield Rejection(name, "no annotation file")
                continue
            # One value, a number or text by the release; never a pickle.
            value = np.load(io.BytesIO(note.read_bytes()), allow_pickle=False)
            yield self.VOCABULARY.row(name, image, str(value.reshape(-1)[0]), where=str(note))

    def _path_rows(self, split: str) -> Iterator[Outcome]:
        folders = locate.split_folders(self.place.root) or {split: self.place.root}
        images = {name: locate.Images(folder) for name, folder in folders.items()}
        table = locate.entry(self.place.root, "labels.csv") or self.place.root
        for where, row in tables.read_csv(table, columns=("pth", "label")):
            paths = {name: one.path(row["pth"], where=where) for name, one in images.items()}
            holder = next((name for name, path in paths.items() if path.exists()), next(iter(paths)))
            if holder == split:
                name = paths[split].relative_to(self.place.root).as_posix()
                yield self.VOCABULARY.row(name, paths[split], row["label"], where=where)

    def _box_rows(self, split: str) -> Iterator[Outcome]:
        vocabulary, folder = self._yolo_vocabulary(), self.split_folders()[split]
        images, notes = (locate.entry(folder, name) or folder / name for name in ("images", "labels"))
        for image in tables.images_in(images):
            name, note = f"{folder.name}/images/{image.name}", notes / f"{image.stem}.txt"
            lines = list(tables.read_words(note)) if note.is_file() else []
            if len(lines) != 1:
                yield Rejection(name, f"{len(lines)} boxes instead of one", where=str(note))
                continue
            where, words = lines[0]
            yield vocabulary.row(name, image, words[0], where=where)

    def _yolo_vocabulary(self) -> Vocabulary:
        described = locate.entry(self.place.root, "data.yaml")
        _, found, names = described.read_text().partition("names:") if described else ("", "", "")
        words = re.findall(r"[A-Za-z]+(?:[ -][A-Za-z]+)*", names.split("]")[0]) if found else []
        classes = [word for word in words if _YOLO.known([word]) or word.lower() in _YOLO.others]
        return emotions(" ".join(classes)) if len(classes) == len(_YOLO.numbers) else _YOLO
