"""UTKFace: age and gender from the names of the files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from softbio_jax.data.builders import pixels
from softbio_jax.data.builders.age.person import GENDERS, any_named, named_rows, person
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.locate import IMAGE, Layout, either, has, with_columns
from softbio_jax.data.prepare.rows import Outcome, Rejection
from softbio_jax.errors import UserError

VERSIONS = ("aligned", "wild")
_NAME = re.compile(r"(?P<years>\d{1,3})_(?P<gender>[01])_(?P<race>[0-4])_")
_RACES = dict(zip("01234", ("White", "Black", "Asian", "Indian", "Others"), strict=True))
_PARTS = ("part1", "part2", "part3")
_TABLE = "age_gender.csv"


@BUILDERS.register("utkface")
class UTKFace(FaceBuilder):
    """Reads `[age]_[gender]_[race]_[time].jpg.chip.jpg`, as one test split.

    Three names of the release lack one of the fields, and are rejected. Copies have the images in
    `UTKFace/`, in `crop_part1/` (a part of them), in folders of splits, or as pixels in `age_gender.csv`.

    Args:
      utk: "aligned" reads the cropped faces; "wild" reads the photographs in part1/, part2/ and part3/,
        from which the storage's face finder cuts the faces.
      **kwargs: see FaceBuilder. The source is the folder of the images, or one above it.

    Source: the naming rule of the release: gender 0 male, 1 female.
    """

    name = "utkface"
    TITLE = "UTKFace"
    TASKS = ("age", "gender")
    COLUMNS = ("race", "years")
    LAYOUTS: tuple[Layout, ...] = (
        Layout(name="UTKFace/", shown="UTKFace/", fits=has(f"UTKFace/{IMAGE}")),
        Layout(
            name="images",
            shown="1_0_0_20170109.jpg",
            fits=lambda root: root.name.lower() not in _PARTS and any_named(root, _NAME),
        ),
        Layout(
            name="splits",
            shown="{train,val,test}/",
            fits=lambda root: any(any_named(path, _NAME) for path in locate.split_folders(root).values()),
        ),
        Layout(name="crop_part1/", shown="crop_part1/", fits=has(f"crop_part1/{IMAGE}")),
        Layout(
            name="pixels",
            shown=f"{_TABLE} (age, ethnicity, gender, pixels)",
            fits=with_columns(_TABLE, "age", "ethnicity", "gender", "pixels"),
        ),
        Layout(
            name="photographs",
            shown="part1/, part2/ and part3/",
            fits=either(*(has(f"{part}/{IMAGE}") for part in _PARTS)),
            flags="--utk=wild --faces",
        ),
    )

    def __init__(self, *, utk: str = "aligned", **kwargs: Any) -> None:
        tables.require_choice(utk, VERSIONS, what="unknown version", where="--utk")
        self.utk = utk
        # By --utk alone: photographs are not taken for crops because these are missing.
        wild = utk == "wild"
        self.LAYOUTS = tuple(one for one in self.LAYOUTS if (one.name == "photographs") == wild)
        super().__init__(**kwargs)
        if wild and self.storage.face_finder is None:
            raise UserError("photographs need a face finder", where="--utk=wild", fix="pass --faces")

    def splits(self) -> tuple[str, ...]:
        return (
            tuple(locate.split_folders(self.place.root)) if self.place.layout.name == "splits" else ("test",)
        )

    def protocol(self) -> dict[str, str]:
        return {"utk": self.utk}

    def rows(self, split: str) -> Iterator[Outcome]:
        place = self.place
        if place.layout.name == "pixels":
            yield from self._pixel_rows()
            return
        root, folders = place.root, [place.root]
        if place.layout.name == "splits":
            folders = [locate.split_folders(root)[split]]
        elif place.layout.name == "photographs":
            folders = [path for part in _PARTS if (path := locate.entry(root, part))]
        elif place.layout.name != "images":
            root = place.path(place.layout.name.strip("/"))
            folders = [root]
        for folder in folders:
            images = tables.images_in(folder)
            yield from named_rows(images, _NAME, root=root, lacks="age, gender or race", races=_RACES)

    def _pixel_rows(self) -> Iterator[Outcome]:
        columns, what, expected = ("age", "ethnicity", "gender", "pixels"), "unknown gender class", "0 or 1"
        for number, (where, row) in enumerate(tables.read_csv(self.place.path(_TABLE), columns=columns)):
            row_id = row.get("img_name") or f"{number:05d}"
            if bad := pixels.problem(row["pixels"]):
                yield Rejection(row_id, bad, where=where)
                continue
            yield person(
                row_id,
                pixels.image(row["pixels"]),
                years=tables.parse_number(row["age"], where=where, column="age"),
                gender=tables.look_up(GENDERS, row["gender"], what=what, where=where, expected=expected),
                columns={"race": _RACES.get(row["ethnicity"], row["ethnicity"])},
                where=where,
            )
