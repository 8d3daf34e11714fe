"""VGGFace2: gender of the identity, and age from a file of model-made ages."""

from __future__ import annotations

import functools
import itertools
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from softbio_jax.data.labels import age_class, require_class
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.locate import Layout
from softbio_jax.data.prepare.rows import Outcome, Row, impossible_age

_TABLE = "identity_meta.csv"
_META = ("Class_ID", "Name", "Sample_Num", "Flag", "Gender")


@BUILDERS.register("vggface2")
class VGGFace2(FaceBuilder):
    """Reads `{train,val,test}/n000001/0001_01.jpg`, `identity_meta.csv` and a file of ages.

    Args:
      ages: a table without a header, with rows such as `n000001/0001_01.jpg,34.5` (the split's
        name before the path is accepted). Images that it does not list have their age masked, all
        without such a table.
      **kwargs: see FaceBuilder.

    Source: the release's layout; the ages are those that the MIVIA laboratory's networks gave
    (doi 10.1007/s00521-021-05981-0), so their agreement is not accuracy.
    """

    name = "vggface2"
    TITLE = "VGGFace2"
    LAYOUTS = (
        Layout(
            "identities",
            "{train,val,test}/n000001/ and identity_meta.csv",
            locate.in_splits(lambda names: any(re.fullmatch(r"n\d{6}", name) for name in names)),
        ),
    )
    TASKS = ("age", "gender")
    COLUMNS = ("identity", "years")

    def __init__(self, *, ages: str | None = None, **kwargs: Any) -> None:
        self.ages = ages
        super().__init__(**kwargs)

    def splits(self) -> tuple[str, ...]:
        return tuple(locate.split_folders(self.place.root))

    def protocol(self) -> dict[str, str]:
        return {"ages": pathlib.Path(self.ages).name if self.ages else "none"}

    def rows(self, split: str) -> Iterator[Outcome]:
        return itertools.chain.from_iterable(self.group_rows(split, group) for group in self.groups(split))

    def groups(self, split: str) -> Sequence[str]:
        return [path.name for path in locate.subfolders(self._folder(split))]

    def group_rows(self, split: str, group: str) -> Iterator[Outcome]:
        genders, ages = self._genders, self._years
        for path in tables.images_in(self._folder(split) / group):
            name = f"{group}/{path.name}"
            row_id = f"{split}/{name}"
            if name in ages and (rejection := impossible_age(row_id, ages[name], where=str(self.ages))):
                yield rejection
                continue
            labels, masked = {}, {}
            if group in genders:
                labels["gender"] = genders[group]
            else:
                masked["gender"] = "the identity is not in identity_meta.csv"
            if name in ages:
                labels["age"] = age_class(ages[name])
            else:
                masked["age"] = "not in the file of ages" if self.ages else "no file of ages"
            yield Row(
                id=row_id,
                image=path,
                labels=labels,
                columns={"identity": group, "years": str(ages.get(name, ""))},
                masked=masked,
            )

    def _folder(self, split: str) -> pathlib.Path:
        return locate.split_folders(self.place.root)[split]

    @functools.cached_property
    def _genders(self) -> dict[str, int]:
        # The archive has meta/ beside data/, which holds the images.
        root = self.place.root
        folders = [root, *itertools.takewhile(lambda one: one != self.source.parent, root.parents)]
        found = (locate.entry(folder, name) for folder in folders for name in (_TABLE, f"meta/{_TABLE}"))
        path = next((path for path in found if path is not None), root / _TABLE)
        return {
            row["Class_ID"]: require_class("gender", row["Gender"], where=where)
            for where, row in tables.read_csv(path, columns=_META, free="Name")
        }

    @functools.cached_property
    def _years(self) -> dict[str, float]:
        if self.ages is None:
            return {}
        ages = {}
        for where, (name, years) in tables.read_values(pathlib.Path(self.ages), count=2):
            parts = name.replace("\\", "/").split("/")
            ages["/".join(parts[-2:])] = tables.parse_number(years, where=where, column="age")
        return ages
