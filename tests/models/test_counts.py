"""Parameter counts of every variant, from abstract shapes alone."""

import jax
import jax.numpy as jnp
import pytest

from softbio_jax.interop import formats, official, stacking
from softbio_jax.interop.keymap import hollow, shapes_of
from softbio_jax.models.config import TEXT, VISION
from softbio_jax.models.text import TextEncoder
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import count, flatten

# variant: vision, of which pool, of which projection (measured on the official code)
VISION_COUNTS = {
    "PE-Core-T16-384": (6_140_544, 444_672, 98_304),
    "PE-Core-S16-384": (23_782_656, 1_774_080, 196_608),
    "PE-Core-B16-224": (93_672_960, 7_087_104, 786_432),
    "PE-Core-L14-336": (317_151_232, 12_595_200, 1_048_576),
    "PE-Core-G14-448": (1_882_032_640, 28_329_984, 1_966_080),
    "PE-Lang-L14-448": (291_415_040, 0, 0),
    "PE-Lang-L14-448-Tiling": (291_415_040, 0, 0),
    "PE-Lang-G14-448": (1_740_922_624, 0, 0),
    "PE-Lang-G14-448-Tiling": (1_740_922_624, 0, 0),
    "PE-Spatial-T16-512": (5_683_200, 0, 0),
    "PE-Spatial-S16-512": (21_983_232, 0, 0),
    "PE-Spatial-B16-512": (86_433_792, 0, 0),
    "PE-Spatial-L14-448": (303_964_160, 0, 0),
    "PE-Spatial-G14-448": (1_851_887_104, 0, 0),
}
# variant: text tower, and both towers with logit_scale
TEXT_COUNTS = {
    "PE-Core-T16-384": (63_405_056, 69_545_601),
    "PE-Core-S16-384": (63_405_056, 87_187_713),
    "PE-Core-B16-224": (353_986_560, 447_659_521),
    "PE-Core-L14-336": (353_986_560, 671_137_793),
    "PE-Core-G14-448": (537_233_920, 2_419_266_561),
}


def abstract_tower(variant, tail=0):
    config = VISION[variant]
    image = jax.ShapeDtypeStruct((1, config.patch_size, 2 * config.patch_size, 3), jnp.float32)
    return jax.eval_shape(VisionEncoder(config, tail=tail).init, jax.random.key(0), image)["params"]


def abstract_text(variant):
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    return jax.eval_shape(TextEncoder(TEXT[variant]).init, jax.random.key(0), ids)["params"]


def test_the_table_names_every_released_variant():
    assert set(VISION_COUNTS) == {name for name in VISION if name.startswith("PE-")}


@pytest.mark.parametrize("variant", VISION_COUNTS)
def test_vision_counts(variant):
    params = abstract_tower(variant)
    pool, projection = (count({name: params.get(name, {})}) for name in ("pool", "proj"))
    assert (count(params), pool, projection) == VISION_COUNTS[variant]


@pytest.mark.parametrize("variant", TEXT_COUNTS)
def test_text_counts(variant):
    text = count(abstract_text(variant))
    logit_scale = 1
    whole = VISION_COUNTS[variant][0] + text + logit_scale
    assert (text, whole) == TEXT_COUNTS[variant]


@pytest.mark.parametrize("variant", VISION_COUNTS)
def test_the_official_layout_fills_exactly_the_towers_leaves(variant):
    ours = official.OFFICIAL.forward(hollow(formats.official_shapes(variant, text=False)))
    expected = flatten(abstract_tower(variant))
    assert _stacked_shapes(shapes_of(ours)) == shapes_of(expected)


@pytest.mark.parametrize("variant", TEXT_COUNTS)
def test_the_official_layout_fills_exactly_the_text_towers_leaves(variant):
    ours = official.OFFICIAL.forward(hollow(official.text_shapes(TEXT[variant])))
    expected = flatten({"text": abstract_text(variant)}) | {"logit_scale": jnp.zeros(())}
    assert _stacked_shapes(shapes_of(ours)) == shapes_of(expected)


@pytest.mark.parametrize("tail", [0, 1, 3])
def test_a_tail_of_any_length_is_filled(tail):
    shapes = formats.official_shapes("tiny-test", text=False)
    ours = stacking.stack(official.OFFICIAL.forward(hollow(shapes)), tail=tail)
    assert shapes_of(ours) == shapes_of(flatten(abstract_tower("tiny-test", tail)))


def _stacked_shapes(shapes):
    """Shapes after stacking, without the arrays: the largest tower would take 7 GB."""
    result, layers = {}, {}
    for path, shape in shapes.items():
        tower, _, rest = path.partition("/blocks/")
        if not rest:
            result[path] = shape
            continue
        stacked = f"{tower}/trunk/{rest.partition('/')[2]}"
        layers[stacked] = layers.get(stacked, 0) + 1
        assert result.get(stacked, (0, *shape))[1:] == shape
        result[stacked] = (layers[stacked], *shape)
    return result
