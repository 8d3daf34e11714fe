"""Parameter counts of every variant, from abstract shapes alone."""

import functools

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
# Of timm's models; with registers, and the row of the class token's position, which timm has not.
VISION_COUNTS |= {
    "dinov2-s14": (22_056_192, 0, 0),
    "dinov2-b14": (86_579_712, 0, 0),
    "dinov2-l14": (304_367_616, 0, 0),
    "dinov2-g14": (1_136_479_232, 0, 0),
    "dinov2-s14-reg4": (22_057_344 + 384, 0, 0),
    "dinov2-b14-reg4": (86_582_016 + 768, 0, 0),
    "dinov2-l14-reg4": (304_370_688 + 1024, 0, 0),
    "dinov2-g14-reg4": (1_136_483_840 + 1536, 0, 0),
    # With the bias of the keys, which is 0 and which timm has not.
    "dinov3-s16": (21_596_160 + 12 * 384, 0, 0),
    "dinov3-s16plus": (28_692_480 + 12 * 384, 0, 0),
    "dinov3-b16": (85_659_648 + 12 * 768, 0, 0),
    "dinov3-l16": (303_128_576 + 24 * 1024, 0, 0),
    "dinov3-h16plus": (840_591_360 + 32 * 1280, 0, 0),
    "clip-b32": (87_849_216, 0, 393_216),
    "clip-b16": (86_192_640, 0, 393_216),
    "clip-l14": (303_966_208, 0, 786_432),
    "clip-l14-336": (304_293_888, 0, 786_432),
}
VISION_COUNTS |= {
    "siglip2-b32-256": (94_552_320, 7_087_104, 0),
    "siglip2-b16-224": (92_884_224, 7_087_104, 0),
    "siglip2-b16-256": (92_930_304, 7_087_104, 0),
    "siglip2-b16-384": (93_176_064, 7_087_104, 0),
    "siglip2-b16-512": (93_520_128, 7_087_104, 0),
    "siglip2-l16-256": (315_956_224, 12_595_200, 0),
    "siglip2-l16-384": (316_283_904, 12_595_200, 0),
    "siglip2-l16-512": (316_742_656, 12_595_200, 0),
    "siglip2-so400m14-224": (427_680_704, 15_238_352, 0),
    "siglip2-so400m14-378": (428_225_600, 15_238_352, 0),
    "siglip2-so400m16-256": (427_888_064, 15_238_352, 0),
    "siglip2-so400m16-384": (428_256_704, 15_238_352, 0),
    "siglip2-so400m16-512": (428_772_800, 15_238_352, 0),
    "siglip2-g16-256": (1_163_168_256, 28_329_984, 0),
    "siglip2-g16-384": (1_163_659_776, 28_329_984, 0),
}
# variant: text tower, and both towers with logit_scale and any logit_bias
TEXT_COUNTS = {
    "PE-Core-T16-384": (63_405_056, 69_545_601),
    "PE-Core-S16-384": (63_405_056, 87_187_713),
    "PE-Core-B16-224": (353_986_560, 447_659_521),
    "PE-Core-L14-336": (353_986_560, 671_137_793),
    "PE-Core-G14-448": (537_233_920, 2_419_266_561),
    # The totals of OpenAI's models.
    "clip-b32": (63_428_096, 151_277_313),
    "clip-b16": (63_428_096, 149_620_737),
    "clip-l14": (123_650_304, 427_616_513),
    "clip-l14-336": (123_650_304, 427_944_193),
    # Of transformers' models.
    "siglip2-b16-224": (282_303_744, 375_187_970),
    "siglip2-l16-256": (565_570_560, 881_526_786),
    "siglip2-so400m14-224": (707_782_896, 1_135_463_602),
    "siglip2-g16-256": (708_225_648, 1_871_393_906),
}


@functools.cache
def abstract_tower(variant, tail=0):
    config = VISION[variant]
    image = jax.ShapeDtypeStruct((1, config.patch_size, 2 * config.patch_size, 3), jnp.float32)
    return jax.eval_shape(VisionEncoder(config, tail=tail).init, jax.random.key(0), image)["params"]


@functools.cache
def abstract_text(variant):
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    return jax.eval_shape(TextEncoder(TEXT[variant]).init, jax.random.key(0), ids)["params"]


def test_the_table_names_every_released_variant():
    # Those with another activation have the same parameters.
    alike = {name.removesuffix("-gelu") for name in VISION if not name.startswith("tiny-")}
    assert set(VISION_COUNTS) == alike


@pytest.mark.parametrize("variant", VISION_COUNTS)
def test_vision_counts(variant):
    params = abstract_tower(variant)
    pool, projection = (count({name: params.get(name, {})}) for name in ("pool", "proj"))
    assert (count(params), pool, projection) == VISION_COUNTS[variant]


@pytest.mark.parametrize("variant", TEXT_COUNTS)
def test_text_counts(variant):
    text = count(abstract_text(variant))
    scalars = 1 + TEXT[variant].logit_bias
    whole = VISION_COUNTS[variant][0] + text + scalars
    assert (text, whole) == TEXT_COUNTS[variant]


@pytest.mark.parametrize("variant", VISION_COUNTS)
def test_the_official_layout_fills_exactly_the_towers_leaves(variant):
    ours = official.OFFICIAL.forward(hollow(formats.official_shapes(variant, text=False)))
    expected = flatten(abstract_tower(variant))
    assert _stacked_shapes(shapes_of(ours)) == shapes_of(expected)


@pytest.mark.parametrize("variant", TEXT_COUNTS)
def test_the_official_layout_fills_exactly_the_text_towers_leaves(variant):
    ours = official.OFFICIAL.forward(hollow(official.text_shapes(TEXT[variant])))
    scalars = ("logit_scale", "logit_bias")[: 1 + TEXT[variant].logit_bias]
    expected = flatten({"text": abstract_text(variant)}) | dict.fromkeys(scalars, jnp.zeros(()))
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
