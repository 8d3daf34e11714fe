"""The features.json of prepared data, compared with what this package writes before TFDS reads it.

TFDS imports the module of every feature class that the file names. Prepared data come from other
people too, so the file may name only the classes of `FaceBuilder`, which are TFDS' own.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.safety import untrusted

FILE = "features.json"
_CLASS = "pythonClassName"
_OF_TFDS = "tensorflow_datasets.core.features"
# The class of a feature -> the key of its settings, and the keys that these have.
_FEATURES = {
    f"{_OF_TFDS}.scalar.Scalar": ("tensor", {"dtype", "encoding", "shape"}),
    f"{_OF_TFDS}.text_feature.Text": ("text", set[str]()),
    f"{_OF_TFDS}.image_feature.Image": ("image", {"dtype", "encodingFormat", "shape"}),
}
_DICT = f"{_OF_TFDS}.features_dict.FeaturesDict"


def check(directory: str | os.PathLike[str]) -> None:
    """Raises UserError unless the features of a prepared folder are those of this package's records."""
    path = pathlib.Path(directory) / FILE
    fix = "run scripts/prepare_data.py again"
    if not path.is_file():
        raise UserError("broken records", where=str(directory), expected=FILE, found="none", fix=fix)
    values = untrusted.read_json(path, wrong="not a list of features", fix=fix)
    found = _stranger(values)
    if found:
        raise UserError(
            "refused: features of another program",
            where=str(path),
            expected="images, texts and integers, as scripts/prepare_data.py writes them",
            found=found[:200],
            fix=fix,
        )


def _stranger(values: Mapping[str, Any]) -> str:
    """Returns what in the file this package does not write, or ""."""
    if values.get(_CLASS) != _DICT or values.keys() != {_CLASS, "featuresDict"}:
        return f"{values.get(_CLASS, 'no class')!r} with {', '.join(map(repr, values))}"
    inner = values["featuresDict"]
    if not isinstance(inner, Mapping) or inner.keys() != {"features"}:
        return repr(inner)
    if not isinstance(inner["features"], Mapping):
        return repr(inner["features"])
    for name, feature in inner["features"].items():
        known = isinstance(feature, Mapping) and isinstance(feature.get(_CLASS), str)
        key, allowed = _FEATURES.get(feature[_CLASS], ("", set())) if known else ("", set())
        if not key or feature.keys() != {_CLASS, key}:
            return f"{name}: {feature!r}"
        if not isinstance(feature[key], Mapping) or not feature[key].keys() <= allowed:
            return f"{name}: {feature[key]!r}"
        shape = feature[key].get("shape", {})
        if not isinstance(shape, Mapping) or not shape.keys() <= {"dimensions"}:
            return f"{name}: {shape!r}"
    return ""
