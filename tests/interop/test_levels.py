"""Encoders below levels and wrappers of training programs, in safetensors files of every format."""

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.interop import formats
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import VISION

CONFIG = VISION["tiny-test"]
BOTH = named_state(formats.official_shapes("tiny-test", text=True))
VISION_ONLY = {key: array for key, array in BOTH.items() if key.startswith("visual.")}


def written(path, name, prefix="", **others):
    """Saves an encoder in a format, every name below a prefix; returns what reading must give."""
    state = VISION_ONLY if name == "timm" else BOTH
    format_ = formats.FORMATS[name]
    arrays = format_.closed(format_.from_official(state))
    save_arrays(path, {prefix + key: array for key, array in arrays.items()} | others, metadata={})
    return state


@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "student.", "teacher.backbone.", "model.ema."]
)
def test_wrappers_and_levels_in_every_format(tmp_path, name, prefix):
    state = written(tmp_path / "a.safetensors", name, prefix)
    read = formats.read(tmp_path / "a.safetensors", config=CONFIG)
    assert set(read) == set(state)
    assert all(np.array_equal(read[key], state[key]) for key in state)


@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_one_array_under_two_names_in_every_format(tmp_path, name, prefix):
    format_ = formats.FORMATS[name]
    key = next(key for key in format_.from_official(VISION_ONLY) if "class" in key or "cls" in key)
    written(tmp_path / "a.safetensors", name, "", **{prefix + key: np.ones(3)})
    with pytest.raises(UserError, match="two names of one array") as error:
        formats.read(tmp_path / "a.safetensors", config=CONFIG)
    pairs = (f"{key} and {prefix}{key}", f"{prefix}{key} and {key}")
    assert any(f"found {pair}" in str(error.value) for pair in pairs)


def test_the_average_of_torchs_averaged_model(tmp_path):
    written(tmp_path / "a.safetensors", "timm", "module.", n_averaged=np.array(7))
    assert set(formats.read(tmp_path / "a.safetensors", config=CONFIG)) == set(VISION_ONLY)


def test_a_level_of_another_name_is_suggested_and_read(tmp_path):
    path = tmp_path / "a.safetensors"
    written(path, "timm", "lit.tower.", **{"criterion.weight": np.ones(2)})
    with pytest.raises(UserError, match=f"fix: give {path}:lit.tower"):
        formats.read(path, config=CONFIG)
    read = formats.read(f"{path}:lit.tower", config=CONFIG)
    assert set(read) == set(VISION_ONLY)


def test_weights_of_integers_are_refused(tmp_path):
    state = VISION_ONLY | {"visual.proj": VISION_ONLY["visual.proj"].astype(np.int8)}
    save_arrays(tmp_path / "a.safetensors", state, metadata={})
    with pytest.raises(UserError, match=r"not floating-point.*visual\.proj.*found int8"):
        formats.read(tmp_path / "a.safetensors", config=CONFIG)
