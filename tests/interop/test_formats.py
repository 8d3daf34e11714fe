"""Every format there and back, bit by bit, and every mismatch told at once."""

import ml_dtypes
import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.interop import formats, official
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.keymap import hollow, shapes_of
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import TEXT, VISION

TINY = VISION["tiny-test"]
NO_TEXT = ("timm", True)  # timm has no text tower


def state_of(variant, *, text=False, dtype=np.float32):
    state = named_state(formats.official_shapes(variant, text=text))
    return {key: np.asarray(array, dtype) for key, array in state.items()}


def write(path, state, format_name="official", config=TINY):
    format_ = formats.of(config, format_name)
    save_arrays(path, format_.closed(format_.from_official(state)), metadata={})
    return path


def assert_same_bits(left, right):
    assert set(left) == set(right)
    for key in left:
        assert left[key].dtype == right[key].dtype
        assert left[key].tobytes() == right[key].tobytes(), key


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("format_name", "text"),
    [(name, text) for name in formats.FORMATS for text in (False, True) if (name, text) != NO_TEXT],
)
def test_there_and_back_is_bit_identical(tmp_path, format_name, text, dtype):
    state = state_of("tiny-test", text=text, dtype=dtype)
    path = write(tmp_path / "a.safetensors", state, format_name)
    assert_same_bits(formats.read(path, config=TINY), state)


@pytest.mark.parametrize("format_name", formats.FORMATS)
@pytest.mark.parametrize("variant", ["PE-Core-T16-384", "PE-Core-S16-384", "PE-Spatial-T16-512"])
def test_released_variants_there_and_back(tmp_path, variant, format_name):
    state = state_of(variant)
    path = write(tmp_path / "a.safetensors", state, format_name)
    assert_same_bits(formats.read(path, config=VISION[variant]), state)


@pytest.mark.long
@pytest.mark.parametrize("variant", ["PE-Core-B16-224", "PE-Core-L14-336", "PE-Lang-L14-448"])
@pytest.mark.parametrize("format_name", formats.FORMATS)
def test_large_variants_there_and_back(tmp_path, variant, format_name):
    text = variant in TEXT and format_name != "timm"
    state = state_of(variant, text=text)
    path = write(tmp_path / "a.safetensors", state, format_name)
    assert_same_bits(formats.read(path, config=VISION[variant]), state)


@pytest.mark.parametrize("variant", VISION)
def test_every_variant_maps_both_ways_by_shapes_alone(variant):
    config = VISION[variant]
    for name, format_ in formats.FAMILIES[config.family].items():
        shapes = formats.official_shapes(variant, text=variant in TEXT and name != "timm")
        # One block: all have the same names.
        shapes = {key: s for key, s in shapes.items() if "resblocks" not in key or "resblocks.0." in key}
        there = format_.from_official(hollow(shapes))
        assert formats.detect(there, where="", config=config) == name
        back = shapes_of(format_.to_official(there))
        assert {key: shape for key, shape in back.items() if key != official.MASK} == shapes


def test_a_vision_tower_alone_is_read_with_and_without_its_prefix(tmp_path):
    state = state_of("tiny-test")
    bare = {key.removeprefix("visual."): array for key, array in state.items()}
    for i, arrays in enumerate((state, bare)):
        save_arrays(tmp_path / f"{i}.safetensors", arrays, metadata={})
        assert_same_bits(formats.read(tmp_path / f"{i}.safetensors", config=TINY), state)


def test_another_variant_is_named(tmp_path):
    path = write(tmp_path / "a.safetensors", state_of("PE-Spatial-T16-512"), "timm")
    with pytest.raises(UserError) as error:
        formats.read(path, config=VISION["PE-Core-T16-384"])
    assert "checkpoint of PE-Spatial-T16-512 given for PE-Core-T16-384" in str(error.value)


def test_another_format_and_no_checkpoint_of_ours(tmp_path):
    path = write(tmp_path / "a.safetensors", state_of("tiny-test"), "timm")
    with pytest.raises(UserError, match="expected official, found timm"):
        formats.read(path, config=TINY, format_name="official")
    save_arrays(tmp_path / "b.safetensors", {"fc.weight": np.zeros(3)}, metadata={})
    with pytest.raises(UserError, match=r"not a checkpoint of a vision encoder.*fc\.weight"):
        formats.read(tmp_path / "b.safetensors", config=TINY)


def test_every_mismatch_is_in_one_message_with_its_nearest_name(tmp_path):
    state = state_of("tiny-test")
    for i in range(3):
        del state[f"visual.transformer.resblocks.{i}.ln_2.bias"]
    state["visual.ln_poste.weight"] = state.pop("visual.ln_post.weight")
    state["visual.proj"] = state["visual.proj"].T
    save_arrays(tmp_path / "a.safetensors", state, metadata={})
    with pytest.raises(UserError) as error:
        formats.read(tmp_path / "a.safetensors", config=TINY)
    message = str(error.value)
    assert "4 missing" in message
    assert "visual.transformer.resblocks.{0..2}.ln_2.bias" in message
    assert "1 not known (visual.ln_poste.weight nearest visual.ln_post.weight)" in message
    assert "visual.proj is 24x32 not 32x24" in message
    assert "\n" not in message


def test_a_damaged_text_tower_is_told_as_well(tmp_path):
    state = state_of("tiny-test", text=True)
    del state["text_projection"]
    save_arrays(tmp_path / "a.safetensors", state, metadata={})
    with pytest.raises(UserError, match=r"1 missing \(text_projection\)"):
        formats.read(tmp_path / "a.safetensors", config=TINY)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_infinities_are_told_with_their_places(tmp_path, dtype):
    state = state_of("tiny-test", dtype=dtype)
    state["visual.proj"][0, :2] = np.inf
    state["visual.ln_pre.bias"][3] = np.nan
    path = write(tmp_path / "a.safetensors", state)
    name = np.dtype(dtype).name
    with pytest.raises(UserError) as error:
        formats.read(path, config=TINY)
    assert f"visual.proj (2 of 768, {name})" in str(error.value)
    assert f"visual.ln_pre.bias (1 of 32, {name})" in str(error.value)


def test_a_timm_head_with_a_bias_is_refused(tmp_path):
    format_ = formats.FORMATS["timm"]
    arrays = format_.from_official(state_of("tiny-test"))
    arrays["head.bias"] = np.full_like(arrays["head.bias"], 0.5)
    save_arrays(tmp_path / "a.safetensors", arrays, metadata={})
    with pytest.raises(UserError, match="the head's bias is not zero"):
        formats.read(tmp_path / "a.safetensors", config=TINY)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "model.", "state_dict.model."]
)
@pytest.mark.parametrize("format_name", ["official", "timm", "open_clip"])
def test_what_wrappers_add_to_the_names_is_removed(tmp_path, format_name, prefix):
    state = state_of("tiny-test", text=format_name == "open_clip")
    plain = formats.FORMATS[format_name].from_official(state)
    save_arrays(tmp_path / "a.safetensors", {prefix + k: v for k, v in plain.items()}, metadata={})
    assert_same_bits(formats.read(tmp_path / "a.safetensors", config=TINY), state)


@pytest.mark.parametrize("part", ["_orig_mod", "module", "_fsdp_wrapped_module"])
def test_a_wrapper_of_one_block_is_removed(tmp_path, part):
    state = state_of("tiny-test")
    wrapped = {key.replace("resblocks.1.", f"resblocks.1.{part}."): array for key, array in state.items()}
    save_arrays(tmp_path / "a.safetensors", wrapped, metadata={})
    assert_same_bits(formats.read(tmp_path / "a.safetensors", config=TINY), state)


@pytest.mark.parametrize("bias", [0.0, 0.5])
@pytest.mark.parametrize("classes", [None, 7, 24])
@pytest.mark.parametrize(("format_name", "trunk"), [("timm", ""), ("open_clip", "visual.trunk.")])
def test_another_head_is_dropped_for_the_projection_of_a_named_encoder(
    tmp_path, format_name, trunk, classes, bias
):
    state = state_of("tiny-test", text=format_name == "open_clip")
    arrays = dict(formats.FORMATS[format_name].from_official(state))
    weight, offset = arrays.pop(f"{trunk}head.weight"), arrays.pop(f"{trunk}head.bias")
    if classes is not None:
        arrays[f"{trunk}head.weight"] = np.resize(weight, (classes, weight.shape[1])) + np.float32(0.5)
        arrays[f"{trunk}head.bias"] = np.resize(offset, classes) + np.float32(bias)
    save_arrays(tmp_path / "a.safetensors", arrays, metadata={})
    if classes != 24 or bias:  # with 24 rows and no bias it may be the projection
        with pytest.raises(UserError, match="--head_of=ENCODER"):
            formats.read(tmp_path / "a.safetensors", config=TINY)
    base = write(tmp_path / "base.safetensors", state_of("tiny-test"))
    assert_same_bits(formats.read(tmp_path / "a.safetensors", config=TINY, head_of=base), state)
