"""Which data set a copy in numbered folders is: the same numbers are other emotions in another one.

The numbers alone do not tell FER2013 from AffectNet without contempt. The images do: those of FER2013
and FER+ are grey, and those of ExpW are named by what was searched for.
"""

from __future__ import annotations

import itertools
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from softbio_jax.data import decode, listing
from softbio_jax.data.prepare import locate
from softbio_jax.errors import UserError

# Data set, numbers of its folders, whether its images are grey (None: any).
_NUMBERINGS: tuple[tuple[str, str, bool | None], ...] = (
    ("rafdb", "1234567", None),
    ("fer2013", "0123456", True),
    ("ferplus", "01234567", True),
    ("affectnet", "01234567", False),
    ("affectnet", "0123456", False),
    ("expw", "0123456", False),
)
_EXPW = "expw"
_ALIKE = {"fer2013", _EXPW}  # the same numbers are the same emotions
_EXPW_NAME = re.compile(r"[a-z]+(_[a-z]+)+_\d+(_\w+)?", re.IGNORECASE)  # angry_actor_104
_SAMPLE = 4  # images of each folder
_GREY = 4.0  # mean difference of the channels; the noise of a JPEG is below
_SIDE = 32


def check(dataset: str, splits: Iterable[pathlib.Path]) -> None:
    """Raises UserError if numbered folders and their images are those of another data set.

    Args:
      dataset: the data set as which they are read.
      splits: the folders around the numbered ones.
    """
    if dataset not in {name for name, *_ in _NUMBERINGS}:
        return
    folders = [inner for split in splits for inner in locate.subfolders(split) if inner.name.isdecimal()]
    numbers = "".join(sorted({folder.name for folder in folders}))
    grey, named = _look(folders)
    found = [
        (name, tone)
        for name, listed, tone in _NUMBERINGS
        if listed == numbers and (grey is None or tone is None or tone == grey)
    ]
    likely = [name for name, _ in found]
    if named and _EXPW in likely:
        likely = [_EXPW]
    if not likely or dataset in likely or {dataset, *likely} <= _ALIKE:
        return
    tones = {True: "grey ", False: "colour ", None: ""}
    own = " or ".join(
        f"{tones[tone]}images in folders {listed[0]} to {listed[-1]}"
        for name, listed, tone in _NUMBERINGS
        if name == dataset
    )
    words = " named as ExpW's" if likely == [_EXPW] and named else ""
    raise UserError(
        "emotions that another data set numbers so",
        where=str(folders[0].parent),
        expected=f"{own}, as {dataset} has",
        found=f"{tones[grey]}images{words} in folders {numbers[0]} to {numbers[-1]}",
        fix=f"{' or '.join(f'--dataset={name}' for name in likely)}; other copies: --dataset=folder"
        f" --task=emotion --values=emotion:{numbers[0]}=CLASS,emotion:{numbers[1]}=CLASS,...",
    )


def _look(folders: Sequence[pathlib.Path]) -> tuple[bool | None, bool]:
    """Returns whether most of some images are grey, None without any, and whether most have ExpW's names."""
    grey, named = [], []
    for folder in folders:
        images = (found.path for found in listing.walk(folder) if found.kind == "image")
        for path in map(pathlib.Path, itertools.islice(images, _SAMPLE)):
            named.append(_EXPW_NAME.fullmatch(path.stem) is not None)
            try:
                image = decode.decode(path.read_bytes(), size=_SIDE)
            except (decode.UndecodableImage, OSError):  # reported when it is prepared
                continue
            grey.append(float(np.ptp(image.astype(int), axis=2).mean()) <= _GREY)
    return (2 * sum(grey) > len(grey) if grey else None), 2 * sum(named) > len(named)
