"""JAFFE: posed emotions of ten women, from the names of the files."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

from softbio_jax.data import listing
from softbio_jax.data.builders.class_folders import emotions
from softbio_jax.data.prepare import locate
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.locate import IMAGE, Layout
from softbio_jax.data.prepare.rows import Outcome, Rejection, Skip

_NAME = re.compile(r"([A-Z]{2})[.-]([A-Z]{2})\d*[.-]\d+", re.IGNORECASE)
_CODES = {
    **{"AN": "anger", "DI": "disgust", "FE": "fear", "HA": "happy"},
    **{"NE": "neutral", "SA": "sad", "SU": "surprise"},
}


@BUILDERS.register("jaffe")
class Jaffe(FaceBuilder):
    """Reads `KA.AN1.39.tiff`: the subject, the emotion and its repetition, a number.

    The images may be in folders of any kind, also of train and test; only their names count.

    Source: the naming rule of the release.
    """

    name = "jaffe"
    TITLE = "JAFFE"
    TASKS = ("emotion",)
    COLUMNS = ("identity",)
    LAYOUTS = (
        Layout("names", "KA.AN1.39.tiff", lambda root: _any(root, IMAGE)),
        Layout(
            "names in folders",
            "KA.AN1.39.tiff in folders",
            lambda root: _any(root, f"*/{IMAGE}") or _any(root, f"*/*/{IMAGE}"),
            distinct=False,  # it looks at every image
        ),
    )

    def splits(self) -> tuple[str, ...]:
        return tuple(self._folders())

    def rows(self, split: str) -> Iterator[Outcome]:
        for found in listing.walk(self._folders()[split]):
            path = pathlib.Path(found.path)
            name = path.relative_to(self.place.root).as_posix()
            match = _NAME.match(path.name)
            code = match[2].upper() if match else ""
            if found.kind != "image":
                yield Skip(found.reason or "a video", listing.shown(name))
            elif match is None or code not in _CODES:
                expected = f"KA.AN1.39, with {', '.join(_CODES)}"
                yield Rejection(name, "the name lacks the subject or the emotion", expected=expected)
            else:
                columns = {"identity": match[1].upper()}
                yield emotions().row(name, path, _CODES[code], columns=columns, where=name)

    def _folders(self) -> dict[str, pathlib.Path]:
        return locate.split_folders(self.place.root) or {"train": self.place.root}


def _any(root: pathlib.Path, pattern: str) -> bool:
    return any(_NAME.match(path.name) for path in locate.matches(root, pattern))
