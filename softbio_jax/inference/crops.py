"""How the faces of a model's training images were cut, so that predictions cut alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from softbio_jax.console import Console
from softbio_jax.ranges import Name, Range, checked

KEY = "training"  # its name in the section preprocessing.crop of config.json
Margin = Annotated[float, Range(0, 10)]


class Crop(TypedDict):
    """One set's: `cut` in words, and the margin on every side as a fraction of the face's side."""

    cut: str
    margin: float | None


Crops = Mapping[str, Crop]  # by the name of the training set


def from_json(value: Any, where: str = "preprocessing.crop.training") -> dict[str, Crop]:
    """Returns the crops in the contents of a JSON file; None and {} are unknown.

    Raises:
      ValueError: something else.
    """
    found: dict[str, Crop] = {}
    for name, entry in checked(Mapping[Annotated[str, Name()], Any], value or {}, where).items():
        place = f"{where}.{name}"
        cut = checked(Annotated[str, Name()], entry["cut"], f"{place}.cut")
        margin = checked(Margin | None, entry.get("margin"), f"{place}.margin")
        found[name] = Crop(cut=cut, margin=margin)
    return found


def margin(crops: Crops) -> float | None:
    """Returns the margin of the training crops; None where none is known, or several are."""
    known = {crop["margin"] for crop in crops.values() if crop["margin"] is not None}
    return known.pop() if len(known) == 1 else None


def chosen(given: float | None, crops: Crops, console: Console) -> float:
    """Returns the margin for predictions, the training crops' unless another is given, and says which.

    Args:
      given: the user's choice; None: that of the training crops, 0 where it is not known.
      crops: of the model.
      console: where it is said.
    """
    trained = margin(crops)
    if given is None:
        if trained:
            console.say(f"margin {trained:g} around faces, as in the training crops ({', '.join(crops)})")
        return trained or 0.0
    if trained is not None and given != trained:
        console.say(f"note: margin {given:g} around faces; the training crops have {trained:g}")
    return given
